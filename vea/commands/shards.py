"""``vea shards check|stats|show DIR``: is a prepared data set whole, what is in it, how does it look."""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from vea.data.duplicates import duplicate_lines
from vea.data.overlap import write_hashes
from vea.data.shards.check import check_shard, label_counts
from vea.data.shards.index import Index, read_index
from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import check_sidecars
from vea.errors import VeaError, command
from vea.taxonomy.fields import LabelField


def check(index: Index, *, decode: bool = True, jobs: int = 1, hashes: bool = False) -> tuple[list[str], list[str]]:
    """Returns (what is wrong with the shards of a prepared data set, which pictures it holds twice), a line each.

    Pictures are compared only where they are decoded. ``jobs`` processes read shards at the same time;
    with ``hashes`` those of the pictures are written beside them.
    """
    problems = []
    for split, expected in index.raw.get("expected", {}).items():
        skipped = sum(entry["split"] == split for entry in index.raw["skipped"])
        found = index.splits.get(split, {"samples": 0})["samples"] + skipped
        if found != expected:
            problems.append(f"split {split!r} should hold {expected:,} samples by its card, found {found:,}")
    shards = []
    for split, entry in index.splits.items():
        total = sum(shard["samples"] for shard in entry["shards"])
        if total != entry["samples"]:
            problems.append(f"index.json: split {split!r} says {entry['samples']} samples, its shards hold {total}")
        shards += [(split, shard) for shard in entry["shards"]]
    work = partial(check_shard, index, decode=decode)
    if jobs > 1 and decode and len(shards) > 1:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            results = list(pool.map(work, [shard for _, shard in shards]))
    else:
        results = [work(shard) for _, shard in shards]
    pictures = []
    for (split, _), result in zip(shards, results, strict=True):
        problems += result.problems
        pictures += [(split, key, digest) for key, digest in result.pictures]
    if hashes:
        found = {split: [digest for where, _, digest in pictures if where == split] for split in index.splits}
        if {split: len(rows) for split, rows in found.items()} == {
            split: entry["samples"] for split, entry in index.splits.items()
        }:
            write_hashes(index, found)
        else:
            problems.append("hashes are not written: first every picture must be readable")
    return problems, duplicate_lines(pictures)


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


def picture_sizes(reader: ShardReader, *, count: int = 2000) -> np.ndarray:
    """Returns (n, 2) widths and heights of at most ``count`` pictures spread over a split, from their headers."""
    chosen = np.unique(np.linspace(0, len(reader) - 1, min(count, len(reader))).astype(int))
    return np.array([Image.open(io.BytesIO(reader.read(int(i))[1])).size for i in chosen])


