"""Readings of a face: files beside a model, what they are refused for, and the same numbers in exports."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from vea.inference.intensity import Intensity, affect
from vea.inference.predict import Predictor
from vea.inference.readings import INTENSITY_FILE, UNITS_FILE, Readings, columns, flat, probe
from vea.models.units import UnitHead
from vea.publish.hub import export_hub
from vea.publish.onnx import export_onnx
from vea.tasks.saved import open_model

NAMES = ("AU1 inner brow raiser", "AU12 lip corner puller")


@pytest.fixture
def model(tmp_path):
    """expression-nano in a folder of its own, with units and intensities of made-up weights."""
    shipped = open_model("expression-nano")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in ("model.safetensors", "state.json"):
        (folder / file).write_bytes((shipped.folder / file).read_bytes())
    known = probe(shipped.task)
    torch.manual_seed(0)
    head = UnitHead(len(known), NAMES, hidden=8)
    head.mean.copy_(known)
    head.described = {"probe": known.tolist()}
    head.write(folder / UNITS_FILE)
    labels = torch.arange(60) % 3
    found = torch.randn(60, len(known)) + 3 * labels[:, None]
    fitted = Intensity.fit(found, labels, classes=("neutral", "happiness", "sadness"))
    dataclasses.replace(fitted, probe=known).write(folder / INTENSITY_FILE)
    return open_model(folder)


def faces(number: int = 5) -> list[np.ndarray]:
    grey = np.random.default_rng(0).integers(0, 256, (number, 48, 48, 1), dtype=np.uint8)
    return list(np.repeat(grey, 3, axis=3))


def test_units_intensity_and_affect_are_read_and_named(model):
    readings = Readings.of(model)
    assert readings.names == {"units": NAMES, "intensity": ("happiness", "sadness"),
                              "affect": ("valence", "arousal", "dominance")}  # fmt: skip
    predictor = Predictor(model.task, target="expression", device=torch.device("cpu"), readings=readings)
    told = predictor.predict(faces(), detect_faces=False)
    images = torch.from_numpy(np.stack(faces())).permute(0, 3, 1, 2)
    found = model.task.features(model.task.normalise(images)).detach()
    votes = model.task.answers(model.task.heads(found))["votes"]
    wanted = {"units": readings.units(found), "affect": affect(votes, classes=model.task.fields["votes"].classes),
              "intensity": Intensity.read(model.folder / INTENSITY_FILE)(found)}  # fmt: skip
    for what, rows in wanted.items():
        ours = np.array([list(getattr(one, what).values()) for one in told])
        assert np.abs(ours - rows.detach().numpy()).max() < 1e-4, what
    assert list(flat(told[0])) == columns(readings)
    assert columns(readings, landmarks=True)[-3:] == ["yaw", "pitch", "roll"]


def test_files_of_another_network_are_left_out_with_a_warning(model, caplog):
    for file in (UNITS_FILE, INTENSITY_FILE):
        other = open_model("expression-nano")
        with torch.no_grad():
            next(iter(model.task.encoder.parameters())).mul_(1.5)
        changed = dataclasses.replace(model, folder=model.folder)
        assert file.split(".")[0] not in Readings.of(changed).names
        assert file in caplog.text
        model.task.load_state_dict(other.task.state_dict())


def test_a_model_of_whole_pictures_has_none():
    assert Readings.of(open_model("scene")).names == {}


def test_onnx_and_hub_folder_have_the_same_readings(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    images = torch.from_numpy(np.stack(faces(4))).permute(0, 3, 1, 2)
    found = export_onnx(model, tmp_path / "model.onnx", images=images)
    assert {"units", "intensity", "affect", "votes", "logits_votes"} <= set(found) and max(found.values()) < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    named = json.loads(session.get_modelmeta().custom_metadata_map["readings"])
    assert tuple(named["units"]) == NAMES
    assert session.run(["units"], {"images": images.numpy()})[0].shape == (4, 2)
    assert {"units", "intensity", "affect"} <= set(export_hub(model, tmp_path / "hub", images=images))
    assert Readings.of(open_model(tmp_path / "hub")).names == Readings.of(model).names


@pytest.mark.parametrize("name", ["expression", "expression-nano"])
def test_the_models_that_ship_read_units_of_their_own_network(name):
    model = open_model(name)
    readings = Readings.of(model)
    assert {"units", "intensity", "affect"} == set(readings.names)
    held = readings.units.described["test"]
    assert set(held) == set(readings.names["units"]) and min(r for r, _ in held.values()) > 0.4
