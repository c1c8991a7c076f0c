"""From samples to batches: labels as arrays, and the two batch dicts of docs/architecture.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch

from vea.data.loading.order import keyed_words
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import LabelField

Batch = dict[str, Any]  # the same as vea.tasks.base.Batch, which data may not import


@dataclass
class Item:
    """One place of a batch, made in a loader worker; everything in a dict is stacked by name.

    ``views`` are images uint8 (H, W, C), ``arrays`` any other numbers, ``lists`` what stays in Python.
    """

    key: str
    slot: int
    views: dict[str, np.ndarray]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    lists: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    valid: bool = True
    problems: dict[str, str] = field(default_factory=dict)  # key of each sample that could not be used: a sentence


class LabelEncoder:
    """Turns ``metadata["labels"]`` into arrays of fixed shape.

    - ``class``: int64 (), the index of the class, -1 where missing;
    - ``multilabel``: float32 (C,), zeros where the sample names none, NaN where its data set has no such field;
    - ``distribution``: float32 (C,), normalised to one, NaN where missing or all zero;
    - ``value``: float32 (), NaN where missing.
    """

    def __init__(self, fields: Mapping[str, LabelField]) -> None:
        self.fields = dict(fields)
        self._index = {name: {label: i for i, label in enumerate(entry.classes)} for name, entry in fields.items()}

    def encode(self, labels: Mapping[str, Any], *, key: str, known: Mapping[str, LabelField]) -> dict[str, np.ndarray]:
        """Returns the labels of sample ``key``; ``known`` are the fields of its data set.

        Raises:
            VeaError: a class name that the field does not have, or a distribution of another length.
        """
        return {name: self._one(name, labels.get(name), key, name in known) for name in self.fields}

    def _one(self, name: str, value: Any, key: str, known: bool) -> np.ndarray:
        entry, index = self.fields[name], self._index[name]
        if entry.kind == "value":
            return np.array(np.nan if value is None else value, dtype=np.float32)
        if entry.kind == "class":
            return np.array(-1 if value is None else self._class(name, value, key), dtype=np.int64)
        if not known or (value is None and entry.kind == "distribution"):
            return np.full(len(index), np.nan, dtype=np.float32)
        if entry.kind == "multilabel":
            row = np.zeros(len(index), dtype=np.float32)
            row[[self._class(name, word, key) for word in value or ()]] = 1
            return row
        row = np.asarray(value, dtype=np.float32)
        if row.shape != (len(index),):
            raise VeaError(f"sample {key!r}, label {name!r}: {row.size} numbers for {len(index)} classes")
        total = row.sum()
        return row / total if total > 0 else np.full_like(row, np.nan)

    def _class(self, name: str, value: Any, key: str) -> int:
        try:
            return self._index[name][value]
        except (KeyError, TypeError):
            near = did_you_mean(str(value), self.fields[name].classes)
            raise VeaError(f"sample {key!r}, label {name!r}: unknown class {value!r}{near}") from None


def mask_noise(seed: int, *place: int | str, num_patches: int) -> np.ndarray:
    """Returns uniform float32 (2, N) in [0, 1), a function of (seed, place): the noise of a sample's two masks."""
    bits = keyed_words(2 * num_patches, "mask", seed, *place) >> np.uint64(40)
    return (bits.astype(np.float32) * np.float32(2**-24)).reshape(2, num_patches)


def mask_chances(seed: int, *place: int | str, num_patches: int) -> np.ndarray:
    """Returns uniform float32 (2, N) in [0, 1), independent of the ``mask_noise`` of the same place."""
    bits = keyed_words(2 * num_patches, "mask", seed, *place) & np.uint64(2**24 - 1)  # of the bits it leaves
    return (bits.astype(np.float32) * np.float32(2**-24)).reshape(2, num_patches)


def block_shape(item: Item, *, count: int) -> tuple[int, ...]:
    """Returns (V, B, C, H, W) for the views of ``count`` items like this one."""
    height, width, channels = next(iter(item.views.values())).shape
    return len(item.views), count, channels, height, width


def write_views(item: Item, planes: np.ndarray) -> list[str]:
    """Writes the item's views into ``planes``, uint8 (V, C, H, W), forgets them and returns their names.

    One item at a time, as it is made: its pixels are in the cache still, and the next item's reuse their memory.
    """
    for view, into in zip(item.views.values(), planes, strict=True):
        cv2.split(view, list(into))
    names = list(item.views)
    item.views.clear()
    return names


def collate(items: Sequence[Item]) -> Batch:
    """Returns the batch dict of ``items`` but for their images: tensors (B, ...) by name, ``labels``, and the lists.

    Every batch has ``keys`` list[str], ``slot`` int64 (B,), ``valid`` bool (B,) and ``replaced``, the keys of samples
    that could not be decoded (training: another sample stands in; evaluation: the row is not valid).
    """
    first = items[0]
    batch: Batch = {}
    for name in first.arrays:
        batch[name] = _stack([item.arrays[name] for item in items])
    for name in first.lists:
        batch[name] = [item.lists[name] for item in items]
    if first.labels:
        batch["labels"] = {name: _stack([item.labels[name] for item in items]) for name in first.labels}
    batch["keys"] = [item.key for item in items]
    batch["slot"] = torch.tensor([item.slot for item in items], dtype=torch.int64)
    batch["valid"] = torch.tensor([item.valid for item in items], dtype=torch.bool)
    batch["replaced"] = [key for item in items for key in item.problems]
    return batch


def _stack(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(arrays))
