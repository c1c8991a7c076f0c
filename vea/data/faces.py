"""Faces in a picture, by libfacedetection (the package yuface, an extra)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np

from vea.errors import VeaError

Box: TypeAlias = tuple[int, int, int, int]

DETECTION_SIDE = (320, 960)  # faces are missed in smaller pictures; larger ones are slow and no better


def face_detector(*, min_score: float = 0.6) -> Callable[[np.ndarray], list[tuple[Box, float]]]:
    """Returns a function from RGB uint8 (H, W, 3) to [(box, score)], largest face first (libfacedetection, by yuface).

    Raises:
        VeaError: the extra is not installed.
    """
    try:
        import yuface
    except ImportError:
        raise VeaError(
            "finding faces needs the package yuface: pip install 'vea[faces]', or pass face crops with "
            "detect_faces=False (--no-faces)"
        ) from None

    def detect(image: np.ndarray) -> list[tuple[Box, float]]:
        height, width = image.shape[:2]
        longest = max(height, width)
        factor = min(max(longest, DETECTION_SIDE[0]), DETECTION_SIDE[1]) / longest
        if factor != 1:
            small = max(1, round(width * factor)), max(1, round(height * factor))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        scores, boxes, _ = yuface.detect(np.ascontiguousarray(image[:, :, ::-1]), conf=min_score)
        found = []
        for score, (x, y, w, h) in zip(scores.tolist(), boxes.tolist(), strict=True):
            corners = [round(value / factor) for value in (x, y, x + w, y + h)]
            box = (max(0, corners[0]), max(0, corners[1]), min(width, corners[2]), min(height, corners[3]))
            if box[2] > box[0] and box[3] > box[1]:
                found.append((box, score / 100))
        return sorted(found, key=lambda face: (face[0][2] - face[0][0]) * (face[0][3] - face[0][1]), reverse=True)

    return detect