def draw_stats(index: Index, path: Path, *, top: int = 20) -> None:
    """Writes a picture of the balance of every label, one colour per split, and of the sizes of the pictures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = {split: label_counts(index, split) for split in index.splits}
    balanced = [name for name, field in index.fields.items() if field.kind != "value"]
    figure, axes = pyplot.subplots(len(balanced) + 1, 1, figsize=(9, 3 * len(balanced) + 3), squeeze=False)
    for axis, name in zip(axes[:, 0], balanced, strict=False):
        first = counts[next(iter(counts))].get(name, {})
        shown = sorted(index.fields[name].classes, key=lambda label: -first.get(label, 0))[:top]
        for place, split in enumerate(counts):
            values = [counts[split].get(name, {}).get(label, 0) for label in shown]
            share = np.array(values) / max(1, sum(counts[split].get(name, {}).values()))
            axis.bar(np.arange(len(shown)) + place * 0.8 / len(counts), share, 0.8 / len(counts), label=split)
        axis.set_xticks(np.arange(len(shown)) + 0.4 * (1 - 1 / len(counts)), shown, rotation=60, ha="right", fontsize=8)
        axis.set_ylabel("share")
        axis.set_title(name)
        axis.legend()
    for split in index.splits:
        sizes = picture_sizes(ShardReader(index.root, split))
        axes[-1, 0].scatter(*sizes.T, s=6, alpha=0.4, label=f"{split} ({len(sizes):,} read)")
    axes[-1, 0].set(title="pictures", xlabel="width, pixels", ylabel="height, pixels")
    axes[-1, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def contact_sheet(index: Index, split: str, *, count: int, seed: int, side: int = 160) -> Image.Image:
    """Returns ``count`` pictures of a split, drawn by ``seed``, each above its labels or text."""
    reader = ShardReader(index.root, split)
    chosen = sorted(np.random.default_rng(seed).permutation(len(reader))[:count].tolist())
    columns = min(8, len(chosen))
    line, lines = 12, 1 + max(1, min(3, len(index.fields)))
    sheet = Image.new("RGB", (columns * side, math.ceil(len(chosen) / columns) * (side + lines * line)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, i in enumerate(chosen):
        key, data, metadata = reader.read(i)
        left, top = place % columns * side, place // columns * (side + lines * line)
        try:
            picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
            picture = ImageOps.contain(picture, (side - 4, side - 4))
            sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
        except Exception as error:  # PIL's decoders raise almost anything on damaged files
            draw.text((left + 4, top + side // 2), f"{type(error).__name__}"[: side // 6], fill="red")
        labels = metadata["labels"]
        words = [_shown(name, labels[name], index.fields[name]) for name in index.fields if name in labels]
        for row, word in enumerate([key, *(words or metadata["text"])][:lines]):
            draw.text((left + 4, top + side + row * line), word.encode("latin-1", "replace").decode("latin-1")
                      [: side // 6], fill="black")  # fmt: skip
    return sheet


def _shown(name: str, value: Any, field: LabelField) -> str:
    if field.kind == "distribution":
        value = field.classes[int(np.argmax(value))]
    elif field.kind == "value":
        value = f"{value:.2f}"
    return f"{name} {', '.join(value) if isinstance(value, list) else value}"


def write_picture(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a picture file; raises ``VeaError`` where its name ends in no format that is known."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    except ValueError as error:
        raise VeaError(f"{path}: {error}; choose a name that ends in .png") from None
    print(f"wrote {path}")


@command
def main(argv: list[str]) -> int:
    """Runs ``check`` (exit 1 when something is wrong), ``stats`` or ``show``."""
    parser = argparse.ArgumentParser(prog="vea shards", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    checking = verbs.add_parser("check", help="sizes, checksums, metadata, images, sidecars; repeated pictures")
    checking.add_argument("--no-decode", action="store_true", help="leave the images alone: much faster")
    checking.add_argument("--strict", action="store_true", help="exit 1 for pictures that occur twice as well")
    checking.add_argument("--hashes", action="store_true", help="write a hash of every picture beside the shards, by "
                          "which `vea doctor` finds pictures that splits and sets share")  # fmt: skip
    checking.add_argument("--jobs", type=int, default=1, help="processes (1)")
    checking.add_argument("--sidecar", action="append", default=[], metavar="NAME", help="must be there and be well; a "
                          "server's are found by the names of their passes, others are named here")  # fmt: skip
    telling = verbs.add_parser("stats", help="sizes and label balance")
    telling.add_argument("--top", type=int, default=20, help="classes shown per label (20)")
    telling.add_argument("--picture", type=Path, metavar="FILE", help="draw them as well, with the sizes of pictures")
    showing = verbs.add_parser("show", help="a sheet of pictures with their labels")
    showing.add_argument("--split", help="the first there is")
    showing.add_argument("--count", type=int, default=32, help="pictures (32)")
    showing.add_argument("--seed", type=int, default=0, help="which pictures (0)")
    showing.add_argument("--out", type=Path, metavar="FILE", help="NAME-SPLIT.png in this folder")
    for verb in (checking, telling, showing):
        verb.add_argument("dir", help="folder with index.json, or its URL")
    arguments = parser.parse_args(argv)
    index = read_index(arguments.dir)
    if arguments.verb == "stats":
        print(stats(index, top=arguments.top))
        if arguments.picture:
            write_picture(arguments.picture, lambda path: draw_stats(index, path, top=arguments.top))
        return 0
    if arguments.verb == "show":
        split = arguments.split or next(iter(index.splits))
        if arguments.count < 1:
            raise VeaError(f"--count must be 1 or more (got {arguments.count})")
        sheet = contact_sheet(index, split, count=arguments.count, seed=arguments.seed)
        write_picture(arguments.out or Path(f"{index.name}-{split}.png"), sheet.save)
        return 0
    if arguments.hashes and (arguments.no_decode or index.remote):
        raise VeaError("--hashes needs the pictures of a folder: leave --no-decode out, and name no URL")
    decode = not arguments.no_decode
    problems, repeated = check(index, decode=decode, jobs=arguments.jobs, hashes=arguments.hashes)
    wrong, sidecars = check_sidecars(index, arguments.sidecar)
    problems += wrong
    for line in (*problems, *repeated):
        print(line)
    total = sum(entry["samples"] for entry in index.splits.values())
    held = f"{total:,} samples" + (f" and the sidecars {', '.join(sidecars)}" if sidecars else "")
    print(f"{index.root}: {len(problems)} problems" if problems else f"{index.root}: {held}, all well")
    return 1 if problems or (arguments.strict and repeated) else 0
