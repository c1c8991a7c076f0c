"""Prepared data sets: WebDataset tars with byte offsets beside them, read by memory map (writer.py writes them).

A prepared data set is a folder with ``index.json`` and, per shard, ``SPLIT-000000.tar`` (``KEY.jpg`` + ``KEY.json``
one after the other, plain ustar, so that any WebDataset reader opens it) and ``SPLIT-000000.idx`` (.npy, uint64 (N, 4):
image offset, image bytes, json offset, json bytes). docs/architecture.md has the form of ``index.json``.
"""

from __future__ import annotations

import bisect
import collections
import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.shards.index import _check_size, read_index, read_offsets
from vea.errors import VeaError

MAX_OPEN_SHARDS = 128  # a map holds a file descriptor, and the usual limit is 1,024 a process
MAX_OFFSETS = 250_000  # samples of which a reader remembers the offsets, 32 bytes each


class ShardReader:
    """Random access to the samples of one split, in the order in which they were written.

    Shards are mapped when first touched and only the last ``MAX_OPEN_SHARDS`` stay open, so a reader costs nothing to
    make, survives ``fork`` (maps are read-only) and ``pickle`` (they are left behind), and holds no list of keys. The
    offsets of many more shards are remembered (``MAX_OFFSETS`` samples), so that one of very many small shards is soon
    open again.

    Raises:
        VeaError: the split is unknown or empty, or a shard is missing or not as long as the index says.
    """

    def __init__(self, root: str | Path, split: str):
        self.index = read_index(root)
        self.root = self.index.root
        self.split = split
        entry = self.index.split(split)
        self.shards: list[dict[str, Any]] = entry["shards"]
        if not self.shards or not entry["samples"]:
            raise VeaError(f"split {split!r} of {self.root} holds no samples; prepare the data set again")
        self._ends: list[int] = np.cumsum([shard["samples"] for shard in self.shards]).tolist()
        if self._ends[-1] != entry["samples"]:
            raise VeaError(
                f"{self.root / 'index.json'}: the shards of split {split!r} hold {self._ends[-1]} samples, "
                f"the split says {entry['samples']}; prepare the data set again"
            )
        if self.index.remote is None:
            for shard in self.shards:
                _check_size(self.root / shard["file"], shard["bytes"])
        self._forget()

    def _forget(self) -> None:
        self._open: collections.OrderedDict[int, mmap.mmap] = collections.OrderedDict()
        self._offsets: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._remembered = 0  # samples in _offsets

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        left_behind = ("_open", "_offsets", "_remembered")
        return {name: value for name, value in self.__dict__.items() if name not in left_behind}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def _map(self, number: int) -> tuple[mmap.mmap, np.ndarray]:
        if number not in self._open or number not in self._offsets:
            self.index.opened(self.shards[number], lambda path: self._open_shard(path, number))
        self._open.move_to_end(number)
        self._offsets.move_to_end(number)
        return self._open[number], self._offsets[number]

    def _open_shard(self, path: Path, number: int) -> None:
        shard = self.shards[number]
        if number not in self._offsets:
            self._offsets[number] = read_offsets(path, shard)
            self._remembered += shard["samples"]
            while self._remembered > MAX_OFFSETS and len(self._offsets) > 1:
                self._remembered -= len(self._offsets.popitem(last=False)[1])
        if number not in self._open:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
            self._open[number] = data

    def read(self, i: int) -> tuple[str, bytes, dict[str, Any]]:
        """Returns the key, the undecoded image and the metadata (``id, labels, text, person_boxes, source, split``)."""
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = bisect.bisect_right(self._ends, i)
        row = i - (self._ends[number - 1] if number else 0)
        data, offsets = self._map(number)
        image_at, image_size, json_at, json_size = (int(value) for value in offsets[row])
        try:
            metadata = json.loads(data[json_at : json_at + json_size])
            return metadata["id"], data[image_at : image_at + image_size], metadata
        except (ValueError, KeyError, TypeError):
            raise VeaError(
                f"{self.root / self.shards[number]['file']}: the metadata of sample {row} is damaged; "
                f"`vea shards check {self.root}` lists what is wrong"
            ) from None
