"""Pictures with faces whose boxes are known."""

from __future__ import annotations

import numpy as np
import pytest

from vea.data.synthetic.composites import Composites, Scene, affine, moved


def scene(score: float, **kind) -> Scene:
    image = np.full((200, 240, 3), 90, np.uint8)
    image[60:110, 100:150] = 250
    row = np.array([100, 60, 150, 110, 112, 75, 138, 75, 125, 88, 115, 98, 135, 98, score], np.float64)
    levels = [image, image[::2, ::2], image[::4, ::4]]
    return Scene(levels, row[None], **kind)


FACES = [
    (np.full((4, 48, 48), 128, np.uint8), np.tile([8.0, 8, 40, 40, 16, 20, 32, 20, 24, 28, 18, 34, 30, 34], (4, 1)))
]


@pytest.mark.parametrize(("score", "doubtful", "sure", "alarms"),
                         [(0.9, 2.0, 0, 1), (0.9, 0.8, 0, 0), (0.5, 0.8, 0, 1), (0.05, 0.8, 0, 0)])  # fmt: skip
def test_what_looks_like_a_face_in_a_lifeless_picture_is_an_alarm(score, doubtful, sure, alarms):
    lifeless = scene(score, doubtful=doubtful, lifeless=True)
    assert (len(lifeless.sure), len(lifeless.alarms)) == (sure, alarms)
    ordinary = scene(score)
    assert len(ordinary.alarms) == 0 and len(ordinary.sure) == int(score >= 0.65)


def test_alarms_are_shown_and_are_no_faces():
    made = Composites([scene(0.9, doubtful=2.0, lifeless=True)], FACES, side=64)
    made._paste = lambda *_: None
    samples = [made.sample(np.random.default_rng(seed)) for seed in range(40)]
    assert all(not sample.faces and not sample.ignored for sample in samples)


def test_boxes_and_points_are_where_the_pixels_are():
    bright = scene(0.95)
    made = Composites([bright], FACES, side=128)
    made._paste = lambda *_: None
    found = 0
    for seed in range(40):
        sample = made._photograph(bright, np.random.default_rng(seed), rows=bright.sure)
        for face in sample.faces:
            middle = ((face[:2] + face[2:4]) / 2).round().astype(int).clip(0, 127)
            found += int(sample.image[middle[1], middle[0]].min() > 200)
    assert found >= 30


def test_a_turn_moves_box_and_points_and_a_mirror_swaps_the_eyes():
    row = scene(1.0).faces[0]
    middle = np.array([125.0, 85.0])
    turned = moved(row, affine(centre=middle, target=np.zeros(2), angle=90, scale=2, mirror=False), mirror=False)
    assert turned[:4] == pytest.approx([-50, -50, 50, 50])
    assert turned[4:8] == pytest.approx([20, -26, 20, 26])
    mirrored = moved(row, affine(centre=middle, target=middle, angle=0, scale=1, mirror=True), mirror=True)
    assert mirrored[4:8] == pytest.approx(row[4:8])
