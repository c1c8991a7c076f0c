"""The chain of evidence: every line has a component, the cause is where it was put, and nothing is made up."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from vea.commands.main import main
from vea.data import synthetic
from vea.errors import VeaError
from vea.inference import evidence
from vea.inference.evidence import GRID, NO_EVIDENCE, Chain, answer_lines, cells, emotion_line, faces_line, find_region
from vea.inference.results import Face, Prediction, Scene

NOBODY = Prediction(None)


@pytest.fixture(scope="module")
def chain():
    return Chain()


@pytest.fixture(autouse=True)
def no_detector(monkeypatch):
    monkeypatch.setattr("vea.inference.predict.face_detector", lambda: lambda image: [])


class Blob:
    """A scene model that sees one thing: how red the pixels of one region are."""

    size, sd = 100, np.array([1.0, 0.5])

    def __init__(self, place: int, gain: float = 2.0) -> None:
        self.box, self.gain = cells(self.size)[place], gain

    def values(self, views):
        x0, y0, x1, y1 = self.box
        return np.array([[4 + self.gain * view[y0:y1, x0:x1, 0].mean() / 255, 4.0] for view in views])

    def window(self, image):
        return 0, 0, image.shape[1], image.shape[0]


def spotted(place: int) -> np.ndarray:
    view = np.zeros((100, 100, 3), np.uint8)
    x0, y0, x1, y1 = cells(100)[place]
    view[y0:y1, x0:x1, 0] = 255
    return view


@pytest.mark.parametrize("place", range(GRID * GRID))
def test_the_region_that_the_model_looks_at_is_found(chain, monkeypatch, place):
    monkeypatch.setattr(chain, "scene", Blob(place))
    view = spotted(place)
    region = find_region(chain.scene, view)
    assert region.place == place and region.stands_out
    assert region.change == pytest.approx([-2, 0], abs=0.01) and np.argmax(region.moves) == place
    line = chain.region_line(view, view, NOBODY)
    assert line.found and line.data["box"] == list(cells(100)[place]) and "valence -2.0" in line.text
    face = Face(tuple(cells(100)[place]), "happy", {"happy": 1.0}, 0.9)
    assert "(face 1)" in chain.region_line(view, view, Prediction("happy", {}, [face])).text


def test_a_model_that_looks_nowhere_gives_no_evidence(chain, monkeypatch):
    monkeypatch.setattr(chain, "scene", Blob(0, gain=0.0))
    for line in (chain.region_line(spotted(3), spotted(3), NOBODY), chain.change_line(spotted(3))):
        assert not line.found and line.text.startswith(NO_EVIDENCE)


@pytest.mark.parametrize(("value", "best"), [(30, "brighter"), (220, "darker")])
def test_other_light_is_the_cause_where_the_model_sees_light(chain, monkeypatch, value, best):
    monkeypatch.setattr(chain, "scene", Blob(7))
    line = chain.change_line(np.full((100, 100, 3), value, np.uint8))
    assert line.found and line.data["most"] == best and line.text.startswith(best)


def test_changes_of_light_and_colour_do_what_their_names_say():
    view = np.random.default_rng(0).integers(60, 190, (20, 20, 3), dtype=np.uint8)
    spread = {name: np.ptp(change(view), axis=2).mean() for name, change in evidence.CHANGES.items()}
    assert spread["without colour"] == 0 and spread["more colourful"] > np.ptp(view, axis=2).mean()
    means = {name: change(view).mean() for name, change in evidence.CHANGES.items()}
    assert means["darker"] + 50 < view.mean() < means["brighter"] - 50
    assert all(change(view).dtype == np.uint8 for change in evidence.CHANGES.values())


@pytest.mark.parametrize("valence", [1.0, 2.5, 4.0, 5.5, 7.0])
@pytest.mark.parametrize("arousal", [1.0, 4.0, 7.0])
def test_sides_are_taken_only_where_they_are_likely(valence, arousal):
    scene = Scene(valence, arousal, 1.1, 0.7, 0.5, 0.5)
    line = emotion_line(scene)
    sides = {"pleasant": valence > 5, "unpleasant": valence < 3, "arousing": arousal > 5, "calm": arousal < 3}
    assert {side: f"{side} (" in line.text.replace("unpleasant", "") or (side == "unpleasant" and side in line.text)
            for side in sides} == sides  # fmt: skip
    assert line.found == any(sides.values()) and "±" in line.text
    goal, response = answer_lines(scene)
    assert goal.found == response.found == (sum(sides.values()) == 2)


def test_the_chain_of_a_picture_and_of_one_tone(chain):
    picture = np.asarray(Image.open(io.BytesIO(synthetic.scene(3, size=160).image)).convert("RGB"))
    lines = chain.explain(picture)
    assert [line.step for line in lines] == ["event", "event", "emotion", "cause", "cause"]
    assert [line.step for line in chain.explain(picture, respond=True)][5:] == ["goal", "response"]
    for value in (0, 100, 255):
        blank = chain.explain(np.full((40, 60, 3), value, np.uint8), respond=True)
        assert len(blank) == 7 and [line.component for line in blank if line.found] == ["pixels"]
    for line in [*lines, *blank]:
        assert line.component and len(line.text) < 160
        assert line.found is not line.text.startswith(NO_EVIDENCE)
        json.dumps(line.record(), allow_nan=False)


def test_without_a_detector_the_line_of_faces_says_so(chain, monkeypatch):
    def absent(image):
        raise VeaError("no face detector is installed")

    monkeypatch.setattr(chain.faces, "_detect", absent)
    picture = np.asarray(Image.open(io.BytesIO(synthetic.scene(3, size=160).image)).convert("RGB"))
    first = chain.explain(picture)[0]
    assert not first.found and first.text == f"{NO_EVIDENCE}: no face detector is installed"


@pytest.mark.parametrize("number", range(6))
def test_faces_are_counted_and_three_are_named(number):
    faces = [Face((k, 0, k + 5, 5), "sad", {"sad": 0.8, "happy": 0.2}, 0.9) for k in range(number)]
    line = faces_line(Prediction(None, {}, faces))
    assert line.found == (number > 0) and line.text.count("sad 80%") == min(number, 3)
    assert ("more" in line.text) == (number > 3) and len(line.data["faces"]) == number


def test_the_command_needs_no_model(tmp_path, capsys):
    Image.open(io.BytesIO(synthetic.scene(3, size=160).image)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no picture")
    assert main(["explain", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path / 'a.png'}:" and len(said) == 6 and all(line.endswith("]") for line in said[1:])
    assert main(["explain", str(tmp_path), "--json", "--respond"]) == 1, "one of two cannot be read"
    out = capsys.readouterr()
    (told,) = [json.loads(line) for line in out.out.splitlines()]
    assert told["path"].endswith("a.png") and len(told["lines"]) == 7 and "b.png" in out.err
    assert set(told["lines"][0]) == {"step", "component", "text", "found", "data"}
    for options, words in ((["--emotion", "fear"], "--model"), (["--respond", "--model", "x"], "leave out one")):
        assert main(["explain", str(tmp_path / "a.png"), *options]) == 2
        assert words in capsys.readouterr().err
