"""One shard: images, labels, offsets."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from vea.data.sample import Sample
from vea.data.views.clips import check_clip
from vea.data.views.decode import CorruptImage, decode, open_image, read_header
from vea.errors import VeaError, did_you_mean
from vea.storage import atomic
from vea.taxonomy.fields import LabelField

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
    """Returns JPEG bytes of a picture, no side above ``max_side``, and the factor it was scaled by."""
    factor = min(1.0, max_side / max(image.size)) if max_side else 1.0
    if factor < 1:
        width, height = image.size
        image = image.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue(), factor


def prepare_image(sample: Sample, *, max_side: int | None, quality: int) -> Sample:
    """Returns the sample as it goes into a shard: the file as it is, or a JPEG where it must change.

    It changes when a side is above ``max_side``, when it is not JPEG, PNG or WebP, or has several frames (the first
    stays). The extension follows the content, not the name. Person boxes are scaled with the image.

    A clip stays as it is, once every frame of it was decoded and counted.

    Raises:
        ValueError: the image cannot be decoded; the text is the reason.
    """
    if sample.clip:
        check_clip(sample.image, sample.clip)
        return sample
    try:
        header = read_header(sample.image)
        kept = header.format in _EXTENSIONS and (header.format == "MPO" or header.frames == 1)
        if kept and (max_side is None or max(header.width, header.height) <= max_side):
            decode(sample.image)
            extension = _EXTENSIONS[header.format]
            return sample if extension == sample.extension else replace(sample, extension=extension)
        data, factor = _reencode(open_image(sample.image), max_side, quality)
    except CorruptImage as error:
        raise ValueError(str(error)) from None
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
        atomic.write_bytes(self.path.with_suffix(".idx"), offsets.getvalue())
        atomic.rename(self.partial, self.path)
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
        atomic.remove(self.partial)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
