"""The drawn scenes of ``vea.data.synthetic``: no raw folder, a count instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.sources.base import Source
from vea.taxonomy.fields import LabelField


class Synthetic(Source):
    """All fields of the generator; the count is cut 80 / 10 / 10 into train, val and test."""

    options = {"count": 2000, "seed": 0, "size": 128}  # noqa: RUF012
    needs_root = False

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the generator's fields."""
        from vea.data.synthetic import FIELDS

        return dict(FIELDS)

    def counts(self) -> dict[str, int]:
        """Returns the samples of each split."""
        count = self.option["count"]
        tenth = count // 10
        return {"train": count - 2 * tenth, "val": tenth, "test": tenth}

    def splits(self, root: Path) -> list[str]:
        """Returns train, val and test."""
        return list(self.counts())

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (key, number) of the scenes."""
        from vea.data.synthetic import numbers, scene_key

        seed = self.option["seed"]
        return [(scene_key(number, seed=seed), number) for number in numbers(self.counts()[split], split=split)]

    def listing(self, root: Path, split: str, *, limit: int | None = None) -> list[tuple[str, Any]]:
        """Returns the scenes in the order of their numbers, which has no meaning."""
        return list(self.records(root, split))[:limit]

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one drawn scene."""
        from vea.data.synthetic import scene

        return replace(scene(record, seed=self.option["seed"], size=self.option["size"]), split=split)
