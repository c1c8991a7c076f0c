"""Enrichment: passes over the shards of a prepared set that write a sidecar and never touch the images.

A pass computes one row per sample. The unit of work is a shard: its rows are written under a temporary name, fsynced
and renamed, so a killed pass goes on with the first shard that has no file, and any number of processes may work on one
sidecar (``--part``, or just side by side: a shard that another process holds is left to it).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import vea
from vea.data.shards.index import Index
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import FORMAT, check_same_set, index_checksum, read_meta
from vea.data.views.decode import CorruptImage, Encoded, decode
from vea.errors import VeaError
from vea.storage import atomic, lock

if TYPE_CHECKING:
    pass


class Pass:
    """What is computed per sample: ``prepare`` one at a time, then ``rows`` of a batch (never across shards).

    ``options`` and ``model`` go into ``meta.json``; rows made with others are not mixed with these.
    """

    name: str
    suffix = ".jsonl"  # or .npy: rows are vectors of one length
    needs_image = True
    encoded = False  # True: ``prepare`` gets an ``Encoded`` picture, and decodes what it needs of it
    batch_size = 1
    options: dict[str, Any]
    model: dict[str, Any] | None = None

    def prepare(self, image: Any, metadata: dict[str, Any]) -> Any:
        """Returns what ``rows`` needs of one sample, small enough to hold a batch of; ``image`` is RGB as displayed.

        Raises:
            CorruptImage: the image cannot be decoded.
        """
        raise NotImplementedError  # abstract

    def rows(self, prepared: list[Any]) -> Sequence[Any] | np.ndarray:
        """Returns one row per prepared sample."""
        raise NotImplementedError  # abstract

    def empty(self) -> Any:
        """Returns the row of a sample whose image cannot be decoded."""
        raise NotImplementedError  # abstract

    def finished(self, path: Path, records: Callable[[], Iterator[dict[str, Any]]]) -> None:
        """Is told every file of rows that is there, with a function that reads the metadata of its samples."""


@dataclass(frozen=True)
class Shard:
    """A shard as a unit of work; ``first`` is the number of its first sample in the split."""

    split: str
    stem: str
    first: int
    samples: int


@dataclass
class Summary:
    """What one call did: shards and images made now, and what the sidecar holds of the shards asked for."""

    folder: Path
    made: int = 0
    there_before: int = 0
    elsewhere: int = 0  # held by another process
    images: int = 0
    seconds: float = 0.0
    skipped: list[dict[str, Any]] = field(default_factory=list)  # of all shards asked for, also from earlier calls

    def __add__(self, other: Summary) -> Summary:
        """Returns what two parts did; their seconds are those of one after the other."""
        return Summary(
            self.folder,
            self.made + other.made,
            self.there_before + other.there_before,
            self.elsewhere + other.elsewhere,
            self.images + other.images,
            self.seconds + other.seconds,
            self.skipped + other.skipped,
        )


def shards_of(index: Index, *, splits: Sequence[str] = (), part: tuple[int, int] = (1, 1)) -> list[Shard]:
    """Returns the shards of ``splits`` (none named: all) that belong to part I of N, every N-th from the I-th.

    Raises:
        VeaError: no such split, or a part that is not 1 to N.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise VeaError(f"--part {number}/{parts}: the first number goes from 1 to the second")
    found: list[Shard] = []
    for split in splits or index.splits:
        first = 0
        for shard in index.split(split)["shards"]:
            found.append(Shard(split, Path(shard["file"]).stem, first, shard["samples"]))
            first += shard["samples"]
    return found[number - 1 :: parts]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def enrich(
    index: Index,
    enrichment: Pass,
    *,
    name: str | None = None,
    splits: Sequence[str] = (),
    part: tuple[int, int] = (1, 1),
    say: Callable[[str], None] = _say,
) -> Summary:
    """Returns what was done after writing ``sidecars/NAME/`` for every shard that has no file of rows yet.

    Args:
        index: of a prepared set in a folder that can be written to.
        enrichment: the pass.
        name: of the sidecar; by default that of the pass with underscores.
        splits: none named means all.
        part: (I, N), the I-th of N parts of the shards.
        say: is told a line per shard and per image that cannot be decoded.

    Raises:
        VeaError: the sidecar there is of another set, pass, model or options; unknown splits; a damaged set.
    """
    shards = shards_of(index, splits=splits, part=part)
    folder = Path(index.root) / "sidecars" / (name or enrichment.name.replace("-", "_"))
    _start(folder, index, enrichment)
    readers = {split: ShardReader(index.root, split) for split in dict.fromkeys(shard.split for shard in shards)}
    summary, left, asked = Summary(folder), [], set(shards)
    for shard in shards_of(index):
        path = folder / (shard.stem + enrichment.suffix)
        if path.is_file():
            enrichment.finished(path, _records(index, shard))
            summary.there_before += shard in asked
        elif shard in asked:
            left.append(shard)
    if summary.there_before:
        say(f"{enrichment.name}: {summary.there_before} of {len(shards)} shards are there already")
    started, to_do = time.monotonic(), sum(shard.samples for shard in left)
    for count, shard in enumerate(left, 1):
        path = folder / (shard.stem + enrichment.suffix)
        with _claim(path) as file:
            if file is None:
                summary.elsewhere += 1
                to_do -= shard.samples
                say(f"{enrichment.name}: {shard.stem} is being made by another process")
                continue
            skipped = _make(shard, enrichment, readers[shard.split], path, file, say)
        enrichment.finished(path, _records(index, shard))
        summary.made += 1
        summary.images += shard.samples
        summary.seconds = time.monotonic() - started
        rate = summary.images / max(summary.seconds, 1e-9)
        say(
            f"{enrichment.name}: {shard.stem} ({count} of {len(left)} shards), {shard.samples:,} samples, "
            f"{len(skipped)} skipped, {rate:.1f} a second, about {(to_do - summary.images) / rate / 60:.1f} min left"
        )
    for shard in shards:
        with contextlib.suppress(FileNotFoundError):
            summary.skipped += json.loads((folder / f"{shard.stem}.skipped.json").read_text(encoding="utf-8"))
    return summary


