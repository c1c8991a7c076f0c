"""YuNet's features and answers, in the form of the network that learns from it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vea.data.synthetic.composites import Sample
from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.faces.detect import find_yunet, yunet_search
from vea.models.face_net import STRIDES, WIDTHS, Unit, decode

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
DATA = Path(os.environ.get("VEA_DATA", "/nowhere"))


@pytest.mark.skipif(not DATA.joinpath("people_samples").is_dir(), reason="needs VEA_DATA")
def test_its_answers_decoded_are_those_of_opencv():
    from vea.faces.teacher import YuNetFeatures

    weights = find_yunet()
    if weights is None:
        pytest.skip("no YuNet file in VEA_DATA/weights")
    image = cv2.resize(read_image(DATA / "people_samples/images/multi_face.jpg"), (320, 256))
    features, maps = YuNetFeatures(weights)(image)
    assert [feature.shape[1] for feature in features] == [WIDTHS[0][0], *(outputs for _, outputs in WIDTHS)]
    assert [tuple(part.shape[1:]) for part in maps] == [(16, 256 // s, 320 // s) for s in STRIDES]
    best = decode(maps)[0]
    best = best[best[:, 0].argmax()]
    rows = yunet_search(weights)(np.ascontiguousarray(image[:, :, ::-1]))
    near = rows[np.abs(rows[:, 1:3] - best[1:3].numpy()).max(1) < 2]
    assert len(near) == 1 and np.abs(near[0, 5:15] - best[5:].numpy()).max() < 2
    assert rows[:, 0].max() / 100 == pytest.approx(float(best[0].sigmoid()), abs=0.011)


def test_another_network_is_refused(tmp_path):
    import onnx

    from vea.faces.teacher import YuNetFeatures

    value = onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    other = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [1, 3, 32, 32])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["input"], ["out"])], "toy", [value], [other])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "toy.onnx"))
    with pytest.raises(VeaError, match="no YuNet as it is known here"):
        YuNetFeatures(tmp_path / "toy.onnx")


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("vea_face_net_script", "finetune/face_net.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stem", [False, True])
def test_a_part_learns_what_another_makes_of_its_input_at_the_border_too(recipe, stem):
    torch.manual_seed(0)
    teacher, student = (torch.nn.Conv2d(6, 5, 3, 2, 1) if stem else Unit(6, 5) for _ in range(2))
    x, stride = torch.rand(4, 6, 16, 16) ** 2, 2 if stem else 1
    wanted = teacher(x).relu().detach()
    at = torch.stack([torch.randint(0, side, (600,)) for side in (4, *wanted.shape[2:])], 1)
    rows, seen = wanted[at[:, 0], :, at[:, 1], at[:, 2]], recipe.patches(x, at, stride=stride)
    error = recipe.fit(student, seen, rows, least=torch.tensor(0.0), weight=torch.ones_like(rows))
    assert error < 0.01
    assert float((student(x).relu() - wanted).square().mean().detach()) < 0.02 * float(wanted.var())


def test_the_labels_know_better_than_the_teacher(recipe):
    cells = np.zeros((256 // 8) ** 2 + (256 // 16) ** 2 + (256 // 32) ** 2)[:, None].repeat(15, 1).astype(np.float32)
    face = np.array([40, 40, 70, 70, 48, 50, 62, 50, 55, 57, 50, 64, 60, 64], np.float32)
    cells[3, :5] = [0.9, 200, 200, 230, 230]  # a dog
    cells[9, :5] = [0.4, 41, 41, 71, 71]  # the face, doubted
    cells[5, :5] = [0.8, 100, 10, 120, 30]  # what may be a face
    sample = Sample(np.zeros((256, 256, 3), np.uint8), [face], [np.array([100.0, 10, 120, 30])], lifeless=True)
    wanted, own = recipe.corrected(cells.copy(), sample)
    assert wanted[3, 0] == 0 and wanted[9, 0] == pytest.approx(0.4) and wanted[5, 0] == pytest.approx(0.8)
    assert (own >= 0).any() and (wanted[own >= 0, 1:] == face).all()
    sample.lifeless = False  # where there may be people, what the labels lack may be one
    assert recipe.corrected(cells.copy(), sample)[0][3, 0] == pytest.approx(0.9)
    cells[9, 0] = 0.9  # the teacher is sure: it is learned from the teacher alone
    assert (recipe.corrected(cells.copy(), sample)[1] == -1).all()
    cells[9, 0] = 0.4
    sample.faces = [np.concatenate([face[:4], face[4:].reshape(5, 2)[[1, 0, 2, 4, 3]].ravel()])]  # upside down
    assert (recipe.corrected(cells.copy(), sample)[1] == -1).all()
