"""RAF-DB basic: ``EmoLabel/list_patition_label.txt`` (its spelling) and ``Image/aligned/*_aligned.jpg``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source, image_sample, read_text, require_file
from vea.errors import VeaError


class RafDb(Source):
    """Field ``expression``; the list counts from 1. RAF-DB has train and test: hold out validation from train."""

    options = {"images": "Image/aligned", "suffix": "_aligned"}  # noqa: RUF012

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (train_00001, class name)."""
        path = require_file(root, "EmoLabel/list_patition_label.txt", self.card)
        names = self.card.label_fields["expression"].classes
        found = []
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            file, label = [*line.rsplit(maxsplit=1), ""][:2]
            if not file or not label.isdigit() or not 1 <= int(label) <= len(names):
                raise VeaError(f"{path}, line {number}: {line!r} is not an image name and a number 1 to {len(names)}")
            if file.startswith(f"{split}_"):
                found.append((Path(file).stem, names[int(label) - 1]))
        return found

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one face."""
        path = root / self.option["images"] / f"{key}{self.option['suffix']}.jpg"
        return image_sample(path, key=key, split=split, source=self.card.name, labels={"expression": record})
