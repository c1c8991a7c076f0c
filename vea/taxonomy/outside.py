"""Labels in anybody's words, brought to the classes of a taxonomy or left open (Emo Pillars, arXiv 2504.16856).

A label is a class if it is its name, its lemma, a synonym (vea's families of words), or lies nearest to it among
sentence embeddings and near enough; any other stays open: it is kept, counted, and never forced into a closed loss.
Several annotators come together by ``vea.metrics.aggregate_labels``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vea.errors import VeaError
from vea.taxonomy.wheels import families, word_polarity

Embed = Callable[[list[str]], np.ndarray]  # texts to unit vectors (N, D)
# longest first
ENDINGS = ("fulness", "iness", "ness", "ingly", "edly", "fully", "ful", "ally", "ily", "ing", "ies", "ion", "ed", "ly",
           "y", "s")  # fmt: skip
HOW = ("exact", "lemma", "synonym", "nearest", "open")


@dataclass(frozen=True)
class Mapped:
    """What became of a label: ``name`` of a class, or None where it stays open; ``how`` is one of ``HOW``."""

    label: str
    name: str | None
    how: str


def stem(word: str) -> str:
    """Returns a word without the longest English ending that leaves three letters: angrily, angry -> angr."""
    word = word.lower().strip()
    ending = next((e for e in ENDINGS if word.endswith(e) and len(word) - len(e) > 2), "")
    return word.removesuffix(ending).rstrip("e")


class Mapper:
    """Brings labels to ``classes``.

    Args:
        classes: names of the taxonomy.
        embed: gives unit vectors of texts; None leaves out the nearest class.
        threshold: the least cosine of a nearest class.

    Raises:
        VeaError: two classes have one name.
    """

    def __init__(self, classes: Sequence[str], *, embed: Embed | None = None, threshold: float = 0.6) -> None:
        self.classes, self.embed, self.threshold = list(classes), embed, threshold
        self._names = {self._plain(name): name for name in classes}
        if len(self._names) < len(self.classes):
            raise VeaError(f"two of the classes {', '.join(classes)} have the same name")
        self._stems = self._only_ones([(stem(name), name) for name in classes])
        known = families()
        self._families = self._only_ones([(known[p], name) for p, name in self._names.items() if p in known])
        self._vectors = embed([self._plain(name) for name in classes]) if embed is not None else None

    @staticmethod
    def _plain(text: str) -> str:
        return " ".join(text.lower().replace("_", " ").split())

    @staticmethod
    def _only_ones(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
        """Returns {key: class} of the keys that one class alone has: what fits two classes names neither."""
        counts = Counter(key for key, _ in pairs)
        return {key: name for key, name in pairs if counts[key] == 1}

    def map(self, labels: Sequence[str]) -> list[Mapped]:
        """Returns what becomes of each label."""
        found = [self._closed(label) for label in labels]
        rest = [i for i, one in enumerate(found) if one is None]
        near = self._nearest([self._plain(labels[i]) for i in rest])
        for i, name in zip(rest, near):
            found[i] = Mapped(labels[i], name, "nearest" if name else "open")
        return [one for one in found if one is not None]

    def _closed(self, label: str) -> Mapped | None:
        plain = self._plain(label)
        steps = (
            ("exact", self._names.get(plain)),
            ("lemma", self._stems.get(stem(plain))),
            ("synonym", self._families.get(families().get(plain, ""))),
        )
        return next((Mapped(label, name, how) for how, name in steps if name is not None), None)

    def similarities(self, texts: Sequence[str]) -> np.ndarray:
        """Returns cosines (N, C) of texts with the classes; those of opposite polarity are -1."""
        if self.embed is None or self._vectors is None or not texts:
            return np.full((len(texts), len(self.classes)), -1.0)
        cosines = self.embed(list(texts)) @ self._vectors.T
        own = [word_polarity(text) or 0 for text in texts]
        theirs = [word_polarity(self._plain(name)) or 0 for name in self.classes]
        return np.where(np.outer(own, theirs) < 0, -1.0, cosines)

    def _nearest(self, texts: Sequence[str]) -> list[str | None]:
        cosines = self.similarities(texts)
        return [self.classes[int(row.argmax())] if row.max() >= self.threshold else None for row in cosines]

    def tune(self, labels: Sequence[str], truth: Sequence[str | None]) -> float:
        """Sets and returns the threshold with the most right decisions on validation labels; None is open.

        Of equal ones the highest: what is in doubt stays open.
        """
        rest = [i for i, label in enumerate(labels) if self._closed(label) is None]
        cosines = self.similarities([self._plain(labels[i]) for i in rest])
        best = (-1, 1.0)
        for threshold in [1.01, *sorted({float(row.max()) for row in cosines}, reverse=True)]:
            told = [self.classes[int(row.argmax())] if row.max() >= threshold else None for row in cosines]
            right = sum(name == truth[i] for name, i in zip(told, rest))
            best = max(best, (right, threshold))
        self.threshold = best[1]
        return self.threshold

    def sort(self, labels: Sequence[str]) -> tuple[list[str], list[str], dict[str, int]]:
        """Returns the classes of labels, each once, the open labels, and the counts by ``HOW``."""
        mapped = self.map(labels)
        closed = list(dict.fromkeys(one.name for one in mapped if one.name is not None))
        counts = Counter(one.how for one in mapped)
        return closed, [one.label for one in mapped if one.name is None], {how: counts[how] for how in HOW}


def with_and_without(context: str, text: str) -> tuple[str, str]:
    """Returns the two forms of a record: with what surrounds it, and alone."""
    return (f"In the context of: '{context.strip()}', {text}" if context.strip() else text), text
