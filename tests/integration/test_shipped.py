"""The models that ship: they load without network; they name the expression of a real face, and what scenes evoke."""

import json

import pytest

import vea
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
    assert (repository / SHIPPED[name]).is_file()
    scores = json.loads((ASSETS / name / "evaluation_test.json").read_text())
    found = {target: result["metrics"] for target, result in scores["targets"].items()}
    assert scores["split"] == "test"
    if name == "scene":
        assert found["valence"]["ccc"] > 0.65 and found["arousal"]["ccc"] > 0.61
    else:
        assert found["expression"]["accuracy"] > 0.66
    assert json.loads((ASSETS / name / "state.json").read_text())["config"]["out"] is None
