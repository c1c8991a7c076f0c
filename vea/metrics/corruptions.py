"""Worse images: how far accuracy falls."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

CORRUPTIONS = ("blur", "noise", "jpeg", "brightness", "occlusion", "rotation")
STRENGTHS = (1, 2, 3, 4, 5)


def corrupt(image: np.ndarray, *, kind: str, strength: int, seed: int = 0) -> np.ndarray:
    """Returns uint8 (H, W, C) with one of ``CORRUPTIONS`` at strength 1 to 5 (after Hendrycks and Dietterich 2019).

    Blur and occlusion are relative to the side, so that 48 and 224 pixels suffer alike.
    """
    height, width = image.shape[:2]
    rng = np.random.default_rng(seed)
    if kind == "blur":
        return cv2.GaussianBlur(image, (0, 0), 0.008 * strength * min(height, width)).reshape(image.shape)
    if kind == "noise":
        return (image + rng.normal(0, 8 * strength, image.shape)).clip(0, 255).astype(np.uint8)
    if kind == "jpeg":
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, (50, 30, 20, 12, 6)[strength - 1]])[1]
        return cv2.imdecode(data, cv2.IMREAD_UNCHANGED).reshape(image.shape)  # type: ignore[union-attr]
    if kind == "brightness":
        return (image.astype(float) + (1 if rng.random() < 0.5 else -1) * 25 * strength).clip(0, 255).astype(np.uint8)
    if kind == "occlusion":
        side = int(0.1 * (strength + 1) * min(height, width))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        covered = image.copy()
        covered[top : top + side, left : left + side] = 128
        return covered
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.choice([-1, 1])) * 9 * strength, 1.0)
    return cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101).reshape(image.shape)


def corrupt_batch(images: Tensor, keys: list[str], *, kind: str, strength: int) -> Tensor:
    """Returns uint8 (B, C, H, W); what is drawn depends on a sample's key alone, so every model meets the same."""
    import zlib

    rows = [
        corrupt(np.ascontiguousarray(image), kind=kind, strength=strength, seed=zlib.crc32(key.encode()))
        for image, key in zip(images.cpu().permute(0, 2, 3, 1).numpy(), keys)
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous().to(images.device)
