"""The models that ship: they load without network and name the expression of a real face."""

import json

import pytest

import vea
from vea.tasks.saved import ASSETS, SHIPPED

CLASSES = {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}


@pytest.mark.real_data
@pytest.mark.parametrize("name", SHIPPED)
def test_a_smiling_astronaut_is_happy(vea_data, name):
    (result,) = vea.load(name).predict(str(vea_data / "people_samples" / "images" / "astronaut.jpg"))
    assert len(result.faces) == 1
    face = result.faces[0]
    assert set(face.probabilities) == CLASSES and sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert face.expression == max(face.probabilities, key=face.probabilities.get) == "happy"


def test_they_are_small_and_carry_their_test_scores_and_no_folder_of_ours(repository):
    assert sum(path.stat().st_size for name in SHIPPED for path in (ASSETS / name).iterdir()) < 16e6
    for name, config in SHIPPED.items():
        assert (repository / config).is_file()
        scores = json.loads((ASSETS / name / "evaluation_test.json").read_text())
        assert scores["split"] == "test" and scores["targets"]["expression"]["metrics"]["accuracy"] > 0.66
        assert json.loads((ASSETS / name / "state.json").read_text())["config"]["out"] is None
