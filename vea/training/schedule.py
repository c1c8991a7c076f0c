"""Rates as pure functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from vea.config import TrainConfig


def peak_learning_rate(config: TrainConfig, *, global_batch_size: int) -> float:
    """Returns base_lr * global batch / 256 (MAE, appendix A.1): curves stay comparable across batch sizes."""
    return config.base_lr * global_batch_size / 256


def learning_rate(step: int, config: TrainConfig, *, global_batch_size: int) -> float:
    """Returns the rate of optimizer step ``step`` (0-based): linear warm-up, then half a cosine down to ``min_lr``."""
    peak = peak_learning_rate(config, global_batch_size=global_batch_size)
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.min_lr + (peak - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def ema_decay(step: int, decay: float) -> float:
    """Returns the averaging factor at ``step``: early weights are forgotten quickly, as in timm and TensorFlow."""
    return min(decay, (1 + step) / (10 + step))
