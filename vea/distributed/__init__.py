"""Ranks: the runtime, collectives, stragglers and preemption."""
