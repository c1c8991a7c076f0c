"""How a sample becomes an item: a task says it by an ``ItemSpec``; here is what the items of all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vea.config import DatasetRef
from vea.data.loading.collate import Item
from vea.data.loading.sets import ShardSet
from vea.data.views.decode import CorruptImage, Encoded
from vea.data.views.views import Views

Place = tuple[int, int]  # (step, slot); evaluation: (batch, sample)


class ItemSpec(Protocol):
    """What a task tells the loaders, which know no recipe: ``vea.tasks.items`` has those of vea's tasks."""

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a data set with the sidecars that the items need; raises ``VeaError`` where one is missing."""

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns what makes the items of ``sets``; raises ``VeaError`` where they lack what is learned."""


@dataclass(frozen=True)
class Drawn:
    """Sample ``i`` of a set, its picture, and the place of the batch that it was drawn for."""

    shards: ShardSet
    i: int
    key: str
    encoded: Encoded  # decoded by the views, at the scale that they need
    metadata: dict[str, Any]
    pass_number: int
    place: Place

    @property
    def image(self) -> np.ndarray:
        """All of its pixels, RGB uint8 (H, W, 3), decoded now."""
        return self.encoded.pixels()

    def person_boxes(self) -> list[list[float]]:
        """Returns the boxes of people, most prominent first."""
        return self.shards.person_boxes(self.i, self.metadata)


class Unusable(Exception):
    """A sample whose image cannot be decoded, or does not show what is learned from."""

    def __init__(self, key: str, where: str, reason: str, *, what: str = "cannot be decoded") -> None:
        super().__init__(f"{where}: sample {key!r} {what} ({reason})")
        self.key, self.what = key, what


class ItemMaker:
    """Makes the items of one loader, in its workers. Subclasses say what an item is, and a blank.

    Args:
        views: of training, or of evaluation.
        num_views: images of an item.
    """

    def __init__(self, views: Views, *, num_views: int) -> None:
        self.views, self.num_views = views, num_views

    def item(self, drawn: Drawn) -> Item:
        """Returns the item of a sample."""
        raise NotImplementedError  # abstract

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        """Returns an item like those of ``shards`` that says nothing: ``image`` in every view, and missing labels."""
        raise NotImplementedError  # abstract

    @property
    def num_bytes(self) -> int:
        """Of an item's images."""
        return self.num_views * self.views.channels * self.views.config.image_size**2

    def make(self, shards: ShardSet, i: int, *, pass_number: int, place: Place) -> Item:
        """Returns the item of kept sample ``i``; raises ``Unusable`` with its key when the image is corrupt."""
        key, data, metadata = shards.read(i)
        try:
            return self.item(Drawn(shards, i, key, Encoded(data), metadata, pass_number, place))
        except CorruptImage as error:
            raise Unusable(key, shards.name, str(error)) from None

    def blank(self, shards: ShardSet, *, place: Place, problem: Unusable | None = None) -> Item:
        """Returns a row that is not valid: padding, or where a sample should have been."""
        size = self.views.config.image_size
        image = np.zeros((size, size, self.views.channels), dtype=np.uint8)
        item = self.empty(shards, image, key=problem.key if problem else "", place=place)
        item.valid = False
        item.problems = {problem.key: f"{problem}; it is left out of the evaluation"} if problem else {}
        return item
