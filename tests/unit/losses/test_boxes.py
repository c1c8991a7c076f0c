"""Box overlap and the quality focal loss."""

from __future__ import annotations

import pytest
import torch

from vea.losses.boxes import overlaps, quality_focal

UNIT = [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("other", "iou", "generalised"),
    [
        (UNIT, 1.0, 1.0),
        ([0.0, 0.0, 0.5, 1.0], 0.5, 0.5),
        ([0.5, 0.0, 1.5, 1.0], 1 / 3, 1 / 3),
        ([1.0, 1.0, 2.0, 2.0], 0.0, -0.5),
        ([9.0, 0.0, 10.0, 1.0], 0.0, -0.8),
    ],
)
def test_overlaps_are_those_of_the_definition(other, iou, generalised):
    found = overlaps(torch.tensor([UNIT]), torch.tensor([other]))
    assert [float(value) for value in found] == pytest.approx([iou, generalised], abs=1e-5)


def test_apart_boxes_still_have_a_gradient():
    box = torch.tensor([[5.0, 5.0, 6.0, 6.0]], requires_grad=True)
    (1 - overlaps(box, torch.tensor([UNIT]))[1]).sum().backward()
    assert box.grad.abs().sum() > 0


def test_quality_focal_is_least_where_the_score_is_the_quality():
    quality = torch.tensor([[0.7]])
    at = [float(quality_focal(torch.tensor([[x]]).logit(), quality, torch.ones(1, 1))) for x in (0.5, 0.7, 0.9)]
    assert at[1] < 1e-6 and at[0] > 0.01 and at[2] > 0.01
    assert quality_focal(torch.zeros(1, 1), quality, torch.zeros(1, 1)) == 0