def _records(index: Index, shard: Shard) -> Callable[[], Iterator[dict[str, Any]]]:
    def read() -> Iterator[dict[str, Any]]:
        reader = ShardReader(index.root, shard.split)
        return (reader.read(shard.first + row)[2] for row in range(shard.samples))

    return read


def _start(folder: Path, index: Index, enrichment: Pass) -> None:
    """Writes ``meta.json``, or checks the one that is there."""
    meta: dict[str, Any] = {
        "format": FORMAT,
        "pass": enrichment.name,
        "set": index.name,
        "index_sha256": index_checksum(index),
        "suffix": enrichment.suffix,
        "options": enrichment.options,
        "model": enrichment.model,
        "vea": vea.__version__,
    }
    path = folder / "meta.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".meta.{os.getpid()}.json"
        _write(draft, json.dumps(meta, ensure_ascii=False, indent=1).encode() + b"\n")
        with contextlib.suppress(FileExistsError):  # another part was quicker; a link, unlike a rename, never replaces
            os.link(draft, path)
        atomic.remove(draft)
    there = read_meta(folder)
    check_same_set(there, index, folder)
    for key in ("pass", "options", "model"):
        same_file = key == "model" and _sha256(there.get(key)) == _sha256(meta[key]) is not None
        if there.get(key) != meta[key] and not same_file:
            raise VeaError(
                f"{folder} was made with {key} {_difference(there.get(key), meta[key])}; "
                "give another --name, or remove it first"
            )


def _sha256(model: dict[str, Any] | None) -> str | None:
    return (model or {}).get("sha256")


def _difference(there: Any, now: Any) -> str:
    if isinstance(there, dict) and isinstance(now, dict):
        changed = [key for key in {**there, **now} if there.get(key) != now.get(key)]
        there, now = ({key: side.get(key) for key in changed} for side in (there, now))
    return f"{json.dumps(there)}, not {json.dumps(now)}"


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[io.BufferedRandom | None]:
    """Yields the temporary file of a shard, or None where another process makes it or has just made it.

    The lock is on the file itself and goes with it through the rename; the system drops it when a process dies.
    """
    with open(path.with_name(f".{path.name}.partial"), "a+b") as file:
        if not lock.claim(file):
            yield None
            return
        if path.is_file():  # made between our look and our lock: what we opened may be the finished file
            atomic.remove(Path(file.name))
            yield None
            return
        file.truncate(0)
        try:
            yield file
        except OSError:  # a full disk: give back what was taken
            with contextlib.suppress(OSError):
                file.truncate(0)
            raise


def _make(
    shard: Shard, enrichment: Pass, reader: ShardReader, path: Path, file: io.BufferedRandom, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Writes the rows of a shard; returns the samples whose images cannot be decoded."""
    rows: list[Any] = [None] * shard.samples
    skipped: list[dict[str, Any]] = []
    places: list[int] = []
    prepared: list[Any] = []

    def flush() -> None:
        for place, row in zip(places, enrichment.rows(prepared) if prepared else (), strict=True):
            rows[place] = row
        places.clear()
        prepared.clear()

    for row in range(shard.samples):
        key, data, metadata = reader.read(shard.first + row)
        try:
            image = (Encoded if enrichment.encoded else decode)(data) if enrichment.needs_image else None
            found = enrichment.prepare(image, metadata)
        except CorruptImage as error:
            rows[row] = enrichment.empty()
            skipped.append({"key": key, "shard": shard.stem, "row": row, "reason": str(error)})
            say(f"skipped {key}: {error}")
            continue
        places.append(row)
        prepared.append(found)
        if len(places) == enrichment.batch_size:
            flush()
    flush()
    if skipped:
        listed = path.with_name(f"{shard.stem}.skipped.json")
        atomic.write_text(listed, json.dumps(skipped, ensure_ascii=False, indent=1) + "\n")
    if enrichment.suffix == ".npy":
        np.save(file, np.stack(rows).astype(np.float32), allow_pickle=False)
    else:
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
        file.write("".join(f"{line}\n" for line in lines).encode())
    file.flush()
    os.fsync(file.fileno())
    atomic.rename(Path(file.name), path)
    return skipped


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
