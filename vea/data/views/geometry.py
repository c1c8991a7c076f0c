"""Crops and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.data.loading.order import KeyedUniforms
from vea.data.views.person import Window

_INTERPOLATION = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


def random_resized_window(
    numbers: KeyedUniforms, *, width: int, height: int, scale: Sequence[float], ratio: Sequence[float]
) -> Window:
    """Returns a crop of random area and aspect: torchvision's ``RandomResizedCrop`` (ten tries, then the centre)."""
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        area_share, aspect_share, x_share, y_share = numbers.random(4)
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_share)
        aspect = math.exp(low + (high - low) * aspect_share)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            x0, y0 = int(x_share * (width - w + 1)), int(y_share * (height - h + 1))
            return x0, y0, x0 + w, y0 + h
    w = max(1, min(width, round(height * ratio[1])))
    h = max(1, min(height, round(width / ratio[0])))
    x0, y0 = (width - w) // 2, (height - h) // 2
    return x0, y0, x0 + w, y0 + h


def eval_window(*, width: int, height: int, image_size: int, eval_crop: float) -> Window:
    """Returns the centre square of evaluation in original pixels.

    The same as resizing the short side to ``image_size / eval_crop`` and cropping the centre, in one resize. A crop
    that would have to be enlarged only because of ``eval_crop`` grows to ``image_size`` instead: a 48 x 48 face goes to
    a 48-pixel network untouched.
    """
    short = min(width, height)
    side = max(1, round(short * eval_crop), min(short, image_size))
    x0, y0 = (width - side) // 2, (height - side) // 2
    return x0, y0, x0 + side, y0 + side


def crop_resize(image: np.ndarray, window: Window, *, size: int, interpolation: str) -> np.ndarray:
    """Returns the window of the image at (size, size).

    OpenCV's linear and cubic kernels look at two and four pixels however many they skip. So shrinking by more than two
    averages areas, and from 1.2 on linear stands in for cubic: nearer to Pillow's anti-aliased bicubic by three dB, and
    faster (benchmarks/resize.py).
    """
    x0, y0, x1, y1 = window
    crop = image[y0:y1, x0:x1]
    if crop.shape[:2] == (size, size):
        return np.ascontiguousarray(crop)
    method = _INTERPOLATION[interpolation]
    if max(x1 - x0, y1 - y0) > 2 * size:
        method = cv2.INTER_AREA
    elif method == cv2.INTER_CUBIC and min(x1 - x0, y1 - y0) > 1.2 * size:
        method = cv2.INTER_LINEAR
    return cv2.resize(crop, (size, size), interpolation=method)
