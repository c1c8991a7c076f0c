"""Tables with one row per explanation of an emotion: ArtEmis v1 and v2 (Contrastive), Affection, and sets like them."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.sample import Sample
from vea.data.sources.base import Source, hash_of, image_sample, key_of_path, read_csv, require_file
from vea.errors import VeaError

Row = dict[str, str]


def tokens(text: str) -> list[str]:
    """Returns the words of a text, lower case: how the length of an explanation is counted."""
    return re.findall(r"[a-z0-9']+", text.lower())


class Explanations(Source):
    """One sample per picture: the votes on its emotion, and all its explanations as ``EMOTION because EXPLANATION``.

    ``tables`` are files of the root, each row of which names its picture (``image``, a path built from columns), an
    emotion and an explanation (the columns ``emotion`` and ``text``). The first table is taken whole, of each further
    one as many rows as the first holds (ArtEmis v2: all contrastive rows and equally many old ones). Rows are left out
    whose explanation has fewer than ``min_tokens`` words or more than the ``max_quantile`` of all, and those of
    ``repetition`` above ``max_repetition``. A column ``split`` is followed where the first table has one, else
    pictures are cut by ``divide`` and a hash of their path.
    """

    options = {  # noqa: RUF012
        "tables": [], "image": "{image}", "emotion": "emotion", "text": "utterance", "min_tokens": 0,
        "max_quantile": 1.0, "max_repetition": None, "divide": {"train": 85, "val": 5, "test": 10},
    }  # fmt: skip

    def _rows(self, root: Path) -> list[Row]:
        emotion, text = self.option["emotion"], self.option["text"]
        columns = [emotion, text, *re.findall(r"{(\w+)}", self.option["image"])]
        tables = [
            read_csv(require_file(root, name, self.card), columns, warnings=self.warnings)
            for name in self.option["tables"]
        ]
        rows = list(tables[0])
        for table in tables[1:]:
            rows += sorted(table, key=lambda row: hash_of("\0".join(row.values())))[: len(tables[0])]
        known = self.card.label_fields["emotion"].classes
        unknown = collections.Counter(row[emotion] for row in rows if row[emotion] not in known)
        if unknown:
            self.warnings.append(
                f"warning: {sum(unknown.values()):,} rows of {self.card.name} have an emotion that the card does not: "
                f"{', '.join(repr(name) for name, _ in unknown.most_common(5))}; they are left out"
            )
        limit = self.option["max_repetition"]
        lengths = np.array([len(tokens(row[text])) for row in rows])
        longest = np.quantile(lengths, self.option["max_quantile"]) if len(rows) else 0
        return [
            row
            for row, length in zip(rows, lengths, strict=True)
            if row[emotion] in known
            and max(1, self.option["min_tokens"]) <= length <= longest
            and not (limit is not None and row.get("repetition") and float(row["repetition"]) > limit)
        ]

    def _split_of(self, image: str, row: Row) -> str:
        if row.get("split"):
            return row["split"]
        edge, place = (
            0.0,
            int.from_bytes(hash_of(f"split:{image}"), "big") / 2**64 * sum(self.option["divide"].values()),
        )
        for split, share in self.option["divide"].items():
            edge += share
            if place < edge:
                return split
        return split

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (image path with / as __, (image path, ((emotion, explanation), ...))) of a split's pictures."""
        if not hasattr(self, "_pictures"):
            self._pictures: dict[str, tuple[str, list[tuple[str, str]]]] = {}
            for row in self._rows(root):
                image = self.option["image"].format(**row)
                known = self._pictures.setdefault(image, (self._split_of(image, row), []))
                known[1].append((row[self.option["emotion"]], " ".join(row[self.option["text"]].split())))
            if not self._pictures:
                raise VeaError(f"{root}: no row of {', '.join(self.option['tables'])} passes the card's filters")
        return [
            (key_of_path(image), (image, tuple(pairs)))
            for image, (place, pairs) in self._pictures.items()
            if place == split
        ]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one picture; ``dominant`` where more than half of the votes agree."""
        image, pairs = record
        classes = self.card.label_fields["emotion"].classes
        count = collections.Counter(emotion for emotion, _ in pairs)
        labels: dict[str, Any] = {"emotion": [count[name] / len(pairs) for name in classes]}
        if max(count.values()) * 2 > len(pairs):
            labels["dominant"] = count.most_common(1)[0][0]
        return image_sample(
            root / image,
            key=key,
            split=split,
            source=self.card.name,
            labels=labels,
            text=[f"{emotion} because {words}" for emotion, words in pairs],
        )
