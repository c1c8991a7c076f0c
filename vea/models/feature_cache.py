"""Patch features of frozen encoders: pooled, and kept so that a picture is encoded once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from vea.storage import atomic


def pool_patches(features: Tensor, count: int | None) -> Tensor:
    """Returns (B, count, F) of (B, N, F): neighbours averaged, in two dimensions where both numbers are squares."""
    batch, given, width = features.shape
    if count is None or count >= given:
        return features
    old, new = math.isqrt(given), math.isqrt(count)
    if old * old == given and new * new == count:
        grid = features.transpose(1, 2).reshape(batch, width, old, old)
        return F.adaptive_avg_pool2d(grid, new).flatten(2).transpose(1, 2)
    return F.adaptive_avg_pool1d(features.transpose(1, 2), count).transpose(1, 2)


class KeptFeatures:
    """Features by key, in memory and, with a folder, in one small file each, which runs side by side may share."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._rows: dict[str, Tensor] = {}
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, keys: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Returns (B, N, F); ``make`` computes the rows of the places that nobody has computed yet."""
        missing = [i for i, key in enumerate(keys) if not self._known(key)]
        if missing:
            for i, row in zip(missing, make(missing)):
                self._rows[keys[i]] = row.half()
                if self.folder:  # whole or not at all, for a run beside this one may be reading
                    with atomic.new_file(self._path(keys[i])) as partial:
                        save_file({"features": self._rows[keys[i]].contiguous()}, partial)
        return torch.stack([self._rows[key].float() for key in keys])  # autocast on a CPU knows no half

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"

    def _known(self, key: str) -> bool:
        if key not in self._rows and self.folder and self._path(key).is_file():
            self._rows[key] = load_file(self._path(key))["features"]
        return key in self._rows
