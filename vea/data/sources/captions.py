"""Photographs with captions as JSON lines + ``images/``; a set may be put together from several folders.

A row has ``file`` and ``captions``; ``split`` where one file holds all splits; ``objects`` with COCO boxes (x, y,
width, height) where people are marked.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, key_of_path, read_jsonl, require_file, texts_of
from vea.errors import VeaError


def person_boxes(objects: Iterable[dict[str, Any]]) -> list[list[float]]:
    """Returns [x0, y0, x1, y1] of every single person, the biggest first; crowds are left out."""
    boxes = [item["bbox"] for item in objects if item.get("category") == "person" and not item.get("iscrowd")]
    boxes.sort(key=lambda box: (-box[2] * box[3], box))
    return [[round(v, 2) for v in (x, y, x + width, y + height)] for x, y, width, height in boxes if width > 0 < height]


class Captions(Source):
    """No label fields, text and person boxes only.

    Option ``parts`` lists ``{folder, prefix of the keys, rows, splits, without}``; ``{split}`` in the file name
    ``rows`` is filled in, ``splits`` names those the part has (all by default), and ``without`` a JSON-lines file whose
    pictures, by name, are left out: those that somebody else's test asks for.
    """

    options = {"parts": [{"folder": ".", "prefix": "", "rows": "captions.jsonl"}]}  # noqa: RUF012

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (prefix + key of the file, (folder, row)); a part without a file for this split has none of it."""
        records = []
        for part in self.option["parts"]:
            folder = root / part["folder"]
            by_split = "{split}" in part["rows"]
            splits = part.get("splits", self.card.splits)
            if split not in splits:
                continue
            path = require_file(root, str(Path(part["folder"]) / part["rows"].format(split=split)), self.card)
            require_file(root, str(Path(part["folder"]) / "images"), self.card)
            left_out: set[str] = set()
            if "without" in part:
                path_without = require_file(root, part["without"], self.card)
                others = read_jsonl(path_without, named=["file"], warnings=self.warnings)
                left_out = {Path(row["file"]).name for row in others}
            for row in read_jsonl(path, named=["file"], warnings=self.warnings):
                if "file" not in row or "captions" not in row or not (by_split or "split" in row):
                    raise VeaError(f"{path}: a row without 'file', 'captions' or 'split': {row}")
                if (by_split or row["split"] == split) and Path(row["file"]).name not in left_out:
                    records.append((part.get("prefix", "") + key_of_path(row["file"]), (folder, row)))
        return records

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one photograph with all its captions and person boxes."""
        folder, row = record
        return image_sample(
            folder / "images" / row["file"],
            key=key,
            split=split,
            source=folder.resolve().name,
            text=texts_of(row["captions"]),
            person_boxes=person_boxes(row.get("objects") or ()),
        )
