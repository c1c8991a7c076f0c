"""Prepared data sets: WebDataset tars with byte offsets beside them, written atomically and read by memory map.

A prepared data set is a folder with ``index.json`` and, per shard, ``SPLIT-000000.tar`` (``KEY.jpg`` + ``KEY.json``
one after the other, plain ustar, so that any WebDataset reader opens it) and ``SPLIT-000000.idx`` (.npy, uint64 (N, 4):
image offset, image bytes, json offset, json bytes). docs/architecture.md has the form of ``index.json``.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import mmap
import os
import re
import shutil
import sys
import tarfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from vea.data.sample import LabelField, Sample
from vea.errors import RunError, VeaError, did_you_mean

FORMAT = 1
MAX_OPEN_SHARDS = 128  # a map holds a file descriptor, and the usual limit is 1,024 a process
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # an MPO file begins with a complete JPEG
_MAX_KEY = 80  # a ustar name holds 100 bytes


@dataclass(frozen=True)
class Skipped:
    """Stands for a sample that its source could not give; listed in ``index.json``."""

    key: str
    reason: str


# ------------------------------------------------------------------------------------------------------------- reading


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
    """Returns the index of a prepared data set; ``path`` is its folder or its ``index.json``.

    Raises:
        VeaError: no such folder, no index in it, or an index that is damaged or of another format.
    """
    root = Path(path)
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
        return Index(
            name=raw["name"],
            fields=fields,
            splits=dict(raw["splits"]),
            synthetic=bool(raw["synthetic"]),
            raw=raw,
            root=root,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VeaError(f"{file} is damaged ({type(error).__name__}: {error}); prepare the data set again") from None


class ShardReader:
    """Random access to the samples of one split, in the order in which they were written.

    Shards are mapped when first touched and only the last ``MAX_OPEN_SHARDS`` stay open, so a reader costs nothing to
    make, survives ``fork`` (maps are read-only) and ``pickle`` (they are left behind), and holds no list of keys.

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
        for shard in self.shards:
            _check_size(self.root / shard["file"], shard["bytes"])
        self._open: collections.OrderedDict[int, tuple[mmap.mmap, np.ndarray]] = collections.OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": collections.OrderedDict()}

    def _map(self, number: int) -> tuple[mmap.mmap, np.ndarray]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        path = self.root / shard["file"]
        offsets = read_offsets(path, shard)
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self._open) >= MAX_OPEN_SHARDS:
            self._open.popitem(last=False)
        self._open[number] = (data, offsets)
        return data, offsets

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
    except (ValueError, EOFError, OSError) as error:
        raise VeaError(f"{path} is not readable ({' '.join(str(error).split())}); {again}") from None
    if offsets.shape != (shard["samples"], 4) or offsets.dtype != np.uint64:
        raise VeaError(
            f"{path} has shape {offsets.shape} and type {offsets.dtype}, "
            f"the index says {shard['samples']} samples; {again}"
        )
    if len(offsets) and int((offsets[:, 2] + offsets[:, 3]).max()) > shard["bytes"]:
        raise VeaError(f"{path} points behind the end of {tar_path.name}; {again}")
    return offsets


# ------------------------------------------------------------------------------------------------------------- writing


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


class _ShardWriter:
    """One tar being written, with its offsets, checksum and label counts."""

    def __init__(self, path: Path, fields: Mapping[str, LabelField]):
        self.path = path
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by close)
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
        self._write(b"\0" * 1024)  # the end of an archive
        _flush(self.file)
        with open(self.path.with_suffix(".idx"), "wb") as file:
            np.save(file, np.array(self.offsets, dtype=np.uint64).reshape(-1, 4), allow_pickle=False)
            _flush(file)
        return {
            "file": self.path.name,
            "samples": len(self.offsets),
            "bytes": self.size,
            "sha256": self.hash.hexdigest(),
            "label_counts": self.counts.to_json(),
        }


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Progress:
    """A bar on a terminal, a plain line every few seconds otherwise; both on stderr."""

    def __init__(self, name: str, total: int | None):
        self.name, self.total, self.done = name, total, 0
        self.started = self.said = time.monotonic()
        self.bar: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.task = self.bar.add_task(name, total=total)
            self.bar.start()

    def advance(self) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.advance(self.task)
        elif time.monotonic() - self.said > 5:
            self.said = time.monotonic()
            of = f" of {self.total:,}" if self.total else ""
            print(
                f"{self.name}: {self.done:,}{of} samples, {self.done / (self.said - self.started):.0f} a second",
                file=sys.stderr,
                flush=True,
            )

    def say(self, line: str) -> None:
        if self.bar is not None:
            self.bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()


