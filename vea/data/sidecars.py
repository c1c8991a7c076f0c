"""Results of enrichment passes beside a prepared set: row i of ``sidecars/NAME/<shard>`` belongs to its sample i.

``meta.json`` in the folder says which pass with which options and model made it, and of which set: a sidecar of other
images or of another model is refused, not silently used.
"""

from __future__ import annotations

import collections
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.shards import Index, ShardReader
from vea.errors import VeaError

FORMAT = 1
MAX_OPEN = 64  # files of rows that stay open: each holds a descriptor, or the lines of a shard


def index_checksum(index: Index) -> str:
    """Returns the sha256 of what identifies the images of a set: its shards by split, their samples and checksums."""
    shards = {
        split: [[shard["file"], shard["samples"], shard["sha256"]] for shard in entry["shards"]]
        for split, entry in index.splits.items()
    }
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def read_meta(folder: Path) -> dict[str, Any]:
    """Returns ``meta.json`` of a sidecar.

    Raises:
        VeaError: it is missing, damaged, or of a format that this vea does not read.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise VeaError(
                f"{path} has format {meta['format']!r}, this vea reads {FORMAT}; remove {folder}, write it again"
            )
        meta["pass"], meta["options"], meta["index_sha256"], meta["suffix"]  # all there
        return meta
    except FileNotFoundError:
        raise VeaError(f"{path} is missing; write the sidecar with `vea enrich`") from None
    except (ValueError, KeyError, TypeError):
        raise VeaError(f"{path} is damaged; remove {folder} and write it again with `vea enrich`") from None


def check_same_set(meta: dict[str, Any], index: Index, folder: Path) -> None:
    """Raises ``VeaError`` unless the sidecar in ``folder`` was made from the images of ``index``."""
    if meta["index_sha256"] != index_checksum(index):
        raise VeaError(
            f"the sidecar {folder} was made from other images than those of {index.root} (set {meta.get('set')!r}); "
            "remove it and write it again with `vea enrich`"
        )


class Sidecar:
    """The rows of one split, read when they are asked for.

    Args:
        reader: of the split.
        name: folder below ``sidecars/``.
        made_by: the pass that must have made it.
        otherwise: what the user can do instead of writing the sidecar; ends a sentence.

    Raises:
        VeaError: it is missing or incomplete, was made by another pass or from another set.
    """

    def __init__(self, reader: ShardReader, name: str, *, made_by: str, otherwise: str = "") -> None:
        self.folder = Path(reader.root) / "sidecars" / name
        self._otherwise = f", or {otherwise}" if otherwise else ""
        self._made_by, self._root = made_by, reader.root
        if not (self.folder / "meta.json").is_file():
            raise VeaError(f"{reader.root} has no sidecar {name}: {self._remedy()}")
        self.meta = read_meta(self.folder)
        if self.meta["pass"] != made_by:
            raise VeaError(f"{self.folder} was made by the pass {self.meta['pass']}, not by {made_by}: name another")
        check_same_set(self.meta, reader.index, self.folder)
        self._shards = [(shard["file"], shard["samples"]) for shard in reader.shards]
        self._ends = np.cumsum([samples for _, samples in self._shards])
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()
        missing = [path for path in map(self._path, range(len(self._shards))) if not path.is_file()]
        if missing:
            raise VeaError(f"{missing[0]} and {len(missing) - 1} more are missing: {self._remedy()}")

    def _remedy(self) -> str:
        return f"run `vea enrich {self._made_by} {self._root}` to its end{self._otherwise}"

    def _path(self, number: int) -> Path:
        return self.folder / (Path(self._shards[number][0]).stem + self.meta["suffix"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": collections.OrderedDict()}

    def _rows(self, number: int) -> Any:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path, samples = self._path(number), self._shards[number][1]
        try:
            rows = read_rows(path)
        except (OSError, ValueError) as error:
            raise VeaError(f"{path} is not readable ({error}); remove it and {self._remedy()}") from None
        if len(rows) != samples:
            raise VeaError(f"{path} has {len(rows)} rows for {samples} samples; remove it and {self._remedy()}")
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)
        self._open[number] = rows
        return rows

    def row(self, i: int) -> Any:
        """Returns the row of sample ``i`` of the split: float32 (D,), or what its line of JSON holds."""
        number = int(np.searchsorted(self._ends, i, side="right"))
        row = self._rows(number)[i - int(self._ends[number - 1] if number else 0)]
        return np.array(row, dtype=np.float32) if self.meta["suffix"] == ".npy" else json.loads(row)


def read_rows(path: Path) -> Any:
    """Returns the rows of one file: a memory map (N, D) of ``.npy``, or the lines of ``.jsonl`` as bytes."""
    if path.suffix == ".npy":
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.ndim != 2:
            raise ValueError(f"its shape is {rows.shape}")
        return rows
    return path.read_bytes().splitlines()
