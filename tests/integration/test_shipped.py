"""The models that ship: they load without network; they name the expression of a real face, and what scenes evoke."""

import json

import pytest

import vea
from vea.faces.detect import OWN
from vea.tasks.saved import ASSETS, SHIPPED

CLASSES = {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "scene"])
def test_a_smiling_astronaut_is_happy(vea_data, name):
    (result,) = vea.load(name).predict(str(vea_data / "people_samples" / "images" / "astronaut.jpg"))
    assert len(result.faces) == 1
    face = result.faces[0]
    assert set(face.probabilities) == CLASSES and sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert face.expression == max(face.probabilities, key=face.probabilities.get) == "happy"


@pytest.mark.real_data
def test_a_dead_body_is_less_pleasant_than_a_baby(vea_data):
    folder = vea_data / "oasis" / "images"
    bodies, baby = vea.load("scene").predict([folder / "Dead_bodies_2.jpg", folder / "Baby_3.jpg"])
    assert bodies.valence < 3 < 4.5 < baby.valence


@pytest.mark.parametrize("name", SHIPPED)
def test_they_are_small_and_carry_their_test_scores_and_no_folder_of_ours(repository, name):
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 16e6
    assert all((repository / word).is_file() for word in SHIPPED[name].split() if "/" in word)
    scores = json.loads((ASSETS / name / "evaluation_test.json").read_text())
    found = {target: result["metrics"] for target, result in scores["targets"].items()}
    assert scores["split"] == "test"
    if name == "scene":
        assert found["valence"]["ccc"] > 0.65 and found["arousal"]["ccc"] > 0.61
    else:
        assert found["expression"]["accuracy"] > 0.66
    assert json.loads((ASSETS / name / "state.json").read_text())["config"]["out"] is None


def test_the_detector_is_below_a_megabyte_and_carries_its_card_and_its_scores():
    assert sum(path.stat().st_size for path in OWN.iterdir()) < 1e6
    card, scores = (OWN / "README.md").read_text(), json.loads((OWN / "evaluation.json").read_text())["results"]
    assert "Apache-2.0" in card and "Shiqi Yu, MIT" in card
    assert scores["people"]["missing"] == scores["people"]["extra"] == 0 and scores["coco"]["recall"] > 0.8
    assert scores["lifeless"]["with_a_box"] <= 5 and all(scores["turned"][t]["found"] >= 15 for t in ("0", "90", "180"))
