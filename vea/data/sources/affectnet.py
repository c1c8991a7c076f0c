"""AffectNet: ``{train,val}_set/images/ID.jpg`` with ``annotations/ID_{exp,val,aro}.npy``, or a CSV list."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, read_csv, require_file
from vea.errors import VeaError


class AffectNet(Source):
    """Fields ``expression``, ``valence``, ``arousal``; other classes than the card's are left out.

    Valence and arousal of -2 mean that nobody rated them: absent.
    """

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (SPLIT_ID, (image path, class name)) of the samples whose class the card has."""
        if not (root / f"{split}_set" / "annotations").is_dir() and (table := self._table(root, split)):
            return self._rows(root, table, split)
        folder = require_file(root, f"{split}_set/annotations", self.card)
        names = self.card.label_fields["expression"].classes
        found = []
        for path in folder.glob("[!.]*_exp.npy"):
            value = self._number(path)
            label = int(value) if math.isfinite(value) else -1
            if 0 <= label < len(names):
                number = path.name.removesuffix("_exp.npy")  # counts from 0 in both splits
                found.append((f"{split}_{number}", (self._image(folder.parent / "images", number), names[label])))
        return found

    @staticmethod
    def _table(root: Path, split: str) -> Path | None:
        """Returns the list of a split in the first release's form, by the names that it has."""
        names = {"train": ("training.csv", "train.csv"), "val": ("validation.csv", "val.csv")}.get(split, ())
        return next((root / name for name in names if (root / name).is_file()), None)

    def _rows(self, root: Path, table: Path, split: str) -> list[tuple[str, Any]]:
        """Returns (key by path, (image path, class name, {valence, arousal})) of the rows of a list."""
        names, found = self.card.label_fields["expression"].classes, []
        columns = ["subDirectory_filePath", "expression", "valence", "arousal"]
        for number, row in enumerate(read_csv(table, columns), start=1):
            file = row["subDirectory_filePath"].strip().replace("\\", "/")
            try:
                label = int(float(row["expression"]))
                values = {name: float(row[name]) for name in ("valence", "arousal")}
            except (ValueError, OverflowError):
                raise VeaError(
                    f"{table}, row {number}: expression, valence and arousal of {file} are numbers"
                ) from None
            if 0 <= label < len(names):
                places = (root / "Manually_Annotated_Images" / file, root / file)
                path = next((place for place in places if place.is_file()), places[-1])
                key = f"{split}_{file.rpartition('.')[0].replace('/', '__')}"
                found.append((key, (path, names[label], values)))
        return found

    @staticmethod
    def _image(folder: Path, number: str) -> Path:
        """Returns the picture of a number, by the suffix that it has here: .jpg as released, .png in repacks."""
        paths = (folder / f"{number}{suffix}" for suffix in (".jpg", ".png", ".jpeg", ".JPG", ".webp"))
        return next((path for path in paths if path.is_file()), folder / f"{number}.jpg")

    def _number(self, path: Path) -> float:
        try:
            return float(np.load(path, allow_pickle=False).item())  # stored as a number or as its text
        except FileNotFoundError:
            return float("nan")
        except Exception as error:  # numpy's readers raise many types: an empty file, an archive, a list, another type
            reason = " ".join(str(error).split()) or type(error).__name__
            raise VeaError(f"{path} does not hold one number ({reason}); copy it again") from None

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one face."""
        path, expression, *listed = record
        labels: dict[str, Any] = {"expression": expression}
        for name, part in (("valence", "val"), ("arousal", "aro")):
            if listed:
                value = listed[0][name]
            else:
                value = self._number(path.parent.parent / "annotations" / f"{path.stem}_{part}.npy")
            if -1 <= value <= 1:
                labels[name] = round(value, 6)
        return image_sample(path, key=key, split=split, source=self.card.name, labels=labels)
