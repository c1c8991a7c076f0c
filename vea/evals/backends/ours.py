"""vea's own recognisers as judges, and their first classes as hints for another model (HEF, arXiv 2402.11801)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.evals.backends.base import Backend
from vea.evals.backends.baselines import spread
from vea.evals.question import Answer, Question
from vea.taxonomy.wheels import families


class Reader:
    """Probabilities of a recogniser's classes by picture, each picture read once."""

    def __init__(self, model: str) -> None:
        from vea.inference.predict import load

        self._predictor = load(model)
        self._held: dict[Path, dict[str, float]] = {}

    def read(self, pictures: Sequence[Path]) -> None:
        """Reads the pictures that are not held yet."""
        new = [picture for picture in dict.fromkeys(pictures) if picture not in self._held]
        for picture, found in zip(new, self._predictor.predict(list(new)) if new else ()):
            self._held[picture] = dict(found.probabilities)

    def shares(self, picture: Path | None) -> dict[str, float]:
        """Returns class probabilities, empty where no face or no picture is."""
        return self._held.get(picture, {}) if picture is not None else {}


def on_choices(shares: dict[str, float], choices: Sequence[str]) -> np.ndarray | None:
    """Returns (C,) probabilities of the choices: classes count for the choice of their family (happy, happiness).

    None where no class is among the choices.
    """
    known = families()
    names = [known.get(choice.lower(), choice.lower()) for choice in choices]
    found = np.zeros(len(choices))
    for name, share in shares.items():
        family = known.get(name.lower(), name.lower())
        if family in names:
            found[names.index(family)] += share
    return found / found.sum() if found.sum() > 0 else None


class Recogniser(Backend):
    """A model that ``vea.load`` opens, for questions with classes among the choices."""

    readouts = ("text", "probability")
    keeps_answers = False

    def __init__(self, model: str) -> None:
        super().__init__()
        self.name, self.settings = Path(model).name, {"model": model}
        self._reader = Reader(model)

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields answers in order; where the recogniser finds no face, an even guess, counted."""
        self._reader.read([q.picture for q in questions if q.picture is not None])
        for place, question in enumerate(questions):
            if not question.choices:
                raise VeaError(f"{self.name} knows classes; it answers choice questions, not free text")
            shares = self._reader.shares(question.picture)
            found = on_choices(shares, question.choices)
            if shares and found is None:
                raise VeaError(f"{self.name} knows {', '.join(shares)}: none of {', '.join(question.choices)}")
            if found is None:
                self.counts["no face: even guess"] += 1
                found = np.full(len(question.choices), 1 / len(question.choices))
            yield place, spread(question, found)


class Hinted(Backend):
    """A model whose prompt names a recogniser's first classes as primary candidates, the rest only if none fits.

    P(choice) follows the same rule: the likeliest primary if it passes ``threshold``, else the likeliest of all.
    ``hint`` is a run of vea, or ``random``: the control, as many classes drawn with the seed.
    """

    def __init__(self, model: Backend, hint: str, *, k: int = 3, threshold: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        self.model, self.hint, self.k, self.threshold, self.seed = model, hint, k, threshold, seed
        self.name = f"{model.name} + {hint if hint == 'random' else Path(hint).name}"
        self.settings = {**model.settings, "hint": hint, "k": k, "threshold": threshold, "seed": seed}
        self.readouts, self.keeps_answers = model.readouts, model.keeps_answers
        self._reader = None if hint == "random" else Reader(hint)

    def prepare(self, train: Sequence[Question]) -> None:
        """Prepares the model."""
        self.model.prepare(train)

    def plan(self, questions: Sequence[Question]) -> None:
        """Reads the pictures."""
        self.model.plan(questions)
        if self._reader is not None:
            self._reader.read([q.picture for q in questions if q.picture is not None])

    def shown(self, question: Question) -> Path | None:
        """Returns what the model is shown."""
        return self.model.shown(question)

    def _primary(self, question: Question) -> list[tuple[str, float]]:
        """Returns the first ``k`` candidates with their probabilities."""
        if self._reader is None:
            import hashlib

            digest = hashlib.sha256(f"{self.seed}/{question.picture}".encode()).digest()
            order = np.random.default_rng(int.from_bytes(digest[:8], "big")).permutation(len(question.choices))
            return [(question.choices[i], 1 / (rank + 2)) for rank, i in enumerate(order[: self.k])]
        found = on_choices(self._reader.shares(question.picture), question.choices)
        if found is None:
            return []
        return [(question.choices[i], float(found[i])) for i in np.argsort(-found)[: self.k] if found[i] > 0]

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields the model's answers to the questions with hints; without a hint the question stays as it is."""
        hints = [self._primary(question) if question.choices else [] for question in questions]
        asked = []
        for question, hint in zip(questions, hints):
            said = ", ".join(f"{name} ({share:.2f})" for name, share in hint)
            text = f"A recogniser's primary candidates: {said}. Consider these first, the others only if none fits. "
            asked.append(replace(question, prompt=text + question.prompt) if hint else question)
        for place, answer in self.model.ask(asked, readouts):
            primary = [name for name, _ in hints[place]]
            shares = answer.probabilities
            if shares and primary and max(shares[name] for name in primary) >= self.threshold:
                kept: dict[str, Any] = {name: share if name in primary else 0.0 for name, share in shares.items()}
                total = sum(kept.values())
                answer = replace(answer, probabilities={name: share / total for name, share in kept.items()})
            yield place, answer
        self.counts, self.notes = self.model.counts, self.model.notes

    def close(self) -> None:
        """Frees the model."""
        self.model.close()
