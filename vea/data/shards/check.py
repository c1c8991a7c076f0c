"""Is a prepared set whole?"""

from __future__ import annotations

import collections
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vea.data.duplicates import picture_hash
from vea.data.shards.index import Index, read_offsets
from vea.data.views.clips import check_clip
from vea.data.views.decode import CorruptImage
from vea.data.views.decode import decode as read_pixels
from vea.errors import VeaError

_BLOCK = 512  # of a tar


def _read_bytes(path: Path) -> tuple[bytes, str]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return b"", f"{path.name} is missing"
    return data, ""


def _member_names(data: bytes, offsets: np.ndarray) -> list[tuple[str, str]]:
    """Returns the names of image and metadata of every sample, read from the headers before their offsets."""

    def name_before(at: int) -> str:
        return data[at - _BLOCK : at - _BLOCK + 100].rstrip(b"\0").decode("utf-8", "replace")

    return [(name_before(int(row[0])), name_before(int(row[2]))) for row in offsets]


@dataclass(frozen=True)
class Checked:
    """What reading a whole shard showed: ``problems`` in words, and (key, perceptual hash) of every good picture."""

    problems: list[str]
    pictures: list[tuple[str, bytes]]


def check_shard(index: Index, shard: dict[str, Any], *, decode: bool) -> Checked:
    """Returns everything that is wrong with a shard: size, checksum, offsets, metadata, images."""

    def read(path: Path) -> tuple[Path, bytes, str, np.ndarray | VeaError | None]:
        data, missing = _read_bytes(path)
        try:
            return path, data, missing, None if missing else read_offsets(path, shard)
        except VeaError as error:
            return path, data, missing, error

    path, data, missing, offsets = index.opened(shard, read)
    if missing:
        return Checked([missing], [])
    if len(data) != shard["bytes"]:
        return Checked([f"{path.name} has {len(data):,} bytes, the index says {shard['bytes']:,}"], [])
    problems, pictures = [], []
    if hashlib.sha256(data).hexdigest() != shard["sha256"]:
        problems.append(f"{path.name} has another checksum than the index says")
    if isinstance(offsets, VeaError) or offsets is None:
        return Checked([*problems, str(offsets)], [])
    for row, (image_name, json_name) in enumerate(_member_names(data, offsets)):
        image_at, image_size, json_at, json_size = (int(value) for value in offsets[row])
        key = image_name.rpartition(".")[0]
        try:
            record = json.loads(data[json_at : json_at + json_size])
        except ValueError:
            problems.append(f"{path.name}, sample {row}: the metadata is not JSON")
            continue
        if json_name != f"{key}.json" or record.get("id") != key:
            problems.append(
                f"{path.name}, sample {row}: {image_name}, {json_name} and id {record.get('id')!r} disagree"
            )
        if decode:
            try:
                if record.get("clip"):
                    check_clip(data[image_at : image_at + image_size], record["clip"])
                    continue
                pixels = read_pixels(data[image_at : image_at + image_size])
                pictures.append((key, picture_hash(Image.fromarray(pixels))))
            except (CorruptImage, ValueError) as error:
                problems.append(f"{path.name}, {key}: the image cannot be decoded ({error})")
    return Checked(problems, pictures)


def label_counts(index: Index, split: str) -> dict[str, dict[str, Any]]:
    """Returns {field: counts per class, or count, mean, min and max of a value} of one split, from the index alone."""
    merged: dict[str, dict[str, Any]] = {}
    for name, field in index.fields.items():
        parts = [shard["label_counts"][name] for shard in index.split(split)["shards"] if name in shard["label_counts"]]
        if field.kind != "value":
            counter: collections.Counter[str] = collections.Counter()
            for part in parts:
                counter.update(part)
            merged[name] = {label: counter[label] for label in field.classes}
        elif parts:
            count = sum(part["count"] for part in parts)
            merged[name] = {
                "count": count,
                "mean": sum(part["mean"] * part["count"] for part in parts) / count,
                "min": min(part["min"] for part in parts),
                "max": max(part["max"] for part in parts),
            }
    return merged
