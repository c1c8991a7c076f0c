"""Passes that add a file beside each shard."""
