"""Paintings as ``index.jsonl`` (file, style, artist, title) + ``images/``; without a split: cut by a hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, hash_of, image_sample, read_jsonl, require_file
from vea.errors import VeaError


class WikiArt(Source):
    """Field ``style``; text by the template in the card's option ``text``."""

    options = {"val_percent": 5, "text": "{title}, a painting by {artist}"}  # noqa: RUF012

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (file stem, row of index.jsonl)."""
        path = require_file(root, "index.jsonl", self.card)
        require_file(root, "images", self.card)
        records = []
        for row in read_jsonl(path, named=["file"], warnings=self.warnings):
            if "file" not in row or "style" not in row:
                raise VeaError(f"{path}: a row without 'file' or 'style': {row}")
            key = Path(row["file"]).stem
            # Another hash than the one that orders the samples: a limit must not change the share of the splits.
            is_val = int.from_bytes(hash_of(f"split:{key}"), "big") % 100 < self.option["val_percent"]
            if is_val == (split == "val"):
                records.append((key, row))
        return records

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one painting."""
        known = {name: str(record.get(name) or "unknown").strip() for name in ("title", "artist")}
        text = self.option["text"].format(style=record["style"].replace("_", " "), **known)
        return image_sample(
            root / "images" / record["file"],
            key=key,
            split=split,
            source=self.card.name,
            labels={"style": record["style"]},
            text=[text] if text else [],
        )
