"""The network that finds faces: shapes, what a cell learns, and that it can be read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vea.models.face_net import STRIDES, FaceNet, assign, centres, decode, score_logit


def face(x: float, y: float, side: float) -> list[float]:
    half = side / 2
    return [x - half, y - half, x + half, y + half, *[x, y] * 5]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 32), (256, 224)])
def test_every_stride_answers_on_its_grid(height, width):
    model = FaceNet().eval()
    maps = model(torch.rand(2, 3, height, width) * 255)
    assert [tuple(part.shape) for part in maps] == [(2, 16, height // s, width // s) for s in STRIDES]
    assert decode(maps).shape == (2, sum(height * width // s**2 for s in STRIDES), 15)


def test_it_is_below_a_megabyte():
    assert sum(value.numel() * value.element_size() for value in FaceNet().state_dict().values()) < 1e6


def test_what_a_cell_says_is_decoded_in_pixels():
    maps = [torch.zeros(1, 16, 64 // stride, 64 // stride) for stride in STRIDES]
    cell = maps[0][0, :, 2, 3]
    cell[2:6] = torch.tensor([0.5, 0.25, np.log(2), 0.0])  # centre, logarithm of the size, in strides
    cell[6:8] = torch.tensor([1.0, -1.0])  # the first point
    row = decode(tuple(maps))[0, 2 * 8 + 3]
    assert row[1:5].tolist() == pytest.approx([20, 14, 36, 22], abs=1e-4)  # about (28, 18), 16 wide, 8 high
    assert row[5:9].tolist() == [32, 8, 24, 16]


@pytest.mark.parametrize(("first", "second"), [(0.0, 0.0), (3.0, 2.0), (-9.0, -8.0), (12.0, -12.0), (30.0, 30.0)])
def test_the_score_is_the_root_of_both_shares(first, second):
    expected = np.sqrt(1 / (1 + np.exp(-first)) / (1 + np.exp(-second)))
    logits = torch.tensor([first, second], requires_grad=True)
    logit = score_logit(logits)
    logit.backward()
    assert float(logit.detach().sigmoid()) == pytest.approx(expected, rel=1e-4)
    assert logits.grad.isfinite().all()


def test_the_features_are_made_as_in_the_plan_of_yunet():
    model = FaceNet()
    features = [torch.rand(1, 16, 32, 32)]
    for number, unit in enumerate(model.units, start=1):
        features.append(unit(model.entering(number, features)))
    sides = [feature.shape[-1] for feature in features]
    assert sides == [32, 32, 16, 16, 16, 16, 8, 8, 4, 4, 2, 2, 2, 4, 8]


@pytest.mark.parametrize(("side", "strides"), [(10, {8}), (33, {8, 16}), (60, {16}), (90, {16, 32}), (200, {32})])
def test_a_face_is_learned_at_the_strides_of_its_size(side, strides):
    numbers, weights = assign(torch.tensor([face(128, 120, side)]), torch.zeros(0, 4), height=256, width=256)
    start = 0
    for stride in STRIDES:
        cells = (256 // stride) ** 2
        mine = numbers[start : start + cells] == 0
        assert bool(mine.any()) == (stride in strides)
        near = (centres(256 // stride, 256 // stride, stride) - torch.tensor([128, 120])).abs().amax(1)
        assert (near[mine] <= 1.5 * stride).all()
        start += cells
    assert (weights[numbers >= 0] == 1).all()


def test_every_small_face_has_a_cell_wherever_it_lies():
    generator = torch.Generator().manual_seed(0)
    for x, y in (torch.rand(60, 2, generator=generator) * 200 + 20).tolist():
        numbers, _ = assign(torch.tensor([face(x, y, 8.0)]), torch.zeros(0, 4), height=256, width=256)
        assert (numbers == 0).any()


def test_of_two_faces_the_smaller_wins_and_doubtful_places_weigh_nothing():
    faces = torch.tensor([face(64, 64, 36), face(66, 64, 30)])
    numbers, weights = assign(faces, torch.tensor([[100.0, 100.0, 128.0, 128.0]]), height=128, width=128)
    at = 8 * 16 + 8  # cell around (68, 68)
    assert numbers[at] == 1 and weights[15 * 16 + 15] == 0 and weights[0] == 1
