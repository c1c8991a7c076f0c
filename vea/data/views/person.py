"""The person view, and the head: which rectangle of an image shows its most prominent person.

Boxes come with the data or from an enrichment pass, never from a detector inside the training loop; they are in pixels
of the image as displayed, most prominent first (``vea.data.sample.Sample``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vea.data.loading.order import KeyedUniforms

MARGIN = 0.1  # how much larger than the box its crop is, so that a tight box does not cut hair and hands
SHIFT = 0.05  # training: largest move of the crop's centre, as a share of the box
HEAD = 0.62  # side of the head's square over the shorter side of the person's box
MIN_SIDE = 4  # pixels; a smaller crop shows nobody

Window = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 are outside


def person_window(
    boxes: Sequence[Sequence[float]], *, width: int, height: int, numbers: KeyedUniforms | None = None
) -> Window | None:
    """Returns the crop around ``boxes[0]``, clipped to the image, or None where nobody is found.

    With ``numbers`` (training) the side is 1 to ``1 + 2 * MARGIN`` times the box's and the centre moves by up to
    ``SHIFT``; without one it is ``1 + MARGIN`` times, centred. None as well for a box outside the image, of less than
    ``MIN_SIDE`` pixels, or with numbers that are not finite.
    """
    factor, move_x, move_y = 1 + MARGIN, 0.0, 0.0
    if numbers is not None:
        first, second, third = numbers.random(3)
        factor, move_x, move_y = 1 + 2 * MARGIN * first, SHIFT * (2 * second - 1), SHIFT * (2 * third - 1)
    if not boxes or len(boxes[0]) != 4 or not np.isfinite(boxes[0]).all():
        return None
    left, top, right, bottom = (float(number) for number in boxes[0])
    box_width, box_height = right - left, bottom - top
    if box_width <= 0 or box_height <= 0:
        return None
    centre_x = (left + right) / 2 + move_x * box_width
    centre_y = (top + bottom) / 2 + move_y * box_height
    x0 = max(0, round(centre_x - factor * box_width / 2))
    y0 = max(0, round(centre_y - factor * box_height / 2))
    x1 = min(width, round(centre_x + factor * box_width / 2))
    y1 = min(height, round(centre_y + factor * box_height / 2))
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= MIN_SIDE else None


def head_window(boxes: Sequence[Sequence[float]], *, width: int, height: int) -> Window | None:
    """Returns the square at the top of ``boxes[0]``, centred on it, or None where nobody is found.

    A rule of thumb for data with person boxes and no face boxes; it fits the drawn scenes, whose people face us.
    """
    if person_window(boxes, width=width, height=height) is None:
        return None
    left, top, right, bottom = (float(number) for number in boxes[0])
    side, centre = HEAD * min(right - left, bottom - top), (left + right) / 2
    x0, y0 = max(0, round(centre - side / 2)), max(0, round(top))
    x1, y1 = min(width, round(centre + side / 2)), min(height, round(top + side))
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= MIN_SIDE else None
