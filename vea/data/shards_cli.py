"""``vea shards check|stats DIR``: is a prepared data set whole, and what is in it."""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vea.data.sample import LabelField
from vea.data.shards import Index, read_index, read_offsets
from vea.errors import VeaError, command

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


def check_shard(index: Index, shard: dict[str, Any], *, decode: bool) -> list[str]:
    """Returns one line per thing that is wrong with a shard: size, checksum, offsets, metadata, images."""
    path = index.root / shard["file"]
    data, missing = _read_bytes(path)
    if missing:
        return [missing]
    if len(data) != shard["bytes"]:
        return [f"{path.name} has {len(data):,} bytes, the index says {shard['bytes']:,}"]
    problems = []
    if hashlib.sha256(data).hexdigest() != shard["sha256"]:
        problems.append(f"{path.name} has another checksum than the index says")
    try:
        offsets = read_offsets(path, shard)
    except VeaError as error:
        return [*problems, str(error)]
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
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    Image.open(io.BytesIO(data[image_at : image_at + image_size])).load()
            except Exception as error:  # PIL's decoders raise almost anything on damaged files
                problems.append(f"{path.name}, {key}: the image cannot be decoded ({' '.join(str(error).split())})")
    return problems


def check(index: Index, *, decode: bool = True) -> list[str]:
    """Returns one line per thing that is wrong with a prepared data set; an empty list when it is whole."""
    problems = []
    for split, entry in index.splits.items():
        total = sum(shard["samples"] for shard in entry["shards"])
        if total != entry["samples"]:
            problems.append(f"index.json: split {split!r} says {entry['samples']} samples, its shards hold {total}")
        for shard in entry["shards"]:
            problems += check_shard(index, shard, decode=decode)
    return problems


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


def _field_lines(name: str, field: LabelField, by_split: dict[str, dict[str, Any]], top: int) -> list[str]:
    lines = [f"  {name} ({field.kind})"]
    if field.kind == "value":
        lines += [
            f"    {split}: {c['count']:,} samples, mean {c['mean']:.3f}, {c['min']:.3f} to {c['max']:.3f}"
            for split, c in by_split.items()
            if c
        ]
        return lines
    shown = field.classes
    if len(shown) > top:  # the most frequent, of the first split
        first = next(iter(by_split.values()))
        shown = tuple(sorted(shown, key=lambda label: -first.get(label, 0))[:top])
    width = max(len(label) for label in (*shown, name))
    lines[0] = f"  {name} ({field.kind})".ljust(width + 5) + " ".join(f"{split:>8}" for split in by_split)
    lines += [
        f"    {label:<{width}} " + " ".join(f"{by_split[split].get(label, 0):>8,}" for split in by_split)
        for label in shown
    ]
    if len(field.classes) > len(shown):
        lines.append(f"    ... and {len(field.classes) - len(shown)} more classes")
    return lines


def stats(index: Index, *, top: int = 20) -> str:
    """Returns sizes and the balance of every label as text, one column per split."""
    kind = " (synthetic)" if index.synthetic else ""
    lines = [f"{index.title}{kind}", f"  terms: {' '.join(index.raw.get('terms', '').split())}"]
    for split, entry in index.splits.items():
        size = sum(shard["bytes"] for shard in entry["shards"])
        lines.append(f"  {split}: {entry['samples']:,} samples, {len(entry['shards'])} shards, {size / 1e6:,.1f} MB")
    counts = {split: label_counts(index, split) for split in index.splits}
    for name, field in index.fields.items():
        lines += _field_lines(name, field, {split: counts[split].get(name, {}) for split in counts}, top)
    if index.raw["skipped"]:
        lines.append(f"  {len(index.raw['skipped'])} skipped, such as {index.raw['skipped'][0]}")
    return "\n".join(lines)


@command
def main(argv: list[str]) -> int:
    """Runs ``check`` (exit 1 when something is wrong) or ``stats``."""
    parser = argparse.ArgumentParser(prog="vea shards", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    checking = verbs.add_parser("check", help="sizes, checksums, offsets, metadata, and that every image decodes")
    checking.add_argument("--no-decode", action="store_true", help="leave the images alone: much faster")
    telling = verbs.add_parser("stats", help="sizes and label balance")
    telling.add_argument("--top", type=int, default=20, help="classes shown per label (20)")
    for verb in (checking, telling):
        verb.add_argument("dir", help="folder with index.json")
    arguments = parser.parse_args(argv)
    index = read_index(arguments.dir)
    if arguments.verb == "stats":
        print(stats(index, top=arguments.top))
        return 0
    problems = check(index, decode=not arguments.no_decode)
    for line in problems:
        print(line)
    total = sum(entry["samples"] for entry in index.splits.values())
    print(f"{index.root}: {len(problems)} problems" if problems else f"{index.root}: {total:,} samples, all well")
    return 1 if problems else 0
