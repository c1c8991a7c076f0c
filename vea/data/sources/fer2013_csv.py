"""Kaggle's fer2013.csv: ``emotion,pixels,Usage``, 48x48 grey pixels as text; FER+ votes from fer2013new.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vea.data.sample import Sample
from vea.data.sources.base import Source, read_csv, read_text, require_file
from vea.data.sources.fer2013plus import majority_class, multi_target, vote_distribution
from vea.errors import VeaError
from vea.taxonomy.fields import LabelField

_USAGE = {"train": "Training", "val": "PublicTest", "test": "PrivateTest"}
_SIDE = 48


class Fer2013Csv(Source):
    """Fields ``expression`` and, with the file of FER+, ``ferplus`` (majority), ``votes``, ``multi_target``.

    Rows that FER+ marks as no face (an empty image name) keep their FER2013 label only.
    """

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the card's fields; those of FER+ only where its file is there."""
        if (root / "fer2013new.csv").is_file():
            return self.card.label_fields
        return {"expression": self.card.label_fields["expression"]}

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (ferNNNNNNN by row, (row, votes)) in the order of the file."""
        path = self._table(root)
        rows = read_csv(path, ["emotion", "pixels", "Usage"])
        votes = self._votes(root, len(rows))
        return [
            (f"fer{number:07d}", (row, votes[number]))
            for number, row in enumerate(rows)
            if row["Usage"].strip() == _USAGE[split]
        ]

    def _table(self, root: Path) -> Path:
        """Returns the file by either of the names that Kaggle has given it."""
        other = root / "icml_face_data.csv"
        return other if other.is_file() else require_file(root, "fer2013.csv", self.card)

    def _votes(self, root: Path, rows: int) -> list[list[int] | None]:
        path = root / "fer2013new.csv"
        if not path.is_file():
            return [None] * rows
        table = [row for row in csv.reader(io.StringIO(read_text(path), newline="")) if any(row)][1:]
        if len(table) != rows:
            raise VeaError(
                f"{path} has {len(table)} rows and {self._table(root).name} {rows}; they must belong together row "
                "by row"
            )
        try:
            return [[int(vote) for vote in row[2:12]] if row[1].strip() else None for row in table]
        except (ValueError, IndexError) as error:
            raise VeaError(f"{path}: a row is not Usage, image name and ten whole numbers ({error})") from None

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one face as PNG."""
        row, votes = record
        names = self.card.label_fields["expression"].classes
        try:
            pixels = np.array(row["pixels"].split(), dtype=np.uint8).reshape(_SIDE, _SIDE)
            labels: dict[str, Any] = {"expression": names[int(row["emotion"])]}
        except (ValueError, IndexError, OverflowError):
            raise VeaError(
                f"{self._table(root)}, sample {key}: emotion must be 0 to 6 and pixels {_SIDE * _SIDE} numbers "
                "from 0 to 255"
            ) from None
        if votes is not None:
            top = majority_class(votes)
            given = {"votes": vote_distribution(votes), "multi_target": multi_target(votes)}
            labels |= {name: value for name, value in given.items() if value is not None}
            if top is not None:
                labels["ferplus"] = self.card.label_fields["ferplus"].classes[top]
        png = cv2.imencode(".png", pixels)[1].tobytes()
        return Sample(key=key, image=png, extension="png", labels=labels, source=self.card.name, split=split)
