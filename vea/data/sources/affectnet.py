"""AffectNet: ``{train,val}_set/images/ID.jpg`` with ``annotations/ID_{exp,val,aro}.npy``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, require_file
from vea.errors import VeaError


class AffectNet(Source):
    """Fields ``expression``, ``valence``, ``arousal``; other classes than the card's are left out.

    Valence and arousal of -2 mean that nobody rated them: absent.
    """

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (ID, (image path, class name)) of the samples whose class the card has."""
        folder = require_file(root, f"{split}_set/annotations", self.card)
        names = self.card.label_fields["expression"].classes
        found = []
        for path in folder.glob("*_exp.npy"):
            label = int(self._number(path))
            if 0 <= label < len(names):
                key = path.name.removesuffix("_exp.npy")
                found.append((key, (folder.parent / "images" / f"{key}.jpg", names[label])))
        return found

    def _number(self, path: Path) -> float:
        try:
            return float(np.load(path, allow_pickle=False).item())  # stored as a number or as its text
        except FileNotFoundError:
            return float("nan")
        except ValueError as error:
            raise VeaError(f"{path} does not hold one number ({error}); copy it again") from None

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one face."""
        path, expression = record
        labels: dict[str, Any] = {"expression": expression}
        for name, part in (("valence", "val"), ("arousal", "aro")):
            value = self._number(path.parent.parent / "annotations" / f"{key}_{part}.npy")
            if -1 <= value <= 1:
                labels[name] = round(value, 6)
        return image_sample(path, key=key, split=split, source=self.card.name, labels=labels)
