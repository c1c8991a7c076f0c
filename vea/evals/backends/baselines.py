"""What a score means nothing without: constant, uniform, text only, another picture, brightness; and the oracle."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.evals.backends.base import Backend
from vea.evals.question import Answer, Question


def certain(question: Question, choice: str) -> Answer:
    """Returns an answer that names one choice, or is that text, without doubt."""
    shares = {name: float(name == choice) for name in question.choices}
    return Answer(text=choice, probabilities=shares or None, mass=1.0 if shares else None)


def spread(question: Question, probabilities: np.ndarray) -> Answer:
    """Returns an answer with these probabilities (C,) of the question's choices; its text names the likeliest."""
    shares = {name: float(p) for name, p in zip(question.choices, probabilities)}
    best = max(shares, key=lambda name: shares[name]) if shares else ""
    return Answer(text=best, probabilities=shares or None, mass=1.0 if shares else None)


class Baseline(Backend):
    """A baseline: answers at once and from nothing; ``answer`` is all that differs."""

    keeps_answers = False

    def __init__(self, name: str, *, seed: int = 0) -> None:
        super().__init__()
        self.name, self.seed = name, seed
        self.settings = {"seed": seed}

    def answer(self, question: Question) -> Answer:
        """Returns the answer to one question."""
        raise NotImplementedError

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields the answers in order."""
        for place, question in enumerate(questions):
            yield place, self.answer(question)


class Constant(Baseline):
    """Always the same answer: the one given, else the most frequent right one of the training split."""

    def __init__(self, value: str = "", *, seed: int = 0) -> None:
        super().__init__(f"constant:{value}" if value else "constant", seed=seed)
        self.value = value
        self._frequent: dict[tuple[str, ...], str] = {}

    def prepare(self, train: Sequence[Question]) -> None:
        """Finds the most frequent right answer of each kind of question."""
        counts: dict[tuple[str, ...], Counter[str]] = {}
        for question in train:
            counts.setdefault(question.choices, Counter())[str(question.row.get("answer", ""))] += 1
        self._frequent = {choices: max(sorted(c), key=lambda name: c[name]) for choices, c in counts.items()}

    def answer(self, question: Question) -> Answer:
        """Returns the constant."""
        default = question.choices[0] if question.choices else "neutral"
        return certain(question, self.value or self._frequent.get(question.choices, default))


class Uniform(Baseline):
    """A choice drawn evenly; the draw depends on the seed and the question, not on the order."""

    def answer(self, question: Question) -> Answer:
        """Returns a random choice."""
        digest = hashlib.sha256(f"{self.seed}/{question.key}".encode()).digest()
        number = int.from_bytes(digest[:8], "big")
        return certain(question, question.choices[number % len(question.choices)] if question.choices else "neutral")


class Oracle(Baseline):
    """Knows the truth: a task whose oracle is below 100 % has a fault."""

    def answer(self, question: Question) -> Answer:
        """Returns the right answer."""
        if "answer" not in question.row:
            raise VeaError("this task holds no single right answer, so it has no oracle")
        return certain(question, str(question.row["answer"]))


def _tokens(text: str) -> list[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]


class Learner(Baseline):
    """Ridge regression from what ``features`` sees to the right answer, one a kind of question, on the training split.

    ``strength`` of the penalty is chosen by the closed-form leave-one-out error on the training split.
    """

    def __init__(self, name: str, *, seed: int = 0) -> None:
        super().__init__(name, seed=seed)
        self._weights: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = {}

    def features(self, questions: Sequence[Question]) -> np.ndarray:
        """Returns (N, D), what the learner sees of questions."""
        raise NotImplementedError

    def begin(self, train: Sequence[Question]) -> None:
        """Learns what ``features`` needs, a vocabulary for instance."""

    def prepare(self, train: Sequence[Question]) -> None:
        """Fits one regression a kind of question."""
        if not train:
            raise VeaError(f"{self.name} learns from a training split, and this task has none")
        self.begin(train)
        kinds: dict[tuple[str, ...], list[Question]] = {}
        for question in train:
            if question.choices:
                kinds.setdefault(question.choices, []).append(question)
        for choices, questions in kinds.items():
            target = np.zeros((len(questions), len(choices)))
            for row, question in enumerate(questions):
                target[row, choices.index(str(question.row["answer"]))] = 1
            self._weights[choices] = ridge(self.features(questions), target)

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields the answers; scores are cut to probabilities by softmax over four times the regression."""
        seen = self.features(questions)
        for place, question in enumerate(questions):
            if question.choices not in self._weights:
                yield place, Answer(error=f"{self.name} was not trained on questions of this kind")
                continue
            weights, bias = self._weights[question.choices]
            scores = 4 * (seen[place] @ weights + bias)
            odds = np.exp(scores - scores.max())
            yield place, spread(question, odds / odds.sum())


def ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weights (D, C) and bias (C,) of the ridge regression with the least leave-one-out error."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    u, s, vt = np.linalg.svd(x - mean_x, full_matrices=False)
    projected = u.T @ (y - mean_y)
    best: tuple[float, np.ndarray | None] = (np.inf, None)
    for strength in np.logspace(-2, 5, 29):
        shrink = s**2 / (s**2 + strength)
        residual = (y - mean_y) - u @ (shrink[:, None] * projected)
        leverage = (u**2 * shrink).sum(1) + 1 / len(x)
        error = float(((residual / (1 - np.minimum(leverage, 0.999))[:, None]) ** 2).mean())
        if error < best[0]:
            best = (error, vt.T @ ((s / (s**2 + strength))[:, None] * projected))
    weights = best[1] if best[1] is not None else np.zeros((x.shape[1], y.shape[1]))
    return weights, mean_y - mean_x @ weights


class TextOnly(Learner):
    """Reads the question and not the picture: words and word pairs. What it gets right, the texts give away."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__("text-only", seed=seed)

    def begin(self, train: Sequence[Question]) -> None:
        """Keeps the words that occur in two prompts or more."""
        counts = Counter(word for question in train for word in set(_tokens(question.prompt)))
        self._place = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n > 1))}

    def features(self, questions: Sequence[Question]) -> np.ndarray:
        """Returns (N, 2 words): which words a prompt holds, and the same times the tone of the claim.

        The product lets it learn which captions go with pleasant words: what a reader knows without the picture.
        """
        seen = np.zeros((len(questions), len(self._place)))
        for row, question in enumerate(questions):
            for word in _tokens(question.prompt):
                if word in self._place:
                    seen[row, self._place[word]] = 1
        tones = np.array([[text_polarity(question.prompt)] for question in questions]).reshape(-1, 1)
        return np.concatenate([seen, seen * tones], axis=1)


def brightness_and_colour(question: Question) -> np.ndarray:
    """Returns (3,): brightness, its deviation, colourfulness (Hasler and Suesstrunk 2003), each about 0 to 1."""
    from vea.data.views.pictures import read_image

    if question.picture is None:
        return np.zeros(3)
    pixels = read_image(question.picture)[::4, ::4].astype(float)
    red_green = pixels[..., 0] - pixels[..., 1]
    yellow_blue = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    colour = np.hypot(red_green.std(), yellow_blue.std()) + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean())
    return np.array([pixels.mean() / 255, pixels.std() / 255, colour / 110])


class Brightness(Learner):
    """Knows how bright and colourful a picture is and whether the text is pleasant; nothing of what is in it."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__("brightness", seed=seed)

    def features(self, questions: Sequence[Question]) -> np.ndarray:
        """Returns (N, 8): the three numbers, the polarity of the text, and their products."""
        held: dict[Any, np.ndarray] = {}
        rows = []
        for question in questions:
            if question.picture not in held:
                held[question.picture] = brightness_and_colour(question)
            look, tone = held[question.picture], text_polarity(question.prompt)
            rows.append(np.concatenate([look, [tone, abs(tone)], look * tone]))
        return np.stack(rows) if rows else np.zeros((0, 8))


def text_polarity(text: str) -> float:
    """Returns the mean polarity, -1 to 1, of the emotion words of a text, 0 without any."""
    from vea.taxonomy.wheels import find_words, word_polarity

    found = [word_polarity(word) or 0 for word in find_words(text)]
    lower = text.lower()
    found += [1] * len(re.findall(r"\bpositive\b", lower)) + [-1] * len(re.findall(r"\bnegative\b", lower))
    return float(np.mean(found)) if found else 0.0


class Shuffled(Backend):
    """A model that is shown another picture: each picture of the run stands for the next of a seeded circle."""

    def __init__(self, model: Backend, *, seed: int = 0) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.name = f"shuffled:{model.name}"
        self.settings = {**model.settings, "shuffled": seed}
        self.readouts, self.keeps_answers = model.readouts, model.keeps_answers

    def prepare(self, train: Sequence[Question]) -> None:
        """Prepares the model with true pictures."""
        self.model.prepare(train)

    def plan(self, questions: Sequence[Question]) -> None:
        """Draws which picture stands for which."""
        pictures = sorted({question.picture for question in questions if question.picture is not None})
        order = [pictures[i] for i in np.random.default_rng(self.seed).permutation(len(pictures))]
        self._other = dict(zip(order, [*order[1:], *order[:1]]))
        self.model.plan(questions)

    def shown(self, question: Question) -> Path | None:
        """Returns the other picture."""
        return None if question.picture is None else self._other[question.picture]

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields the model's answers to the same questions about other pictures."""
        yield from self.model.ask([replace(q, picture=self.shown(q)) for q in questions], readouts)
        self.counts, self.notes = self.model.counts, self.model.notes

    def close(self) -> None:
        """Frees the model."""
        self.model.close()


def open_baseline(name: str, rest: str, *, seed: int = 0) -> Backend:
    """Returns a baseline by name."""
    if name == "constant":
        return Constant(rest, seed=seed)
    if name == "uniform":
        return Uniform("uniform", seed=seed)
    if name == "oracle":
        return Oracle("oracle", seed=seed)
    return {"text-only": TextOnly, "brightness": Brightness}[name](seed=seed)
