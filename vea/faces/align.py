"""Which way up a face is, and the square around it; the geometry of crops is that of training (``geometry``).

A turn is counted in degrees, clockwise as one sees the picture, from the upright face: that of the line from the eye on
the left to the eye on the right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vea.data.views.geometry import CROP_SCALE, crop_square, cut_turned

__all__ = ["CROP_SCALE", "crop_square", "cut_turned", "eyes_tell", "turn_of", "turned_back"]

TILT = 20.0  # degrees up to which a face is left as it is: those that the networks learned from are tilted so much
PROFILE = 0.2  # distance of the eyes over the box's side below which their line says nothing


def eyes_tell(points: np.ndarray, box: Sequence[float]) -> bool:
    """Returns whether the eyes are far enough apart to say which way up the face is; args as of ``turn_of``."""
    across, down = (points[1] - points[0]).tolist()
    return math.hypot(across, down) >= PROFILE * max(box[2] - box[0], box[3] - box[1])


def turn_of(points: np.ndarray, box: Sequence[float]) -> float:
    """Returns by how many degrees a face is turned, -180 to 180; 0 where it is tilted by ``TILT`` at most.

    So is a tilt from a quarter turn: a photograph that was turned by quarters gives the crop that it gave before.

    Args:
        points: (5, 2) x, y in pixels: the face's right eye (left in the picture), left eye, nose, corners of the mouth.
        box: x0, y0, x1, y1 of the face.
    """
    if not eyes_tell(points, box):
        return 0.0
    across, down = (points[1] - points[0]).tolist()
    angle = math.degrees(math.atan2(down, across))
    quarter = 90.0 * round(angle / 90)
    turn = angle if abs(angle - quarter) > TILT else quarter
    return -180.0 if turn == 180 else turn


def turned_back(points: np.ndarray, quarters: int, *, width: float, height: float) -> np.ndarray:
    """Returns points (N, 2) of ``np.rot90(image, quarters)`` where they lie in the image of ``width`` by ``height``."""
    x, y = points[:, 0], points[:, 1]
    return np.stack([(x, y), (width - y, x), (width - x, height - y), (y, height - x)][quarters % 4], 1)
