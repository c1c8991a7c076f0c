"""OASIS as ``oasis.csv`` + ``images/``: valence and arousal norms (1 to 7), category, one human caption."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, read_csv, require_file
from vea.errors import VeaError

_SPLITS = {"train": "train", "val": "valid", "test": "test"}


class Oasis(Source):
    """Fields ``valence``, ``arousal`` and ``category``; text: the human caption."""

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (file stem, row of oasis.csv)."""
        path = require_file(root, "oasis.csv", self.card)
        require_file(root, "images", self.card)
        columns = ["file", "category", "valence_mean", "arousal_mean", "caption_human", "split"]
        return [
            (Path(row["file"]).stem, row)
            for row in read_csv(path, columns, warnings=self.warnings)
            if row["split"] == _SPLITS[split]
        ]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one photograph with its mean ratings."""
        try:
            valence, arousal = float(record["valence_mean"]), float(record["arousal_mean"])
        except ValueError as error:
            raise VeaError(f"{root / 'oasis.csv'}, {record['file']}: {error}") from None
        caption = record["caption_human"].strip()
        return image_sample(
            root / "images" / record["file"],
            key=key,
            split=split,
            source=self.card.name,
            labels={"valence": valence, "arousal": arousal, "category": record["category"]},
            text=[caption] if caption else [],
        )
