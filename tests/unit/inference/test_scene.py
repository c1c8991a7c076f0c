"""The scene model beside the faces: what is printed, in which order, and how sure it says it is."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vea
from vea.commands import predict
from vea.data import synthetic
from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.inference.predict import load
from vea.inference.results import QUADRANTS, Scene
from vea.inference.scene import Look, load_scene, look
from vea.tasks.saved import open_model

BOXES = [((10, 10, 60, 60), 0.9), ((70, 20, 90, 40), 0.7)]


@pytest.fixture(scope="module")
def reader():
    return load_scene()


@pytest.fixture
def two_faces(monkeypatch):
    """Two known faces in every picture wider than it is high."""
    monkeypatch.setattr(
        "vea.inference.predict.face_detector", lambda: lambda image: BOXES if image.shape[1] > image.shape[0] else []
    )


@pytest.fixture
def pictures(tmp_path):
    """A wide picture, one that is broken, and a square one, in the order of their names."""
    drawn = [np.asarray(Image.open(io.BytesIO(synthetic.scene(k, size=120).image)).convert("RGB")) for k in (1, 2)]
    Image.fromarray(drawn[0][:90]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    Image.fromarray(drawn[1]).save(tmp_path / "c.png")
    return tmp_path


def lines(capsys, *arguments: str) -> list[str]:
    assert predict.main(list(arguments)) == 1, "one of three cannot be read"
    return capsys.readouterr().out.splitlines()


def test_by_default_a_line_for_the_scene_and_one_a_face(pictures, two_faces, capsys):
    said = lines(capsys, str(pictures))
    assert [line.split(": ")[0].split("/")[-1] for line in said] == ["a.png"] * 3 + ["c.png"] * 2
    assert [": scene valence " in line for line in said] == [True, False, False, True, False]
    assert said[1].endswith("at 10,10,60,60") and said[2].endswith("at 70,20,90,40")
    assert said[4].endswith(": no face found")
    assert lines(capsys, str(pictures), "--only", "scene") == [said[0], said[3]]
    assert lines(capsys, str(pictures), "--only", "faces") == lines(capsys, str(pictures), "--model", "expression")


def test_the_rows_of_faces_are_what_they_were(pictures, two_faces, capsys):
    rows = list(csv.DictReader(lines(capsys, str(pictures), "--csv")))
    before = list(csv.DictReader(lines(capsys, str(pictures), "--csv", "--model", "expression")))
    assert [row["face"] for row in rows] == ["scene", "0", "1", "scene", ""]
    faces = [row for row in rows if row["face"] != "scene"]
    assert [{name: row[name] for name in before[0]} for row in faces] == before
    assert [name for name in rows[0] if name in before[0]] == list(before[0]), "columns keep their order"
    assert all(1 <= float(row["valence"]) <= 7 for row in rows if row["face"] == "scene")
    assert not any(row["valence"] for row in faces)

    whole = [json.loads(line) for line in lines(capsys, str(pictures), "--json")]
    alone = [json.loads(line) for line in lines(capsys, str(pictures), "--json", "--model", "expression")]
    scenes = [line.pop("scene") for line in whole]
    assert whole == alone
    assert [f"{scene['valence']:.4f}" for scene in scenes] == [f"{float(rows[k]['valence']):.4f}" for k in (0, 3)]
    only = [json.loads(line) for line in lines(capsys, str(pictures), "--json", "--only", "scene")]
    assert [line["scene"] for line in only] == scenes and set(only[0]) == {"file", "scene"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", "scene", "--model", "expression"], "leave out --only or --model"),
        (["--only", "faces", "--model", "scene"], "leave out --only or --model"),
        (["--only", "scene", "--no-faces"], "--no-faces is about faces"),
        (["--only", "scene", "--target", "votes"], "--target is about faces"),
        (["--only", "scene", "--annotate", "out"], "--annotate is about faces"),
    ],
)
def test_options_that_contradict_are_refused(pictures, capsys, arguments, sentence):
    assert predict.main([str(pictures), *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_face_crop_is_no_scene(pictures, capsys):
    said = lines(capsys, str(pictures), "--no-faces")
    assert len(said) == 2 and not any("scene" in line.split(": ", 1)[1] for line in said)


@pytest.mark.parametrize("bad", [[], [0], [3], [0, 1, 2, 3], [1, 2], [31, 32, 33, 63]])
@pytest.mark.parametrize("asked", ["both", "scene", "faces"])
def test_the_order_is_kept_whatever_cannot_be_read(two_faces, reader, bad, asked):
    count = 70 if max(bad, default=0) > 3 else 4
    images = [b"text" if k in bad else np.full((8, 9, 3), k, np.uint8) for k in range(count)]
    scene, faces = (reader if asked != "faces" else None), (load("expression") if asked != "scene" else None)
    if scene:  # quick, and each answer tells which picture it was
        scene = type("Reader", (), {"look": lambda self, image: int(image[0, 0, 0])})()
    found = list(look(images, scene=scene, faces=faces))
    assert [k for k, result in enumerate(found) if isinstance(result, VeaError)] == bad and len(found) == count
    for number, result in enumerate(found):
        if isinstance(result, Look):
            assert (result.scene, result.faces is None) == (number if scene else None, faces is None)


def test_the_scene_is_that_of_the_model_and_its_bins_are_tenths(pictures, reader):
    image = read_image(pictures / "c.png")
    scene = reader.look(image)
    (plain,) = vea.load("scene").predict(image)
    assert (scene.valence, scene.arousal) == pytest.approx((plain.valence, plain.arousal), abs=1e-6)
    assert 0.3 < scene.valence_sd < 2 and 0.3 < scene.arousal_sd < 2
    for tenth in (scene.brightness, scene.colorfulness):
        assert tenth * 10 == pytest.approx(round(tenth * 10)) and 0 <= tenth <= 1
    white, black = (reader.look(np.full((50, 40, 3), value, np.uint8)) for value in (255, 0))
    assert (white.brightness, black.brightness, white.colorfulness) == (1.0, 0.0, 0.0)


@pytest.mark.parametrize("place", range(4))
def test_the_quadrants_share_one(place):
    valence, arousal = (6.0, 6.0, 2.0, 2.0)[place], (6.0, 2.0, 6.0, 2.0)[place]
    scene = Scene(valence, arousal, 1.0, 0.5, 0.5, 0.5)
    assert sum(scene.quadrants.values()) == pytest.approx(1)
    assert scene.quadrant == QUADRANTS[place] and scene.quadrants[scene.quadrant] > 0.9
    assert max(Scene(4.0, 4.0, 1.0, 0.5, 0.5, 0.5).quadrants.values()) == pytest.approx(0.25)


def test_folded_batch_norms_give_the_answers_of_the_network_that_ships(reader):
    """Beside the model as it is saved, whose norms are there."""
    whole = open_model("scene").task
    assert any(isinstance(module, nn.BatchNorm2d) for module in whole.encoder.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in reader.predictor.task.encoder.modules())
    views = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = (task.predict({"image": views}) for task in (reader.predictor.task, whole))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-5)
