"""Which records each shard holds, by any number of writers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import multiprocessing
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vea.data.sample import Sample
from vea.data.shards.index import FORMAT, Index, read_index
from vea.data.shards.writer import (
    Records,
    Skipped,
    _ShardWriter,
    check_labels,
    prepare_image,
    safe_key,
)
from vea.errors import RunError, VeaError
from vea.progress import Progress
from vea.storage import atomic, lock
from vea.taxonomy.fields import LabelField

PLAN = ".plan"  # in the folder being written: what is to be done, and a record of each shard that is


@dataclass(frozen=True)
class _Shard:
    """One job: the records ``start`` to ``stop`` of a split."""

    split: str
    number: int
    start: int
    stop: int

    @property
    def stem(self) -> str:
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class _Plan:
    """What is written where; ``fingerprint`` names the preparation, the same in every part and life of it."""

    folder: Path
    splits: dict[str, Records]
    fields: Mapping[str, LabelField]
    options: dict[str, Any]  # shard_size, max_side, quality
    fingerprint: str

    @property
    def shards(self) -> list[_Shard]:
        size = self.options["shard_size"]
        return [
            _Shard(split, start // size, start, min(start + size, len(records.keys)))
            for split, records in self.splits.items()
            for start in range(0, len(records.keys), size)
        ]

    def done(self, shard: _Shard) -> dict[str, Any] | None:
        """Returns the record of a shard that is complete, None of any other."""
        try:
            record = json.loads((self.folder / PLAN / f"{shard.stem}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        entry = record["entry"]
        tar = self.folder / entry["file"] if entry else None
        return record if tar is None or (tar.is_file() and tar.stat().st_size == entry["bytes"]) else None

    def write(self, shard: _Shard) -> dict[str, Any]:
        """Returns {"entry": for the index or None where no sample is good, "skipped": [...]} of a shard it wrote."""
        writer = _ShardWriter(self.folder / f"{shard.stem}.tar", self.fields)
        skipped = []
        try:
            for i in range(shard.start, shard.stop):
                sample = self.splits[shard.split].load(i)
                if isinstance(sample, Sample):
                    check_labels(sample, self.fields)
                    try:
                        ready = prepare_image(
                            sample, max_side=self.options["max_side"], quality=self.options["quality"]
                        )
                    except ValueError as error:
                        sample = Skipped(sample.key, str(error))
                if isinstance(sample, Skipped):
                    skipped.append({"key": sample.key, "split": shard.split, "reason": sample.reason})
                else:
                    writer.add(replace(ready, key=safe_key(ready.key), split=shard.split))
            record = {"entry": writer.close() if writer.offsets else None, "skipped": skipped}
        finally:
            writer.discard()
        text = json.dumps(record, ensure_ascii=False)
        atomic.write_bytes(self.folder / PLAN / f"{shard.stem}.json", text.encode("utf-8", "surrogatepass"))
        return record


_plan_of_this_process: _Plan | None = None  # a forked worker inherits it: records need not be pickled


def _write_planned(shard: _Shard) -> dict[str, Any]:
    assert _plan_of_this_process is not None
    return _plan_of_this_process.write(shard)


def _write_all(
    plan: _Plan, shards: list[_Shard], jobs: int | None, engine: str
) -> Iterator[tuple[_Shard, dict[str, Any]]]:
    """Yields each shard with its record, written by ``jobs`` processes or Ray tasks."""
    global _plan_of_this_process
    if engine == "ray":
        from vea.distributed.ray import run_tasks

        if shards:
            yield from run_tasks(plan.write, shards, name=lambda shard: f"shard {shard.stem}", jobs=jobs)
        return
    jobs = jobs or 1
    _plan_of_this_process = plan
    try:
        if min(jobs, len(shards)) <= 1:
            yield from ((shard, plan.write(shard)) for shard in shards)
            return
        with ProcessPoolExecutor(min(jobs, len(shards)), mp_context=multiprocessing.get_context("fork")) as pool:
            try:
                yield from zip(shards, pool.map(_write_planned, shards), strict=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except BrokenProcessPool:
        raise RunError("a writing process was killed (out of memory?); what is complete is kept: run again, perhaps "
                       "with fewer --jobs") from None  # fmt: skip
    finally:
        _plan_of_this_process = None


def _only_writer(out: Path, suffix: str = "", *, wait: bool = False) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of ``out``, a hidden file beside it; raises ``VeaError`` where another process writes it."""
    return lock.held(out.parent / f".{out.name}{suffix}.lock", what=f"writing {out}", wait=wait)


