"""The model that ships: it loads without network and names the expression of a real face."""

import pytest

import vea

CLASSES = {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}


@pytest.mark.real_data
def test_a_smiling_astronaut_is_happy(vea_data):
    (result,) = vea.load("expression").predict(str(vea_data / "people_samples" / "images" / "astronaut.jpg"))
    assert len(result.faces) == 1
    face = result.faces[0]
    assert set(face.probabilities) == CLASSES and sum(face.probabilities.values()) == pytest.approx(1, abs=1e-4)
    assert face.expression == max(face.probabilities, key=face.probabilities.get) == "happy"
