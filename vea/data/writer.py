"""Writes prepared data sets: shard by shard, in parallel, in parts; what is complete is never written twice.

Which samples a shard holds depends on the list of keys alone (shard n of a split holds records n * size and on), so
each shard is a job of its own: any number of processes, machines (``part``) or lives of a killed run make the same
bytes. Complete shards wait in the hidden folder ``.NAME.partial`` beside the target, each with a record in its
``.plan``; whoever completes the last one writes ``index.json`` and moves the folder into place, so a reader sees a
whole data set or none.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import multiprocessing
import os
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from vea.data.sample import LabelField, Sample, check_image_size
from vea.data.shards import FORMAT, Index, read_index
from vea.errors import RunError, VeaError, did_you_mean
from vea.progress import Progress

PLAN = ".plan"  # in the folder being written: what is to be done, and a record of each shard that is
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # an MPO file begins with a complete JPEG
_MAX_KEY = 80  # a ustar name holds 100 bytes


@dataclass(frozen=True)
class Skipped:
    """Stands for a sample that its source could not give; listed in ``index.json``."""

    key: str
    reason: str


@dataclass(frozen=True)
class Records:
    """The samples of a split before they are read: ``load(i)`` gives that of ``keys[i]``, in any process.

    ``about`` is everything beside the keys that decides what ``load`` gives; a run that was killed goes on only where
    it is the same.
    """

    keys: Sequence[str]
    load: Callable[[int], Sample | Skipped]
    about: str = ""

    @classmethod
    def of(cls, samples: Records | Iterable[Sample | Skipped]) -> Records:
        """Returns the records of samples that are in memory already."""
        if isinstance(samples, Records):
            return samples
        known = list(samples)
        about = hashlib.sha256()
        for sample in known:
            about.update(sample.image + sample.metadata() if isinstance(sample, Sample) else sample.reason.encode())
        return cls([sample.key for sample in known], known.__getitem__, about.hexdigest())


# ------------------------------------------------------------------------------------------------------- one sample


def safe_key(key: str) -> str:
    """Returns a key that is one plain file name without dots; a key that had to change carries a hash of the old one.

    WebDataset cuts a name at its first dot, and a path such as ``../x`` would leave the folder on unpacking. Different
    keys stay different.
    """
    clean = re.sub(r"[^A-Za-z0-9_-]+", "_", key)
    if clean == key and 0 < len(clean) <= _MAX_KEY:
        return key
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{clean.strip('_')[: _MAX_KEY - 11]}-{digest}"


def check_labels(sample: Sample, fields: Mapping[str, LabelField]) -> None:
    """Raises ``VeaError`` when a label is not what its field says: unknown class, wrong length, out of range."""
    for name, value in sample.labels.items():
        where = f"sample {sample.key!r}, label {name!r}"
        if name not in fields:
            raise VeaError(f"{where}: the data set has no such field{did_you_mean(name, fields)}")
        field = fields[name]
        if field.kind in ("class", "multilabel"):
            for word in [value] if field.kind == "class" else value:
                if word not in field.classes:
                    raise VeaError(f"{where}: unknown class {word!r}{did_you_mean(str(word), field.classes)}")
        elif field.kind == "distribution":
            if len(value) != len(field.classes) or not all(math.isfinite(v) and v >= 0 for v in value):
                raise VeaError(f"{where}: needs {len(field.classes)} numbers of zero or more, got {value!r}")
        else:
            low = -math.inf if field.low is None else field.low
            high = math.inf if field.high is None else field.high
            if not low <= value <= high:  # NaN fails too
                raise VeaError(f"{where}: {value!r} is outside {field.low} .. {field.high}")


def _reencode(image: Image.Image, max_side: int | None, quality: int) -> tuple[bytes, float]:
    """Returns JPEG bytes of the image as displayed, no side above ``max_side``, and the factor it was scaled by."""
    shown = ImageOps.exif_transpose(image)
    if shown.mode.startswith("I"):  # 16 bits; PIL would clip, not scale
        values = np.asarray(shown).astype(np.float64)
        shown = Image.fromarray((values / (257 if values.max() > 255 else 1)).clip(0, 255).round().astype(np.uint8))
    if "A" in shown.getbands() or "transparency" in shown.info:
        layer = shown.convert("RGBA")
        shown = Image.new("RGB", layer.size, "white")
        shown.paste(layer, mask=layer.getchannel("A"))
    elif shown.mode not in ("L", "RGB"):
        shown = shown.convert("L" if shown.mode == "1" else "RGB")
    factor = min(1.0, max_side / max(shown.size)) if max_side else 1.0
    if factor < 1:
        width, height = shown.size
        shown = shown.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    shown.save(out, "JPEG", quality=quality)
    return out.getvalue(), factor


def prepare_image(sample: Sample, *, max_side: int | None, quality: int) -> Sample:
    """Returns the sample as it goes into a shard: the file as it is, or a JPEG where it must change.

    It changes when a side is above ``max_side``, when it is not JPEG, PNG or WebP, or has several frames (the first
    stays). The extension follows the content, not the name. Person boxes are scaled with the image.

    Raises:
        ValueError: the image cannot be decoded; the text is the reason.
    """
    if not sample.image:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, large pictures: it decodes, or it does not
            with Image.open(io.BytesIO(sample.image)) as image:
                check_image_size(*image.size)
                kept = image.format in _EXTENSIONS and (image.format == "MPO" or getattr(image, "n_frames", 1) == 1)
                kept = kept and (max_side is None or max(image.size) <= max_side)
                image.load()
                if kept:
                    extension = _EXTENSIONS[str(image.format)]
                    return sample if extension == sample.extension else replace(sample, extension=extension)
                data, factor = _reencode(image, max_side, quality)
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders raise almost anything on damaged files
        known = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise ValueError(" ".join((known or type(error).__name__).split())) from None
    if factor < 1:
        sample = replace(sample, person_boxes=[[round(v * factor, 2) for v in box] for box in sample.person_boxes])
    return replace(sample, image=data, extension="jpg")


class _LabelCounts:
    """Counts per field: samples per class, or count, mean, minimum and maximum of a value."""

    def __init__(self, fields: Mapping[str, LabelField]):
        self.fields = fields
        self.classes: dict[str, collections.Counter[str]] = {
            n: collections.Counter() for n, f in fields.items() if f.classes
        }
        self.values: dict[str, list[float]] = {n: [] for n, f in fields.items() if f.kind == "value"}

    def add(self, labels: Mapping[str, Any]) -> None:
        for name, value in labels.items():
            field = self.fields[name]
            if field.kind == "value":
                self.values[name].append(float(value))
            elif field.kind == "distribution":  # counted under its strongest class
                self.classes[name][field.classes[max(range(len(value)), key=value.__getitem__)]] += 1
            else:
                self.classes[name].update([value] if field.kind == "class" else value)

    def to_json(self) -> dict[str, Any]:
        counts: dict[str, Any] = {
            name: {c: counter[c] for c in self.fields[name].classes if counter[c]}
            for name, counter in self.classes.items()
        }
        for name, values in self.values.items():
            if values:
                counts[name] = {
                    "count": len(values),
                    "mean": round(math.fsum(values) / len(values), 6),
                    "min": min(values),
                    "max": max(values),
                }
        return counts


# -------------------------------------------------------------------------------------------------------- one shard


class _ShardWriter:
    """One tar being written, with its offsets, checksum and label counts."""

    def __init__(self, path: Path, fields: Mapping[str, LabelField]):
        self.path = path
        self.partial = path.with_name(f".{path.stem}.{os.getpid()}")  # another part's process may write the same
        self.file: BinaryIO = open(self.partial, "wb")  # noqa: SIM115 (closed by close or discard)
        self.size = 0
        self.hash = hashlib.sha256()
        self.offsets: list[tuple[int, int, int, int]] = []
        self.counts = _LabelCounts(fields)

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.hash.update(data)
        self.size += len(data)

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        header = tarfile.TarInfo(name)  # its defaults are fixed: time 0, user 0, mode 644
        header.size = len(data)
        self._write(header.tobuf(tarfile.USTAR_FORMAT))
        at = self.size
        self._write(data)
        self._write(b"\0" * (-len(data) % 512))
        return at, len(data)

    def add(self, sample: Sample) -> None:
        image = self._member(f"{sample.key}.{sample.extension}", sample.image)
        metadata = self._member(f"{sample.key}.json", sample.metadata())
        self.offsets.append((*image, *metadata))
        self.counts.add(sample.labels)

    def close(self) -> dict[str, Any]:
        """Returns the shard's entry in the index; tar and offsets get their names."""
        self._write(b"\0" * 1024)  # the end of an archive
        _flush(self.file)
        self.file.close()
        offsets = io.BytesIO()
        np.save(offsets, np.array(self.offsets, dtype=np.uint64).reshape(-1, 4), allow_pickle=False)
        write_atomically(self.path.with_suffix(".idx"), offsets.getvalue())
        os.rename(self.partial, self.path)
        return {
            "file": self.path.name,
            "samples": len(self.offsets),
            "bytes": self.size,
            "sha256": self.hash.hexdigest(),
            "label_counts": self.counts.to_json(),
        }

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # on a full disk closing fails as writing did
            self.file.close()
        self.partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file that other processes see whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            _flush(file)
        os.rename(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


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
        write_atomically(self.folder / PLAN / f"{shard.stem}.json", text.encode("utf-8", "surrogatepass"))
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
        from vea.data.ray_engine import run_tasks

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


# ------------------------------------------------------------------------------------------------------ the data set


@contextlib.contextmanager
def _only_writer(out: Path, suffix: str = "", *, wait: bool = False) -> Iterator[None]:
    """Holds the lock of ``out`` (a hidden file beside it), which the system drops when a process dies.

    Raises:
        VeaError: another process holds it.
    """
    path = out.parent / f".{out.name}{suffix}.lock"
    while True:
        file = open(path, "w")  # noqa: SIM115 (closed below)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            raise VeaError(f"another process is writing {out}; wait for it to end") from None
        try:
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                break
        except FileNotFoundError:
            pass
        file.close()  # the holder before us removed the file between our open and our lock
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _check_target(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise VeaError(f"{out} is a file; --out names a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not (out / "index.json").is_file():
        raise VeaError(f"{out} is not empty and not a prepared data set; choose another folder")
    if not overwrite:
        raise VeaError(f"{out} already holds a prepared data set; choose another folder or pass --overwrite")


def _move_into_place(folder: Path, out: Path) -> None:
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(folder, out)
    shutil.rmtree(old, ignore_errors=True)


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
        shutil.rmtree(plan.folder, ignore_errors=True)
    elif plan.folder.exists():
        raise VeaError(
            f"{plan.folder} holds the parts of another preparation (other options or samples); let it end, or delete "
            "that folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps({"fingerprint": plan.fingerprint}).encode())


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
        shutil.rmtree(plan.folder)
        raise VeaError(f"no samples were found for {head['name']}{reason}; nothing was written")
    text = json.dumps({**head, "splits": splits, "skipped": skipped}, ensure_ascii=False, indent=1) + "\n"
    for rest in plan.folder.glob(".*-*"):  # of processes that were killed; no shard is written any more
        rest.unlink()
    write_atomically(plan.folder / "index.json", text.encode("utf-8", "surrogatepass"))
    _move_into_place(plan.folder, out)
    shutil.rmtree(out / PLAN)
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
    out, (number, parts) = Path(out).resolve(), part
    if min(size for size in (shard_size, max_side, jobs, quality) if size is not None) < 1 or quality > 100:
        raise VeaError(
            f"shard size {shard_size}, max side {max_side}, quality {quality}, jobs {jobs}: sizes start at 1, "
            "quality is 1 to 100"
        )
    if not 1 <= number <= parts:
        raise VeaError(f"there is no part {number} of {parts}: parts are numbered 1/{parts} to {parts}/{parts}")
    _check_target(out, overwrite)
    about = card if isinstance(card, Mapping) else card.model_dump() if card is not None else {}
    options = {"shard_size": shard_size, "max_side": max_side, "quality": quality}
    head = {"format": FORMAT, "name": name, "title": title, "synthetic": synthetic,
            "fields": {key: field.to_json() for key, field in fields.items()}, "terms": about.get("terms", ""),
            "citation": about.get("citation", ""), "options": options}  # fmt: skip
    if known := {split: count for split, count in (expected or {}).items() if count is not None}:
        head["expected"] = known
    splits = {split: Records.of(samples) for split, samples in samples_by_split.items()}
    if not any(records.keys for records in splits.values()):
        raise VeaError(f"no samples were found for {name}; nothing was written")
    plan = _Plan(out.parent / f".{out.name}.partial", splits, fields, options, _fingerprint(splits, fields, head))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(out, "" if parts == 1 else f".{number}-of-{parts}"):
            _check_target(out, overwrite)  # another writer may have finished meanwhile
            with _only_writer(out, ".plan", wait=True):
                _open_plan(plan, alone=parts == 1)
            mine = plan.shards[number - 1 :: parts]
            todo = [shard for shard in mine if plan.done(shard) is None]
            with Progress(name, sum(shard.stop - shard.start for shard in todo)) as progress:
                if len(todo) < len(mine):
                    progress.say(f"{name}: {len(mine) - len(todo)} of {len(mine)} shards are there already")
                try:
                    for shard, record in _write_all(plan, todo, jobs, engine):
                        for line in record["skipped"]:
                            progress.say(f"skipped {line['key']}: {line['reason']}")
                        progress.advance(shard.stop - shard.start)
                    with _only_writer(out, ".plan", wait=True):
                        if plan.folder.exists() and not _complete(plan, out, head):
                            left = sum(plan.done(shard) is None for shard in plan.shards)
                            rest = f"{left} shards are other parts'"
                            progress.say(f"{name}: part {number} of {parts} is complete; {rest}")
                            return None
                except VeaError as error:  # raw data or card have to change: what is there belongs to the old one
                    if parts == 1 and not isinstance(error, RunError):
                        shutil.rmtree(plan.folder, ignore_errors=True)
                    raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = sum(plan.done(shard) is not None for shard in plan.shards)
            raise RunError(
                f"no space left on the disk for {out}; {kept} complete shards are kept in {plan.folder.name} beside "
                "it: free some space and run again to go on"
            ) from None
        raise
    return read_index(out)