@contextlib.contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Holds the lock of ``out`` (a hidden file beside it), which the system drops when a process dies.

    Raises:
        VeaError: another process holds it.
    """
    path = out.parent / f".{out.name}.lock"
    while True:
        file = open(path, "w")  # noqa: SIM115 (closed below)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _write_split(
    split: str,
    samples: Iterable[Sample | Skipped],
    folder: Path,
    fields: Mapping[str, LabelField],
    *,
    shard_size: int,
    max_side: int | None,
    quality: int,
    seen: set[bytes],
    progress: _Progress,
    skipped: list[dict[str, str]],
) -> dict[str, Any]:
    shards: list[dict[str, Any]] = []
    writer: _ShardWriter | None = None
    try:
        for sample in samples:
            if isinstance(sample, Sample):
                check_labels(sample, fields)
                digest = hashlib.sha256(sample.key.encode("utf-8", "surrogatepass")).digest()[:16]
                if digest in seen:
                    raise VeaError(
                        f"the key {sample.key!r} occurs twice (again in split {split!r}); keys must be unique"
                    )
                seen.add(digest)
                try:
                    ready = prepare_image(sample, max_side=max_side, quality=quality)
                except ValueError as error:
                    sample = Skipped(sample.key, str(error))
            if isinstance(sample, Skipped):
                skipped.append({"key": sample.key, "split": split, "reason": sample.reason})
                progress.say(f"skipped {sample.key}: {sample.reason}")
                progress.advance()
                continue
            if writer is None:
                writer = _ShardWriter(folder / f"{split}-{len(shards):06d}.tar", fields)
            writer.add(replace(ready, key=safe_key(ready.key), split=split))
            progress.advance()
            if len(writer.offsets) == shard_size:
                shards.append(writer.close())
                writer.file.close()
                writer = None
        if writer is not None:
            shards.append(writer.close())
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):  # on a full disk closing fails as writing did
                writer.file.close()
    return {"samples": sum(shard["samples"] for shard in shards), "shards": shards}


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


def write_dataset(
    samples_by_split: Mapping[str, Iterable[Sample | Skipped]],
    out: str | Path,
    *,
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
) -> Index:
    """Returns the index of the data set written to ``out``; the same samples and options give the same bytes.

    Everything goes to a hidden folder beside ``out``, ``index.json`` last, which then takes the name ``out``: a reader
    sees a whole data set or none. Images that cannot be decoded and ``Skipped`` entries are printed and listed in the
    index.

    Args:
        samples_by_split: samples in the order in which they are written, by split.
        out: folder to make.
        name: short name; ``title`` is the data set in words.
        title: see ``name``.
        fields: the meaning of every label that a sample may have.
        card: a ``Card``, a mapping or None; ``terms`` and ``citation`` are taken from it.
        synthetic: True for generated data; it is said wherever the data set is named.
        shard_size: samples per shard.
        max_side: images with a longer side are reduced to it and stored as JPEG; None keeps every file as it is.
        quality: of the JPEGs that have to be made.
        overwrite: replace a data set that is there already.
        expected: samples per split, for the progress bar.

    Raises:
        VeaError: labels that contradict ``fields``, a key that occurs twice, no samples, ``out`` in use or taken.
        RunError: no space left; nothing stays behind.
    """
    out = Path(out).resolve()
    if shard_size < 1 or not 1 <= quality <= 100 or (max_side is not None and max_side < 1):
        raise VeaError(
            f"shard size {shard_size}, max side {max_side}, quality {quality}: sizes start at 1, quality is 1 to 100"
        )
    _check_target(out, overwrite)
    about = card if isinstance(card, Mapping) else card.model_dump() if card is not None else {}
    folder = out.parent / f".{out.name}.partial"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _only_writer(out):
            _check_target(out, overwrite)  # another writer may have finished meanwhile
            shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
            folder.mkdir()
            try:
                seen: set[bytes] = set()
                skipped: list[dict[str, str]] = []
                splits = {}
                for split, samples in samples_by_split.items():
                    progress = _Progress(f"{name} {split}", (expected or {}).get(split))
                    try:
                        splits[split] = _write_split(
                            split,
                            samples,
                            folder,
                            fields,
                            shard_size=shard_size,
                            max_side=max_side,
                            quality=quality,
                            seen=seen,
                            progress=progress,
                            skipped=skipped,
                        )
                    finally:
                        progress.stop()
                if not any(entry["samples"] for entry in splits.values()):
                    reason = f" ({len(skipped)} skipped, the first: {skipped[0]['reason']})" if skipped else ""
                    raise VeaError(f"no samples were found for {name}{reason}; nothing was written")
                index = {
                    "format": FORMAT,
                    "name": name,
                    "title": title,
                    "synthetic": synthetic,
                    "fields": {key: field.to_json() for key, field in fields.items()},
                    "terms": about.get("terms", ""),
                    "citation": about.get("citation", ""),
                    "options": {"shard_size": shard_size, "max_side": max_side, "quality": quality},
                    "splits": {split: entry for split, entry in splits.items() if entry["samples"]},
                    "skipped": skipped,
                }
                with open(folder / "index.json", "w", encoding="utf-8") as file:
                    json.dump(index, file, ensure_ascii=False, indent=1)
                    file.write("\n")
                    _flush(file)
                _move_into_place(folder, out)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"no space left on the disk for {out}; nothing was kept: free some and run again") from None
        raise
    return read_index(out)
