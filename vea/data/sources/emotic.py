"""EMOTIC (Kosti et al., TPAMI 2019): ``Annotations/Annotations.mat`` and the pictures under ``emotic/``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, require_file
from vea.errors import VeaError, did_you_mean

_VALUES = ("valence", "arousal", "dominance")


def _each(value: Any) -> list[Any]:
    """Returns a list of what ``loadmat`` gives for a MATLAB array of one, several or no entries."""
    return (
        list(value) if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim) else [value]
    )


class Emotic(Source):
    """One sample per annotated person: the whole picture, that person's box first, categories and values.

    Where several people judged (val, test) the file's combined annotation counts.
    """

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (folder, file stem and number of the person; path, box, categories, values)."""
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        path = require_file(root, "Annotations/Annotations.mat", self.card)
        try:
            entries = loadmat(path, simplify_cells=True)[split]
        except (MatReadError, ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise VeaError(f"{path} is not EMOTIC's annotation file ({type(error).__name__}: {error})") from None
        records = []
        for entry in _each(entries):
            name = f"{entry['folder']}/{entry['filename']}"
            for number, person in enumerate(_each(entry["person"])):
                key = f"{name.rpartition('.')[0]}_{number}".replace("/", "__")
                records.append((key, (name, *self._person(person, f"{path}, {name}"))))
        return records

    def _person(self, person: dict[str, Any], where: str) -> tuple[list[float], list[str], dict[str, float]]:
        known = self.card.label_fields["categories"].classes
        categories = person.get("combined_categories")
        if categories is None:
            categories = person["annotations_categories"]["categories"]
        names = [str(name).strip() for name in _each(categories) if str(name).strip()]
        for name in names:
            if name not in known:
                raise VeaError(f"{where}: unknown category {name!r}{did_you_mean(name, known)}")
        values = person.get("combined_continuous")
        if values is None:
            values = person["annotations_continuous"]
        numbers = {name: float(values[name]) for name in _VALUES if name in values}
        box = [float(edge) for edge in np.asarray(person["body_bbox"]).ravel()]
        return box, names, {name: value for name, value in numbers.items() if math.isfinite(value)}

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one person in their picture."""
        name, box, categories, values = record
        return image_sample(
            root / "emotic" / name,
            key=key,
            split=split,
            source=self.card.name,
            labels={"categories": categories, **values},
            person_boxes=[box],
        )
