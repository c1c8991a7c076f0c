"""Which face of this frame is whose of the last ones: tracks by box overlap and by looks, matched all at once.

A pair of track and face costs 1 minus the mean of what their boxes share (IoU) and how alike they look (cosine of a
small normalised crop); the assignment of least total cost is taken (Hungarian algorithm, scipy). A pair that neither
overlaps nor is near and alike is no pair. A track that nobody joined for ``patience`` seconds, and in no frame of
those, has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from vea.faces.detect import Box

LOOK_SIDE = 12  # pixels of the crop by which faces are compared
MIN_OVERLAP = 0.2  # IoU from which a pair may be one person whatever they look like
MIN_ALIKE = 0.6  # cosine from which a pair that does not overlap may be, where it is near
REACH = 1.5  # "near": centres no further apart than so many widths of the box, for each 0.1 s that passed at most 3
MEMORY = 0.8  # share of the old looks in a track's running mean


@dataclass
class _Track:
    number: int
    box: Box
    looks: np.ndarray
    seen: float
    speed: np.ndarray  # of the centre, pixels a second
    missed: int = 0  # frames since


def looks(image: np.ndarray, box: Box) -> np.ndarray:
    """Returns a unit vector (3 * LOOK_SIDE**2,) of the picture in ``box``: normalised colours at low resolution."""
    x0, y0, x1, y1 = (max(0, value) for value in box)
    crop = image[y0 : max(y0 + 1, y1), x0 : max(x0 + 1, x1)]
    if not crop.size:
        return np.zeros(3 * LOOK_SIDE**2, np.float32)
    small = cv2.resize(crop, (LOOK_SIDE, LOOK_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)


def overlap(first: Box, second: Box) -> float:
    """Returns intersection over union of two boxes (x0, y0, x1, y1), 0 to 1."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    if wide <= 0 or high <= 0:
        return 0.0
    area = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (second[3] - second[1])
    return wide * high / (area - wide * high)


class Tracker:
    """Gives each face of a frame the number of its track, counted from 1; call it frame by frame, in order of time.

    Args:
        patience: seconds after which a track that nobody joined is closed; who comes back later is somebody new. Where
            frames are further apart, one frame without the face closes it.
    """

    def __init__(self, *, patience: float = 1.0) -> None:
        self.patience = patience
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, image: np.ndarray, boxes: Sequence[Box], *, time: float) -> list[int]:
        """Returns one track number a box of this frame."""
        self._tracks = [t for t in self._tracks if time - t.seen <= self.patience or not t.missed]
        seen = [looks(image, box) for box in boxes]
        costs = np.full((len(self._tracks), len(boxes)), np.inf)
        for i, track in enumerate(self._tracks):
            for j, box in enumerate(boxes):
                costs[i, j] = self._cost(track, box, seen[j], time)
        for track in self._tracks:
            track.missed += 1
        numbers = [0] * len(boxes)
        rows, columns = linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e3)) if costs.size else ([], [])
        for i, j in zip(rows, columns):
            if np.isfinite(costs[i, j]):
                self._join(self._tracks[i], boxes[j], seen[j], time)
                numbers[j] = self._tracks[i].number
        for j, number in enumerate(numbers):
            if not number:
                self._count += 1
                numbers[j] = self._count
                self._tracks.append(_Track(self._count, boxes[j], seen[j], time, np.zeros(2)))
        return numbers

    @staticmethod
    def _cost(track: _Track, box: Box, seen: np.ndarray, time: float) -> float:
        shift = track.speed * (time - track.seen)
        expected = tuple(round(value + shift[k % 2]) for k, value in enumerate(track.box))
        share = max(overlap(expected, box), overlap(track.box, box))  # type: ignore[arg-type]
        alike = float(track.looks @ seen)
        width = max(box[2] - box[0], track.box[2] - track.box[0])
        away = np.abs(_centre(box) - _centre(expected)).max() / max(1, width)  # type: ignore[arg-type]
        reach = REACH * min(3.0, max(1.0, (time - track.seen) / 0.1))
        if share < MIN_OVERLAP and not (alike >= MIN_ALIKE and away <= reach):
            return float("inf")
        return 1 - (share + max(0.0, alike)) / 2

    @staticmethod
    def _join(track: _Track, box: Box, seen: np.ndarray, time: float) -> None:
        passed = time - track.seen
        if passed > 0:
            track.speed = 0.5 * track.speed + 0.5 * (_centre(box) - _centre(track.box)) / passed
        mean = MEMORY * track.looks + (1 - MEMORY) * seen
        track.looks = mean / max(float(np.linalg.norm(mean)), 1e-6)
        track.box, track.seen, track.missed = box, time, 0


def _centre(box: Box) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