def _check_target(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise VeaError(f"{out} is a file; --out names a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "index.json").is_file():
        raise VeaError(f"{out} is not empty and not a prepared data set; choose another folder")
    if not overwrite:
        raise VeaError(f"{out} already holds a prepared data set; choose another folder or pass --overwrite")


def _fingerprint(splits: Mapping[str, Records], fields: Mapping[str, LabelField], told: Mapping[str, Any]) -> str:
    """Returns a hash of everything that decides the bytes; raises ``VeaError`` for a key that occurs twice."""
    digest = hashlib.sha256(
        json.dumps([FORMAT, told, {name: field.to_json() for name, field in fields.items()}]).encode()
    )
    seen: set[bytes] = set()  # hashes: the keys of millions of samples are long
    for split, records in splits.items():
        digest.update(f"{split}\0{records.about}\0".encode("utf-8", "surrogatepass"))
        for key in records.keys:
            short = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
            if short in seen:
                raise VeaError(f"the key {key!r} occurs twice (again in split {split!r}); keys must be unique")
            seen.add(short)
            digest.update(short)
    return digest.hexdigest()


def _open_plan(plan: _Plan, *, alone: bool) -> None:
    """Makes the folder of a plan, or goes on in it; what another plan left is cleared where no other part needs it.

    Raises:
        VeaError: parts of another preparation are there.
    """
    file = plan.folder / PLAN / "plan.json"
    try:
        same = json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == plan.fingerprint
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        same = False
    if same:
        return
    if plan.folder.exists() and (alone or not file.exists()):
        atomic.remove(plan.folder)
    elif plan.folder.exists():
        raise VeaError(
            f"{plan.folder} holds the parts of another preparation (other options or samples); let it end, or delete "
            "that folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(file, json.dumps({"fingerprint": plan.fingerprint}).encode())


def _complete(plan: _Plan, out: Path, head: dict[str, Any]) -> bool:
    """Returns whether every shard is there; then it writes the index and moves the folder to ``out``."""
    records = {shard: plan.done(shard) for shard in plan.shards}
    if not all(records.values()):
        return False
    skipped = [line for record in records.values() if record for line in record["skipped"]]
    splits: dict[str, dict[str, Any]] = {}
    for shard, record in records.items():
        if record and record["entry"]:
            splits.setdefault(shard.split, {"samples": 0, "shards": []})["shards"].append(record["entry"])
    for entry in splits.values():
        entry["samples"] = sum(shard["samples"] for shard in entry["shards"])
    if not splits:
        reason = f" ({len(skipped)} skipped, the first: {skipped[0]['reason']})" if skipped else ""
        atomic.remove(plan.folder)
        raise VeaError(f"no samples were found for {head['name']}{reason}; nothing was written")
    text = json.dumps({**head, "splits": splits, "skipped": skipped}, ensure_ascii=False, indent=1) + "\n"
    for rest in plan.folder.glob(".*-*"):  # of processes that were killed; no shard is written any more
        atomic.remove(rest)
    atomic.write_bytes(plan.folder / "index.json", text.encode("utf-8", "surrogatepass"))
    atomic.put_folder(plan.folder, out)
    atomic.remove(out / PLAN)
    return True


def write_dataset(samples_by_split: Mapping[str, Records | Iterable[Sample | Skipped]], out: str | Path,
                  **options: Any) -> Index:  # fmt: skip
    """Returns the index of the data set written to ``out``: ``write_part`` with the whole as its one part."""
    index = write_part(samples_by_split, out, part=(1, 1), **options)
    assert index is not None, "the only part completes the data set"
    return index


def write_part(
    samples_by_split: Mapping[str, Records | Iterable[Sample | Skipped]],
    out: str | Path,
    *,
    part: tuple[int, int],
    name: str,
    title: str,
    fields: Mapping[str, LabelField],
    card: Any,
    synthetic: bool = False,
    shard_size: int = 1000,
    max_side: int | None = None,
    quality: int = 90,
    overwrite: bool = False,
    expected: Mapping[str, int | None] | None = None,
    jobs: int | None = 1,
    engine: str = "processes",
) -> Index | None:
    """Writes the shards of one part; returns the index where that completes the data set, else None.

    The same samples and options give the same bytes, however many parts, processes and attempts. After a kill or on a
    full disk complete shards stay in ``.NAME.partial`` and the same command goes on; the raw files must not change in
    between. Images that cannot be decoded and ``Skipped`` entries are printed and listed in the index.

    Args:
        samples_by_split: samples in the order in which they are written, by split.
        out: folder to make.
        part: (I, N): of the shards, counted over all splits, this call writes every N-th from the I-th on.
        name: short name; ``title`` is the data set in words.
        title: see ``name``.
        fields: the meaning of every label that a sample may have.
        card: a ``Card``, a mapping or None; ``terms`` and ``citation`` are taken from it.
        synthetic: True for generated data; it is said wherever the data set is named.
        shard_size: records per shard; one that could not be read leaves its shard shorter.
        max_side: images with a longer side are reduced to it and stored as JPEG; None keeps every file as it is.
        quality: of the JPEGs that have to be made.
        overwrite: replace a data set that is there already.
        expected: samples per split by the card, kept in the index for ``vea shards check``; None where nobody said.
        jobs: processes that write at the same time; None: one, or with Ray as many as it has room for.
        engine: "processes" of this machine, or "ray": each shard is a task of it.

    Raises:
        VeaError: labels that contradict ``fields``, a key that occurs twice, no samples, ``out`` in use or taken.
        RunError: no space left, or a writing process was killed; complete shards are kept.
    """
    out = Path(out).resolve()
    _check_numbers(part, shard_size=shard_size, max_side=max_side, quality=quality, jobs=jobs)
    _check_target(out, overwrite)
    options = {"shard_size": shard_size, "max_side": max_side, "quality": quality}
    head = _head(
        {"format": FORMAT, "name": name, "title": title, "synthetic": synthetic}, fields, card, options, expected or {}
    )
    splits = {split: Records.of(samples) for split, samples in samples_by_split.items()}
    if not any(records.keys for records in splits.values()):
        raise VeaError(f"no samples were found for {name}; nothing was written")
    plan = _Plan(out.parent / f".{out.name}.partial", splits, fields, options, _fingerprint(splits, fields, head))
    with _room_told(plan, out):
        complete = _write_mine(plan, out, head, part=part, overwrite=overwrite, jobs=jobs, engine=engine)
    return read_index(out) if complete else None


def _check_numbers(
    part: tuple[int, int], *, shard_size: int, max_side: int | None, quality: int, jobs: int | None
) -> None:
    if min(size for size in (shard_size, max_side, jobs, quality) if size is not None) < 1 or quality > 100:
        raise VeaError(
            f"shard size {shard_size}, max side {max_side}, quality {quality}, jobs {jobs}: sizes start at 1, "
            "quality is 1 to 100"
        )
    number, parts = part
    if not 1 <= number <= parts:
        raise VeaError(f"there is no part {number} of {parts}: parts are numbered 1/{parts} to {parts}/{parts}")


@contextlib.contextmanager
def _room_told(plan: _Plan, out: Path) -> Iterator[None]:
    """Turns the error of a full disk into a sentence that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = sum(plan.done(shard) is not None for shard in plan.shards)
            raise RunError(
                f"no space left on the disk for {out}; {kept} complete shards are kept in {plan.folder.name} beside "
                "it: free some space and run again to go on"
            ) from None
        raise


def _head(
    about_set: dict[str, Any],
    fields: Mapping[str, LabelField],
    card: Any,
    options: dict[str, Any],
    expected: Mapping[str, int | None],
) -> dict[str, Any]:
    """Returns what ``index.json`` says beside its splits."""
    about = card if isinstance(card, Mapping) else card.model_dump() if card is not None else {}
    described = {"fields": {key: field.to_json() for key, field in fields.items()}, "terms": about.get("terms", "")}
    head = {**about_set, **described, "citation": about.get("citation", ""), "options": options}
    known = {split: count for split, count in expected.items() if count is not None}
    return {**head, "expected": known} if known else head


def _write_mine(
    plan: _Plan,
    out: Path,
    head: dict[str, Any],
    *,
    part: tuple[int, int],
    overwrite: bool,
    jobs: int | None,
    engine: str,
) -> bool:
    """Writes the shards of one part; returns whether that completed the set."""
    number, parts = part
    out.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(out, "" if parts == 1 else f".{number}-of-{parts}"):
        _check_target(out, overwrite)  # another writer may have finished meanwhile
        with _only_writer(out, ".plan", wait=True):
            _open_plan(plan, alone=parts == 1)
        mine = plan.shards[number - 1 :: parts]
        todo = [shard for shard in mine if plan.done(shard) is None]
        with Progress(head["name"], sum(shard.stop - shard.start for shard in todo)) as progress:
            if len(todo) < len(mine):
                progress.say(f"{head['name']}: {len(mine) - len(todo)} of {len(mine)} shards are there already")
            try:
                for shard, record in _write_all(plan, todo, jobs, engine):
                    for line in record["skipped"]:
                        progress.say(f"skipped {line['key']}: {line['reason']}")
                    progress.advance(shard.stop - shard.start)
                with _only_writer(out, ".plan", wait=True):
                    if plan.folder.exists() and not _complete(plan, out, head):
                        left = sum(plan.done(shard) is None for shard in plan.shards)
                        rest = f"{left} shards are other parts'"
                        progress.say(f"{head['name']}: part {number} of {parts} is complete; {rest}")
                        return False
            except VeaError as error:  # raw data or card have to change: what is there belongs to the old one
                if parts == 1 and not isinstance(error, RunError):
                    atomic.remove(plan.folder)
                raise
    return True
