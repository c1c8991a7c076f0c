"""The square crop around a face."""

from __future__ import annotations

import cv2
import numpy as np

from vea.faces.detect import Box

CROP_SCALE = 1.0  # side of the crop over the longer side of the face box; FER2013: 1.005 (median of 296 faces)


def crop_square(image: np.ndarray, box: Box, *, size: int, scale: float = CROP_SCALE) -> np.ndarray:
    """Returns (size, size, 3): the square around a box; beyond the border the picture's edge is repeated."""
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * scale))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    height, width = image.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    crop = image[rows[:, None], columns]
    shrink = side > size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
