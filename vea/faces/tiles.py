"""Panoramas: searched in windows that overlap, since as a whole their faces would be a few pixels wide."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vea.data.views.decode import PANORAMA, SEARCHED, TILE

OVERLAP = 0.25  # share of a window that the next one has too: a face is whole in one of them
MOST = 12  # windows of a picture; of a longer one each window is wider
SAME = 0.5  # share of the smaller box inside the larger one from which both are one face

Corners = tuple[int, int, int, int]


def windows(width: int, height: int) -> list[Corners]:
    """Returns the windows (x0, y0, x1, y1) in which a picture is searched: one, but for panoramas.

    A panorama is longer than ``PANORAMA`` times its shorter side and than what is searched at once; a window is
    ``TILE`` times as long as that side.
    """
    longer, shorter = max(width, height), min(width, height)
    if longer <= SEARCHED or longer <= PANORAMA * shorter:
        return [(0, 0, width, height)]
    # n windows of length l, each OVERLAP * l into the one before: (n - (n - 1) * OVERLAP) * l covers the whole
    length = max(TILE * shorter, longer / (MOST - (MOST - 1) * OVERLAP))
    count = math.ceil((longer - OVERLAP * length) / ((1 - OVERLAP) * length) - 1e-9)
    starts = np.linspace(0, longer - length, count)
    pairs = [(math.floor(start), min(longer, math.ceil(start + length))) for start in starts]
    return [(a, 0, b, height) if width > height else (0, a, width, b) for a, b in pairs]


def distinct(boxes: Sequence[Corners]) -> list[int]:
    """Returns the places of the boxes, larger ones first, without those that mostly lie in a larger one."""
    kept: list[int] = []
    area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    for place in sorted(range(len(boxes)), key=lambda k: area[k], reverse=True):
        x0, y0, x1, y1 = boxes[place]
        if all(
            max(0, min(x1, boxes[k][2]) - max(x0, boxes[k][0])) * max(0, min(y1, boxes[k][3]) - max(y0, boxes[k][1]))
            < SAME * area[place]
            for k in kept
        ):
            kept.append(place)
    return kept
