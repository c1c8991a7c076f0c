"""Masks that look where emotion is: salient patches are removed more often, the share that is removed stays exact.

After LEIA (arXiv 2304.10973), which masks emotion words more often, with the budget of its cousin eMLM: salient patches
are removed with probability k, the others with p = max(0, (r N - k n_s) / (N - n_s)). Here the others are drawn without
replacement, so that exactly the ratio r is removed in every picture; where k n_s does not fit the budget, k gives way.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def salient_patches(boxes: np.ndarray | Sequence[Sequence[float]], *, grid: int, side: int) -> np.ndarray:
    """Returns bool (grid * grid,): the patches that lie half in a box, or in which half of a box lies.

    Args:
        boxes: (M, 4) x0, y0, x1, y1 in pixels of a view; parts outside of it do not count.
        grid: patches a side.
        side: pixels a side.
    """
    found = np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0, side)
    edges = np.arange(grid + 1) * (side / grid)
    across, down = (
        np.clip(np.minimum(found[:, [last]], edges[1:]) - np.maximum(found[:, [first]], edges[:-1]), 0, None)
        for first, last in ((0, 2), (1, 3))
    )  # (M, grid) overlap of columns and rows, in pixels
    shared = down[:, :, None] * across[:, None]
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    least = np.minimum((side / grid) ** 2, area)[:, None, None] / 2
    return ((shared >= least) & (shared > 0)).any(0).ravel()


def salient_noise(
    noise: np.ndarray, chances: np.ndarray, salient: np.ndarray, *, probability: float, num_kept: int
) -> np.ndarray:
    """Returns (N,) float32 noise whose ``num_kept`` lowest patches stay; the order of the rest is that of ``noise``.

    Args:
        noise: (N,) uniform in [0, 1).
        chances: (N,) uniform in [0, 1), independent of ``noise``: a salient patch below ``probability`` is to go.
        salient: bool (N,).
        probability: k.
        num_kept: K; N - K patches go in every picture.
    """
    go = salient & (chances < probability)
    stay = salient & ~go
    # first those that are to stay, then the others, then those that are to go; within each by noise
    kept = np.argsort(noise + go.astype(np.float32) - stay.astype(np.float32), kind="stable")[:num_kept]
    changed = noise.astype(np.float32, copy=True)
    changed[kept] -= 1
    return changed


def salient_cells(saliency: np.ndarray, *, size: tuple[int, int], share: float) -> list[list[float]]:
    """Returns the boxes, in pixels of the picture, of the ``share`` of cells (G, G) with the highest saliency.

    ``saliency`` covers the whole picture; ``size`` is (width, height). A picture that could
    not be read has NaN and none.
    """
    rows, columns = saliency.shape
    if not np.isfinite(saliency).all():
        return []
    order = np.argsort(-saliency.ravel(), kind="stable")[: max(1, round(share * saliency.size))]
    wide, high = size[0] / columns, size[1] / rows
    return [[c * wide, r * high, (c + 1) * wide, (r + 1) * high] for r, c in (divmod(int(i), columns) for i in order)]
