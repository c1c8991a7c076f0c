"""Changes of colour, the one file that imports albumentations."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.config import AugmentConfig
from vea.data.views.decode import _reason
from vea.errors import VeaError


def _colour_changes(config: AugmentConfig) -> Any:
    """Returns the albumentations pipeline; its random state is set before each sample.

    In 2.0.8 ``Compose(seed=k)`` gives every transform the same stream and unseeded forked workers repeat each other;
    ``set_random_state`` before each sample cures both.
    """
    import albumentations

    changes: list[Any] = []
    if config.color_jitter:
        span = (max(0.0, 1 - config.color_jitter), 1 + config.color_jitter)
        changes.append(
            albumentations.ColorJitter(brightness=span, contrast=span, saturation=span, hue=(0.0, 0.0), p=1.0)
        )
    if config.grayscale:
        changes.append(albumentations.ToGray(p=config.grayscale))
    if config.erase:
        changes.append(albumentations.Erasing(fill="random", p=config.erase))
    return albumentations.Compose(changes)


def _rand_augment(policy: str, *, size: int) -> Callable[[Image.Image], Image.Image]:
    """Returns timm's RandAugment; raises ``VeaError`` when the policy string is not one."""
    from timm.data.auto_augment import rand_augment_transform

    if not policy.startswith("rand"):
        raise VeaError(f"augment.rand_augment: {policy!r} does not start with 'rand' (rand-m9-mstd0.5-inc1)")
    try:
        return rand_augment_transform(policy, {"translate_const": int(size * 0.45), "img_mean": (124, 116, 104)})
    except (AssertionError, ValueError, KeyError) as error:
        raise VeaError(f"augment.rand_augment: {policy!r} is not a policy timm knows ({_reason(error)})") from None


def _with_global_seed(
    policy: Callable[[Image.Image], Image.Image], view: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Returns the policy applied with its own seed: timm draws from the global generators, which are put back."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(int(generator.integers(2**63)))
    np.random.seed(int(generator.integers(2**32)))
    try:
        return np.array(policy(Image.fromarray(view)))
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
