"""FER2013 with its own labels and the FER+ votes: ``labels.csv`` and one zip of 48x48 PNG files per split."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vea.data.cards import Card
from vea.data.sample import Sample
from vea.data.sources.base import Source, read_csv, require_file
from vea.errors import VeaError

_FILES = {"train": "train", "val": "valid", "test": "test"}  # our split -> theirs
_NOT_EMOTIONS = ("unknown", "NF")  # not a face


def vote_distribution(votes: Sequence[int], *, emotions: int = 8) -> list[float] | None:
    """Returns the share of each emotion by the FER+ "probability" rule, or None where it drops the sample.

    ``votes``: counts of the emotions, then unknown and not-a-face. Single votes are removed as outliers. Classes are
    then taken from the most voted down (ties together) until they hold 3/4 of the votes or three are taken. The
    sample is dropped when more than three were taken, when they hold no more than half of the votes, or when unknown or
    not-a-face is at the top. One of these further down ends the taking and does not count.
    Source: Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
    distribution", ICMI 2016, and the counts 27,956 / 3,505 / 3,505 of its released code.
    """
    left = [count if count > 1 else 0 for count in votes]
    total = sum(left)
    taken = [0] * len(left)
    stopped = False
    number = 0
    while total and sum(taken) < 0.75 * total and number < 3 and not stopped:
        top = max(left)
        for i, count in enumerate(left):
            if count != top:
                continue
            taken[i], left[i] = top, 0
            number += 1
            if i >= emotions:
                stopped = True
                if sum(taken) > top:  # emotions came first: they stay, this one does not
                    taken[i] = 0
                    number -= 1
                break
    held = sum(taken[:emotions])
    if sum(taken) <= 0.5 * total or number > 3 or max(taken) > max(taken[:emotions]) or not held:
        return None
    return [round(count / held, 6) for count in taken[:emotions]]


def majority_class(votes: Sequence[int], *, emotions: int = 8) -> int | None:
    """Returns the index with more than half of the votes, or None: the FER+ "majority" rule.

    Single votes are removed first; a sample whose top is unknown or not-a-face is dropped.
    Counts 25,060 / 3,199 / 3,153.
    """
    left = [count if count > 1 else 0 for count in votes]
    top = left.index(max(left))
    return top if top < emotions and 2 * left[top] > sum(left) else None


def multi_target(votes: Sequence[int], *, emotions: int = 8) -> list[float] | None:
    """Returns the share of each emotion by the FER+ "multi-target" rule (27,671 / 3,472 / 3,472 samples), or None.

    Single votes are removed; classes with 30 % of the rest are kept. A sample is dropped when those hold no more than
    half of the votes or when the top is unknown or not-a-face. What is kept of the eight emotions sums to 1.
    """
    left = [count if count > 1 else 0 for count in votes]
    kept = [count if count >= 0.3 * sum(left) else 0 for count in left]
    if 2 * sum(kept) <= sum(left) or kept.index(max(kept)) >= emotions:
        return None
    return [round(count / sum(kept[:emotions]), 6) for count in kept[:emotions]]


class Fer2013Plus(Source):
    """Fields ``expression`` (FER2013's seven), ``ferplus`` (majority of the votes, eight) and ``votes``."""

    def __init__(self, card: Card):
        super().__init__(card)
        self._zips: dict[Path, zipfile.ZipFile] = {}

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (name without .png, row of labels.csv)."""
        emotions = self.card.label_fields["votes"].classes
        columns = [f"v_{name}" for name in (*emotions, *_NOT_EMOTIONS)]
        path = require_file(root, "labels.csv", self.card)
        require_file(root, f"{_FILES[split]}.zip", self.card)
        rows = read_csv(path, ["file", "split", "fer_label", "plus_majority", *columns], warnings=self.warnings)
        try:
            return [
                (row["file"].removesuffix(".png"), {**row, "votes": [int(row[column]) for column in columns]})
                for row in rows
                if row["split"] == _FILES[split]
            ]
        except ValueError as error:
            raise VeaError(f"{path}: a vote is not a whole number: {error}") from None

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one face; labels that the row leaves empty are absent."""
        labels: dict[str, Any] = {}
        if record["fer_label"]:
            labels["expression"] = record["fer_label"]
        if record["plus_majority"]:
            labels["ferplus"] = record["plus_majority"]
        votes = vote_distribution(record["votes"])
        if votes is not None:
            labels["votes"] = votes
        return Sample(
            key=key,
            image=self._read(root / f"{_FILES[split]}.zip", record["file"]),
            extension="png",
            labels=labels,
            source=self.card.name,
            split=split,
        )

    def _read(self, path: Path, name: str) -> bytes:
        try:
            if path not in self._zips:
                self._zips[path] = zipfile.ZipFile(path)
            return self._zips[path].read(name)
        except KeyError:
            raise FileNotFoundError(f"{name} in {path.name}") from None
        except zipfile.BadZipFile as error:
            raise VeaError(f"{path} is damaged ({error}); copy it again") from None
