"""Pictures of a pretraining run: rows of reconstructions, and matrices as heat."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

PICTURE_SIDE = 112  # least side of a cell in pixels
MATRIX_SIDE = 320  # least side of a matrix in pixels


def _enlarge(picture: np.ndarray, *, least: int) -> np.ndarray:
    factor = max(1, math.ceil(least / picture.shape[1]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def grid(columns: list[Tensor], *, gap: int = 4) -> np.ndarray:
    """Returns one uint8 picture (H, W, 3): samples as rows, ``columns`` (B, 3, h, w) side by side."""
    cells = [
        [_enlarge(image.permute(1, 2, 0).numpy(), least=PICTURE_SIDE) for image in samples] for samples in zip(*columns)
    ]
    side = cells[0][0].shape[0]
    canvas = np.full((len(cells) * (side + gap) - gap, len(columns) * (side + gap) - gap, 3), 255, dtype=np.uint8)
    for row, line in enumerate(cells):
        for column, cell in enumerate(line):
            top, left = row * (side + gap), column * (side + gap)
            canvas[top : top + side, left : left + side] = cell
    return canvas


def heat_map(matrix: Tensor, *, limit: float) -> np.ndarray:
    """Returns a uint8 picture (H, W, 3) of values from -limit (blue) over 0 (white) to limit (red)."""
    import matplotlib

    scaled = matrix.float().numpy() / (2 * max(limit, 1e-12)) + 0.5
    colours = matplotlib.colormaps["RdBu_r"](scaled, bytes=True)[..., :3]
    return _enlarge(np.ascontiguousarray(colours), least=MATRIX_SIDE)
