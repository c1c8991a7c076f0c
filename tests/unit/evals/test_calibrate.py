"""Calibration learns a preference and over-confidence from validation answers, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from vea.evals.calibrate import FEWEST, apply, fit
from vea.evals.question import Answer, Question
from vea.metrics import calibration_scores

CHOICES = ("Correct", "Incorrect", "Unsure")


def asked(truths: list[int]) -> list[Question]:
    return [Question(str(i), "?", choices=CHOICES, row={"answer": CHOICES[t]}) for i, t in enumerate(truths)]


def biased(count: int, *, seed: int, offset: np.ndarray, temperature: float) -> tuple[list[Question], list[Answer]]:
    """Truths drawn from known probabilities; what is answered is those, sharpened and shifted."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (count, 3))
    true = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truths = [int(generator.choice(3, p=row)) for row in true]
    said = np.exp((logits + offset) / temperature)
    said /= said.sum(1, keepdims=True)
    return asked(truths), [Answer(probabilities=dict(zip(CHOICES, map(float, row)))) for row in said]


def quality(questions: list[Question], answers: list[Answer]) -> tuple[float, float]:
    best = [max(a.probabilities, key=a.probabilities.get) for a in answers]  # type: ignore[union-attr, arg-type]
    right = [b == q.row["answer"] for b, q in zip(best, questions)]
    sure = [max(a.probabilities.values()) for a in answers]  # type: ignore[union-attr]
    return float(np.mean(right)), calibration_scores(sure, right)["ece"]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("offset", [(0, 0, 0), (3, 0, -1), (-2, 2, 0)])
def test_a_known_preference_is_taken_away(offset: tuple[float, ...], temperature: float):
    shift = np.array(offset, float)
    known = biased(2000, seed=0, offset=shift, temperature=temperature)
    test = biased(2000, seed=1, offset=shift, temperature=temperature)
    mended = apply(fit(*known), *test)
    before, after = quality(*test), quality(test[0], mended)
    assert after[0] >= before[0] - 0.01 and after[1] < 0.04
    if any(offset) or temperature != 1.0:
        assert after[1] < before[1]
    for answer in mended:
        assert answer.probabilities is not None
        assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-9)


def test_few_or_strange_answers_fit_nothing_and_keep_what_they_are():
    questions, answers = biased(FEWEST - 1, seed=0, offset=np.zeros(3), temperature=1.0)
    assert fit(questions, answers) == {} and apply({}, questions, answers) == answers
    unknown = [Question("a", "?", choices=CHOICES, row={"answer": "else"})] * FEWEST
    assert fit(unknown, [Answer(text="x")] * FEWEST) == {}


def test_zero_probabilities_stay_finite():
    questions = asked([0, 1] * FEWEST)
    answers = [Answer(probabilities={"Correct": 1.0, "Incorrect": 0.0, "Unsure": 0.0})] * len(questions)
    made = apply(fit(questions, answers), questions, answers)
    assert all(np.isfinite(list(a.probabilities.values())).all() for a in made)  # type: ignore[union-attr]
