"""Crops and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

import vea  # noqa: F401  (sets NO_ALBUMENTATIONS_UPDATE before the next import)
from vea.data.loading.order import KeyedUniforms
from vea.data.views.person import Window

CROP_SCALE = 1.0  # side of a face's crop over the longer side of its box; FER2013: 1.005 (median of 296 faces)
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


def scale_for(windows: Sequence[Window], *, size: int) -> float:
    """Returns the smallest scale of a picture at which every window still has ``size`` pixels a side, at most 1."""
    return min(1.0, max(size / max(1, min(x1 - x0, y1 - y0)) for x0, y0, x1, y1 in windows))


def scaled_window(window: Window, *, width: int, image: np.ndarray) -> Window:
    """Returns the window of a picture of ``width`` pixels in those of ``image``, the same decoded at a scale.

    The scale is one over a whole number: the last column and row of ``image`` may stand for fewer pixels.
    """
    factor = round(width / image.shape[1])
    height, limit = image.shape[:2]
    x0, y0, x1, y1 = (round(edge / factor) for edge in window)
    return x0, y0, min(x1, limit), min(y1, height)


def square_around(box: Sequence[float], *, scale: float = CROP_SCALE) -> Window:
    """Returns the square around a face's box, which may reach beyond the picture."""
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * scale))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    return left, top, left + side, top + side


def cut(image: np.ndarray, window: Window) -> np.ndarray:
    """Returns the pixels of a window; beyond the border the picture's edge is repeated."""
    x0, y0, x1, y1 = window
    height, width = image.shape[:2]
    if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
        return image[y0:y1, x0:x1]
    rows, columns = np.clip(np.arange(y0, y1), 0, height - 1), np.clip(np.arange(x0, x1), 0, width - 1)
    return image[rows[:, None], columns]


def cut_turned(image: np.ndarray, window: Window, turn: float) -> np.ndarray:
    """Returns the pixels of a square window, turned about its middle so that what leans by ``turn`` degrees is upright.

    ``turn`` counts clockwise as one sees the picture. Nothing is scaled; quarter turns move pixels and mix none.
    """
    if not turn:
        return cut(image, window)
    x0, y0, x1, _ = window
    side, angle = x1 - x0, math.radians(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, sin], [-sin, cos]])
    half = (side - 1) / 2
    shift = half - linear @ np.array([x0 + half, y0 + half])
    matrix = np.concatenate([linear, shift[:, None]], 1)
    return cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def crop_square(
    image: np.ndarray, box: Sequence[float], *, size: int, scale: float = CROP_SCALE, turn: float = 0.0
) -> np.ndarray:
    """Returns (size, size, 3): the square around a box; beyond the border the picture's edge is repeated.

    What leans by ``turn`` degrees is turned back, as in ``cut_turned``.
    """
    crop = cut_turned(image, square_around(box, scale=scale), turn)
    shrink = crop.shape[0] > size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def placed_boxes(
    boxes: Sequence[Sequence[float]], window: Window, *, side: int, flip: bool, degrees: float
) -> np.ndarray:
    """Returns where boxes (M, 4) of an image are in a view of ``window``, float64 (M, 4), in pixels of the view.

    The view is ``side`` pixels wide, mirrored where ``flip``, then turned by ``degrees`` about its centre; of a turned
    box the upright box around it is returned. Parts outside of the view stay: coordinates may be negative.
    """
    found = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    x0, y0, x1, y1 = window
    scale = np.array([side / (x1 - x0), side / (y1 - y0)] * 2)
    found = (found - np.array([x0, y0, x0, y0])) * scale
    if flip:
        found = np.stack([side - found[:, 2], found[:, 1], side - found[:, 0], found[:, 3]], 1)
    if degrees:
        corners = found[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (M, 4, 2)
        matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), degrees, 1.0)
        corners = corners @ matrix[:, :2].T + matrix[:, 2]
        found = np.concatenate([corners.min(1), corners.max(1)], 1)
    return found
