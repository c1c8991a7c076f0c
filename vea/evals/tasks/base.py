"""What a task is, and how a user names one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.evals.question import LOW_MASS, Answer, Question

TASKS = ("statements", "choice", "open-vocabulary", "ratings", "affect", "explanations")


class Task:
    """Questions with what their scores need.

    ``source`` is what a user named behind the colon, ``data`` a folder. Deterministic in ``seed``.
    """

    name = "task"
    headline = "accuracy"
    readouts: tuple[str, ...] = ("text", "probability")
    validation = "valid"  # what the data call the split that calibration is fitted on

    def __init__(self, source: str = "", *, data: Path | None = None, seed: int = 0, **options: Any) -> None:
        self.source, self.data, self.seed, self.options = source, data, seed, options

    def questions(self, split: str) -> list[Question]:
        """Returns the questions of a split: ``test``, or ``train`` and ``validation`` where there are such."""
        raise NotImplementedError

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns the metrics of a read-out, by name; nested by class where there are classes."""
        raise NotImplementedError

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns 0 to 1 for one answer, for intervals and comparisons; None where one answer has no score."""
        return None

    def context(self, split: str) -> dict[str, Any]:
        """Returns what must be read beside the scores: human ceilings, biases of the questions."""
        return {}

    def folder(self, name: str) -> Path:
        """Returns the data folder: --data, else VEA_DATA/NAME.

        Raises:
            VeaError: neither is there.
        """
        if self.data is not None:
            return self.data
        root = os.environ.get("VEA_DATA")
        if not root:
            raise VeaError(f"{self.name} needs the folder of {name}: give --data DIR or set VEA_DATA to the one above")
        return Path(root) / name


def named(answer: Answer, readout: str) -> str:
    """Returns the text that parsers read: what was generated, or the likeliest choice; empty without an answer."""
    if readout == "text":
        return answer.text or ""
    shares = answer.probabilities or {}
    return max(shares, key=lambda name: shares[name]) if shares else ""


def has_readout(answer: Answer, readout: str) -> bool:
    """Returns whether an answer holds a read-out."""
    return (answer.text if readout == "text" else answer.probabilities) is not None


def mass_scores(answers: Sequence[Answer]) -> dict[str, float]:
    """Returns the mean answer mass of first tokens and the share of answers below ``LOW_MASS``."""
    mass = [answer.mass for answer in answers if answer.mass is not None]
    if not mass:
        return {}
    return {"answer_mass": float(np.mean(mass)), "low_mass_share": float(np.mean([m < LOW_MASS for m in mass]))}


def open_task(spec: str, **options: Any) -> Task:
    """Returns the task of ``NAME[:SOURCE]``.

    Raises:
        VeaError: there is no such task.
    """
    name, _, source = spec.partition(":")
    if name not in TASKS:
        raise VeaError(f"no task {name!r}{did_you_mean(name, TASKS)}")
    module = import_module(f"vea.evals.tasks.{name.replace('-', '_')}")
    return module.make(source, **options)
