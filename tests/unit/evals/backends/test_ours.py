"""Recognisers as judges, and their classes as hints."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.errors import VeaError
from vea.evals.backends import open_backend
from vea.evals.backends.base import Backend
from vea.evals.backends.ours import Hinted, on_choices
from vea.evals.question import Answer, Question

CHOICES = ("happiness", "sadness", "anger", "fear")


class Echo(Backend):
    """Keeps the prompts; thinks the last choice likeliest."""

    def ask(self, questions, readouts):
        self.prompts = [question.prompt for question in questions]
        for place, question in enumerate(questions):
            shares = np.arange(1, len(question.choices) + 1) / sum(range(len(question.choices) + 1))
            yield place, Answer(text="x", probabilities=dict(zip(question.choices, shares.tolist())), mass=1.0)


def test_classes_count_for_choices_of_their_family():
    found = on_choices({"happy": 0.5, "sad": 0.25, "neutral": 0.25}, CHOICES)
    assert found == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert on_choices({"table": 1.0}, CHOICES) is None


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_random_hints_are_the_control(threshold: float):
    echo, question = Echo(), Question("k", "which?", Path("p"), CHOICES)
    hinted = Hinted(echo, "random", k=2, threshold=threshold)
    ((_, answer),) = hinted.ask([question], ["probability"])
    assert "primary candidates" in echo.prompts[0] and echo.prompts[0].endswith("which?")
    named = [name for name in CHOICES if name in echo.prompts[0]]
    assert len(named) == 2
    positive = {name for name, share in answer.probabilities.items() if share > 0}
    assert positive == (set(named) if threshold == 0 else set(CHOICES))
    assert sum(answer.probabilities.values()) == pytest.approx(1)


def test_the_shipped_recogniser_answers_choices(tmp_path: Path):
    Image.fromarray(np.full((64, 64, 3), 128, np.uint8)).save(tmp_path / "grey.png")
    question = Question("k", "which?", tmp_path / "grey.png", CHOICES)
    backend = open_backend("expression")
    ((_, answer),) = backend.ask([question], ["probability"])
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert backend.counts["no face: even guess"] == 1
    with pytest.raises(VeaError, match="free text"):
        list(backend.ask([Question("k", "why?", tmp_path / "grey.png")], ["text"]))
