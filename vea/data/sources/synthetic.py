"""The drawn scenes of ``vea.data.synthetic``: no raw folder, a count instead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vea.data.sample import LabelField, Sample
from vea.data.shards import Skipped
from vea.data.sources.base import Source


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
        """Returns nothing to choose from: scenes are drawn in the order of their numbers, which has no meaning."""
        return []

    def samples(self, root: str | Path, split: str, *, limit: int | None = None) -> Iterator[Sample | Skipped]:
        """Yields the scenes of a split."""
        from vea.data.synthetic import samples

        count = self.counts()[split]
        yield from samples(
            count if limit is None else min(count, limit),
            split=split,
            seed=self.option["seed"],
            size=self.option["size"],
        )
