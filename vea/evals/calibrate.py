"""Calibration of P(choice) on the validation split: a temperature and one offset a choice, never from the test split.

Vector scaling (Guo et al., 2017, section 4.2, with one temperature): softmax(log p / T + b). The offsets take away what
a model prefers whatever it is shown; the temperature its over-confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from vea.evals.question import Answer, Question

FLOOR = 1e-9  # of a probability before its logarithm
PRIOR = 1e-2  # weight of the squared offsets and log temperature: few answers move them little
FEWEST = 20  # answers with a known truth below which nothing is fitted


def _rows(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[tuple[str, ...], list[tuple[int, int]]]:
    """Returns {choices: [(place, number of the right choice)]} of answers that have probabilities and a truth."""
    found: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for place, (question, answer) in enumerate(zip(questions, answers)):
        truth = question.row.get("answer")
        if answer.probabilities and truth in question.choices:
            found.setdefault(question.choices, []).append((place, question.choices.index(truth)))
    return found


def _logs(answers: Sequence[Answer], places: Sequence[int], choices: Sequence[str]) -> np.ndarray:
    return np.log([[max((answers[i].probabilities or {}).get(name, 0.0), FLOOR) for name in choices] for i in places])


def _shares(logs: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns probabilities (N, C) of log probabilities (N, C), scaled by (log T, offsets)."""
    x = logs * np.exp(-scale[0]) + scale[1:]
    x = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(x / x.sum(1, keepdims=True))


def fit(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[tuple[str, ...], np.ndarray]:
    """Returns {choices: (log T, offset of each choice)} by log loss; choices with few answers are left out."""
    found = {}
    for choices, rows in _rows(questions, answers).items():
        if len(rows) < FEWEST:
            continue
        logs = _logs(answers, [place for place, _ in rows], choices)
        truth = np.array([number for _, number in rows])

        def loss(scale: np.ndarray, logs: np.ndarray = logs, truth: np.ndarray = truth) -> float:
            right = _shares(logs, scale)[np.arange(len(truth)), truth]
            return float(-np.log(np.maximum(right, FLOOR)).mean() + PRIOR * np.square(scale).mean())

        found[choices] = np.asarray(minimize(loss, np.zeros(len(choices) + 1), method="L-BFGS-B").x)
    return found


def apply(
    scales: dict[tuple[str, ...], np.ndarray], questions: Sequence[Question], answers: Sequence[Answer]
) -> list[Answer]:
    """Returns the answers with calibrated probabilities; an answer without a fit keeps its own."""
    made = list(answers)
    for place, (question, answer) in enumerate(zip(questions, answers)):
        if answer.probabilities and question.choices in scales:
            shares = _shares(_logs([answer], [0], question.choices), scales[question.choices])[0]
            made[place] = replace(answer, probabilities=dict(zip(question.choices, map(float, shares))))
    return made
