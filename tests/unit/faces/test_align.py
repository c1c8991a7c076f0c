"""Which way up a face is, and crops that are turned back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vea.config import AugmentConfig
from vea.data.views.views import Views
from vea.faces.align import TILT, cut_turned, turn_of, turned_back

BOX = (10, 20, 50, 60)


def points(angle: float) -> np.ndarray:
    """Eyes 20 pixels apart on a line that leans by ``angle`` degrees, clockwise."""
    across = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))]) * 10
    middle = np.array([30.0, 40.0])
    return np.stack([middle - across, middle + across, middle, middle, middle])


@pytest.mark.parametrize(
    ("angle", "turn"),
    [(0, 0), (TILT - 1, 0), (1 - TILT, 0), (30, 30), (-30, -30), (90, 90), (80, 90), (-97, -90), (180, -180),
     (-175, -180), (130, 130)],
)  # fmt: skip
def test_turns_count_from_the_upright_face_and_tilts_are_left(angle, turn):
    assert turn_of(points(angle), BOX) == pytest.approx(turn)


def test_eyes_that_coincide_say_nothing():
    assert turn_of(np.zeros((5, 2)), BOX) == 0
    assert turn_of(points(90) * 0.1, BOX) == 0


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_points_go_back_where_they_were(quarters):
    image = np.zeros((30, 50), np.uint8)
    image[7, 41] = 1
    turned = np.rot90(image, quarters)
    row, column = np.argwhere(turned == 1)[0]
    back = turned_back(np.array([[column + 0.5, row + 0.5]]), quarters, width=50, height=30)
    assert back.tolist() == [[41.5, 7.5]]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(60, 80), (61, 81), (80, 61)])
def test_a_quarter_turn_gives_the_pixels_of_the_upright_crop(quarters, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    window = (12, 20, 43, 51)
    upright = cut_turned(image, window, 0.0)
    lying = np.rot90(image, quarters)  # counter-clockwise
    ends = np.array([[12.0, 20.0], [43.0, 51.0]])
    there = turned_back(ends, -quarters, width=lying.shape[1], height=lying.shape[0])
    low, high = there.min(0).astype(int), there.max(0).astype(int)
    again = cut_turned(np.ascontiguousarray(lying), (low[0], low[1], high[0], high[1]), -90.0 * quarters)
    assert (again == upright).all()


def test_beyond_the_border_the_edge_is_repeated_in_turned_crops_too():
    image = np.full((20, 20, 3), 77, np.uint8)
    assert (cut_turned(image, (-10, -10, 30, 30), 33.0) == 77).all()


def test_the_view_of_a_turned_face_is_that_of_the_upright_one():
    views = Views(AugmentConfig(image_size=48), seed=0, train=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    upright = views.face(image, (20, 20, 68, 68))
    lying = np.ascontiguousarray(np.rot90(image))
    assert (views.face(lying, (20, 22, 68, 70), turn=-90.0) == upright).all()
