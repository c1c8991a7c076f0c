"""The index of a prepared data set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.storage.remote import Remote, check_name, is_url
from vea.taxonomy.fields import LabelField

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True)
class Index:
    """What ``index.json`` in the folder ``root`` says.

    ``splits`` maps a name to ``{"samples": N, "shards": [{"file", "samples", "bytes", "sha256", "label_counts"}]}``.
    """

    name: str
    fields: dict[str, LabelField]
    splits: dict[str, dict[str, Any]]
    synthetic: bool
    raw: dict[str, Any]
    root: Path
    remote: Remote | None = None

    def opened(self, shard: Mapping[str, Any], open_it: Callable[[Path], T]) -> T:
        """Returns what ``open_it`` makes of a shard's tar; that of a remote set is fetched where the cache lacks it."""
        return self.remote.shard(shard, open_it) if self.remote else open_it(self.root / shard["file"])

    @property
    def title(self) -> str:
        """The data set in words."""
        return self.raw.get("title", self.name)

    def split(self, name: str) -> dict[str, Any]:
        """Returns one split's entry.

        Raises:
            VeaError: no such split; the sentence names those there are.
        """
        if name not in self.splits:
            raise VeaError(f"{self.root} has no split {name!r}{did_you_mean(name, self.splits)}")
        return self.splits[name]


def read_index(path: str | Path) -> Index:
    """Returns the index of a prepared data set; ``path`` is its folder or its ``index.json``, or the URL of either.

    Raises:
        VeaError: no such folder, no index in it, or an index that is damaged or of another format.
        RunError: a server does not answer, or has no such data set.
    """
    remote = Remote.at(path) if is_url(path) else None
    root = remote.index().parent if remote else Path(path)
    if root.name == "index.json":
        root = root.parent
    file = root / "index.json"
    prepare = "write one with `python datasets/prepare.py NAME --out DIR`"
    if not root.is_dir():
        raise VeaError(f"no prepared data set at {root}: the folder does not exist; {prepare}")
    if not file.is_file():
        state = "is empty" if not any(root.iterdir()) else "has no index.json"
        raise VeaError(f"{root} is not a prepared data set: it {state}; {prepare}")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise VeaError(f"{file} has format {raw['format']!r}, this vea reads format {FORMAT}; prepare it again")
        fields = {name: LabelField.from_json(field) for name, field in raw["fields"].items()}
        for split in raw["splits"].values():
            _whole(split["samples"])
            for shard in split["shards"]:
                check_name(shard["file"], where=str(path).partition("?")[0])
                _check_shard(shard, fields)
        return Index(
            name=raw["name"],
            fields=fields,
            splits=dict(raw["splits"]),
            synthetic=bool(raw["synthetic"]),
            raw=raw,
            root=root,
            remote=remote,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VeaError(f"{file} is damaged ({type(error).__name__}: {error}); prepare the data set again") from None


def _whole(value: Any) -> None:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{str(value)[:40]!r} is no count")


def _check_shard(shard: Mapping[str, Any], fields: Mapping[str, LabelField]) -> None:
    """Raises ``ValueError`` or the like where a shard's entry is not what the writer writes."""
    _whole(shard["samples"])
    _whole(shard["bytes"])
    if not isinstance(shard["sha256"], str):
        raise ValueError(f"the checksum of {shard['file']} is no text")
    for name in shard["label_counts"].keys() & fields:
        counts = shard["label_counts"][name]
        needed = {"count", "mean", "min", "max"} if fields[name].kind == "value" else set()
        numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in counts.values())
        if not numbers or not needed <= counts.keys():
            raise ValueError(f"the counts of label {name!r} of {shard['file']} are not numbers by name")


def _check_size(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise VeaError(f"shard {path} is missing; copy it here again or prepare the data set again") from None
    if found != size:
        what = "truncated" if found < size else "too long"
        raise VeaError(f"shard {path} is {what}: {found:,} bytes, the index says {size:,}; copy or prepare it again")


def read_offsets(tar_path: Path, shard: Mapping[str, Any]) -> np.ndarray:
    """Returns uint64 (N, 4) from the ``.idx`` beside a tar, checked against the shard's entry in the index.

    Raises:
        VeaError: the file is missing, unreadable, or disagrees with the index.
    """
    path = tar_path.with_suffix(".idx")
    again = "prepare the data set again"
    try:
        offsets = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise VeaError(f"{path} is missing; {again}") from None
    except Exception as error:  # numpy parses the header as Python, which raises many types
        raise VeaError(f"{path} is not readable ({' '.join(str(error).split())}); {again}") from None
    if offsets.shape != (shard["samples"], 4) or offsets.dtype != np.uint64:
        raise VeaError(
            f"{path} has shape {offsets.shape} and type {offsets.dtype}, "
            f"the index says {shard['samples']} samples; {again}"
        )
    if len(offsets) and int((offsets[:, 2] + offsets[:, 3]).max()) > shard["bytes"]:
        raise VeaError(f"{path} points behind the end of {tar_path.name}; {again}")
    return offsets
