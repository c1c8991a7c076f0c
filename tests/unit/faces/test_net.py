"""Search by a trained network: rows in pixels of the picture, whatever its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vea.faces.detect import FaceDetector
from vea.faces.net import net_search
from vea.models.face_net import FaceNet
from vea.storage.checkpoint import save_weights


@pytest.fixture
def weights(tmp_path):
    """A network whose cells of stride 16 see a face of 64 by 64 pixels wherever the picture is white."""
    model = FaceNet().eval()
    for value in model.parameters():
        torch.nn.init.zeros_(value)
    for head in model.heads:
        head.depth.bias.data[:2] = -9.0
    model.heads[1].depth.bias.data[:6] = torch.tensor([3.0, 3.0, 0.5, 0.5, *[float(np.log(4))] * 2])
    save_weights(tmp_path / "best", model.state_dict(), {"step": 1})
    return tmp_path / "best"


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (97, 31)])
def test_rows_are_boxes_in_pixels_and_one_a_face(weights, size):
    rows = net_search(weights)(np.zeros((*size, 3), np.uint8))
    assert rows.shape[1] == 16 and len(rows) >= 1
    assert rows[:, 0] == pytest.approx(100 / (1 + np.exp(-3)), abs=1e-3)
    assert rows[:, 3:5] == pytest.approx(64, abs=1e-3)
    middle = rows[:, 1:3] + 32
    assert np.allclose(middle % 16, 8, atol=1e-3)
    assert all(np.abs(middle[0] - other).sum() > 16 for other in middle[1:])  # neighbours are one face


def test_a_detector_takes_it(weights):
    faces = FaceDetector(net_search(weights), min_score=0.6, knows_turns=True)(np.zeros((64, 64, 3), np.uint8))
    assert faces and all(score > 0.9 for _, score in faces)
