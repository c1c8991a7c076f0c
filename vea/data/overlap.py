"""Which samples two of train, val and test share: by key and content, and by picture where hashes were written.

``vea shards check DIR --hashes`` writes a perceptual hash of every picture beside the shards; with these, a picture
that was re-encoded or scaled is found in another split or set too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np

from vea.config import DatasetRef, FinetuneConfig, RunConfig
from vea.config.findings import Finding, State
from vea.data.duplicates import clusters
from vea.data.loading.sets import ShardSet
from vea.data.shards.index import Index, read_index
from vea.data.shards.sidecars import index_checksum
from vea.data.streams.urls import is_stream
from vea.errors import VeaError

HASHES = "picture_hashes"
MAX_SAMPLES = 300_000  # of both sides together: reading their keys takes seconds


class Part:
    """The samples of one ``DatasetRef``: their keys, and the contents behind them when asked."""

    def __init__(self, ref: DatasetRef) -> None:
        self.name = f"{ref.path} {ref.split}"
        self.samples = ShardSet(ref.model_copy(update={"persons": None}))
        self.places = {self.samples.read(i)[0]: i for i in range(len(self.samples))}

    def content(self, key: str) -> bytes:
        """Returns a checksum of the encoded image of ``key``."""
        return hashlib.blake2b(self.samples.read(self.places[key])[1], digest_size=16).digest()


def shared_keys(one: Part, two: Part) -> list[str]:
    """Returns the keys under which both parts have the same image, sorted."""
    return [key for key in sorted(one.places.keys() & two.places.keys()) if one.content(key) == two.content(key)]


def hashes_file(index: Index, split: str) -> Path:
    """Returns where the hashes of a split's pictures are; the name says of which state of the set they are."""
    return index.root / HASHES / f"{split}-{index_checksum(index)[:12]}.npy"


def write_hashes(index: Index, hashes: Mapping[str, Sequence[bytes]]) -> list[Path]:
    """Writes {split: hash of each picture in order}; returns the files."""
    written = []
    for split, rows in hashes.items():
        path = hashes_file(index, split)
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32))
        written.append(path)
    return written


def read_hashes(ref: DatasetRef) -> list[bytes] | None:
    """Returns the hashes of a split; None where they were not written, or are not whole."""
    index = read_index(ref.path)
    path = hashes_file(index, ref.split)
    if not path.is_file():
        return None
    try:
        table = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = table.dtype == np.uint8 and table.shape == (index.split(ref.split)["samples"], 32)
    return [row.tobytes() for row in table] if fits else None


def shared_pictures(one: DatasetRef, two: DatasetRef) -> int | None:
    """Returns how many pictures of ``two`` come near one of ``one``; None where hashes are not written."""
    first, second = read_hashes(one), read_hashes(two)
    if first is None or second is None:
        return None
    shared = set()
    for members in clusters([*first, *second]):
        if members[0] < len(first):
            shared |= {member for member in members if member >= len(first)}
    return len(shared)


def check_overlap(config: RunConfig) -> Iterator[Finding]:
    """Yields whether training, validation and test share samples, and whether a choice is made on test."""
    data = config.data
    chooses = isinstance(config, FinetuneConfig)  # validation picks the weights; in pretraining it only watches
    bad: State = "wrong" if chooses else "warning"
    sides = {"train": _local(data.train), "val": _local(data.val)}
    for ref in sides["val"]:
        if ref.split == "test":
            text = f"{ref.path} test is validated on: {'weights are chosen by it' if chooses else 'it is looked at'}"
            yield Finding(bad, "overlap", text, "validate on another split, or on a part of train")
    for ref in sides["train"]:
        if ref.split == "test":
            yield Finding(bad, "overlap", f"{ref.path} test is trained on", "train on other splits")
    used = [*sides["train"], *sides["val"]]
    paths = dict.fromkeys(ref.path for ref in used if "test" in read_index(ref.path).splits)
    sides["test"] = [DatasetRef(path=path, split="test") for path in paths]
    # what is used as test elsewhere in the config was said above
    sides["test"] = [ref for ref in sides["test"] if not any(_same_split(ref, other) for other in used)]
    parts: dict[str, Part] = {}
    compared, hashed = 0, 0
    for one, two in combinations(sides, 2):
        for first, second in product(sides[one], sides[two]):
            finding = _compared(first, second, (one, two), bad=bad, parts=parts)
            compared += 1
            hashed += read_hashes(first) is not None and read_hashes(second) is not None
            if finding:
                yield finding
    if compared:
        todo = "" if hashed else "to find re-encoded pictures as well: vea shards check DIR --hashes"
        yield Finding("ok", "overlap", f"{compared} pairs of splits compared, {hashed} of them by picture", todo)


def _local(refs: Sequence[DatasetRef]) -> list[DatasetRef]:
    """Returns those that are here and have samples; the others have findings of their own."""
    found = []
    for ref in refs:
        try:
            if is_stream(ref.path):
                continue
            index = read_index(ref.path)
            if not index.remote and index.split(ref.split)["samples"]:
                found.append(ref)
        except VeaError:
            continue
    return found


def _same_split(one: DatasetRef, two: DatasetRef) -> bool:
    return (Path(one.path).resolve(), one.split) == (Path(two.path).resolve(), two.split)


def _compared(
    one: DatasetRef, two: DatasetRef, roles: tuple[str, str], *, bad: State, parts: dict[str, Part]
) -> Finding | None:
    """Returns what two sides share; None for nothing."""
    names = f"{one.path} {one.split} ({roles[0]}) and {two.path} {two.split} ({roles[1]})"
    size = sum(read_index(ref.path).split(ref.split)["samples"] for ref in (one, two))
    if size > MAX_SAMPLES:
        return Finding("warning", "overlap", f"{names} are not compared: {size:,} samples are too many")
    try:
        first, second = (parts.setdefault(repr(ref), Part(ref)) for ref in (one, two))
    except VeaError as error:
        return Finding("warning", "overlap", f"{names} are not compared: {error}")
    total = len(second.places)
    if same := shared_keys(first, second):
        text = f"{names} share {len(same):,} samples of {total:,}, such as {same[0]}"
        return Finding(bad, "overlap", text, "take splits or parts that share nothing")
    near = None if _same_split(one, two) else shared_pictures(one, two)
    if near:
        text = f"{names}: {near:,} of {len(read_hashes(two) or ()):,} pictures are near-duplicates of one in the other"
        return Finding("warning", "overlap", text, "say so beside the figure, or leave them out")
    return None
