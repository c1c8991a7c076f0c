"""What ``vea doctor`` says about the data of a config: whole sets, what lies beside them, and splits that overlap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from vea.config import DatasetRef, RunConfig, TeacherConfig
from vea.config.findings import Finding, collect
from vea.data.loading.sets import ShardSet
from vea.data.overlap import check_overlap
from vea.data.shards.index import Index, read_index
from vea.data.shards.reader import ShardReader
from vea.data.streams.shard import Damaged, Missing, records
from vea.data.streams.stream import StreamSet
from vea.data.streams.urls import is_stream
from vea.errors import VeaError


def check_sets(config: RunConfig) -> Iterator[Finding]:
    """Yields one finding per data set and split: index, split, samples, every shard and its offsets."""
    data = config.data
    if not data.train:
        yield Finding("missing", "data.train", "no training data is named", "set data.train=[{path: data/NAME}]")
    for role, refs in (("train", data.train), ("val", data.val)):
        for ref in refs:
            try:
                if is_stream(ref.path):
                    yield _stream(ref, what=f"data.{role}")
                else:
                    yield _whole(ref, what=f"data.{role}")
            except VeaError as error:
                yield Finding.of(error, f"data.{role}")


def _stream(ref: DatasetRef, *, what: str) -> Finding:
    """Returns the number of shards of a stream, and what the first is found to hold."""
    if what == "data.val":
        return Finding("wrong", what, f"{ref.path} is a stream of tars", "validate on a prepared set")
    shards = StreamSet(ref)
    total = shards.counts.total()
    size = "nobody counted its samples" if total is None else f"{total:,} samples"
    try:
        first = next(records(shards.urls[0]))
    except (Missing, Damaged, StopIteration) as error:
        return Finding(
            "missing", what, f"{shards.urls[0]}: {error or 'no samples'}", "look at the address, copy it again"
        )
    text = f"{shards.name}: {len(shards.urls)} shards, {size}; the first sample has {', '.join(sorted(first.members))}"
    few = len(shards.urls) < 2
    return Finding(
        "warning" if few else "ok", what, text, "more shards than virtual readers shuffle better" if few else ""
    )


def _whole(ref: DatasetRef, *, what: str) -> Finding:
    index = read_index(ref.path)
    entry = index.split(ref.split)
    name = f"{ref.path} {ref.split}"
    if index.remote:
        return Finding("ok", what, f"{name}: {entry['samples']:,} samples, remote: shards are not looked at")
    if bad := _damaged(index, entry):
        first = next(iter(bad))
        text = f"{name}: {len(bad)} of {len(entry['shards'])} shards are damaged, {first} {bad[first]}"
        return Finding("missing", what, text, "copy or prepare the data set again")
    samples = len(ShardReader(ref.path, ref.split))
    drawn = " (synthetic)" if index.synthetic else ""
    return Finding("ok", what, f"{name}: {samples:,} samples in {len(entry['shards'])} shards{drawn}")


def _damaged(index: Index, entry: dict[str, Any]) -> dict[str, str]:
    """Returns {file: what is wrong with it} of a split's shards and their tables of offsets."""
    bad = {}
    for shard in entry["shards"]:
        path = Path(index.root) / shard["file"]
        if not path.is_file():
            bad[path.name] = "is not there"
        elif path.stat().st_size != shard["bytes"]:
            bad[path.name] = f"has {path.stat().st_size:,} bytes, the index says {shard['bytes']:,}"
        elif not path.with_suffix(".idx").is_file():
            bad[path.with_suffix(".idx").name] = "is not there"
    return bad


def check_sidecars(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the results of enrichment passes that the config reads are there, whole, and of its teacher.

    The sets are opened as the loader opens them, so that what it would refuse is what is said here.
    """
    teacher: TeacherConfig | None = getattr(config, "teacher", None)
    kinds: tuple[Literal["image", "text"], ...] = ("image", "text")
    alone = [teacher.model_copy(update={"cache": kind}) for kind in kinds if teacher and teacher.cached(kind)]
    for ref in [*config.data.train, *config.data.val]:
        if is_stream(ref.path):
            continue
        asked = [
            (f"teacher_{one.cache}", ref.model_copy(update={"persons": None, "faces": None, "saliency": None}), one)
            for one in alone
        ]
        faces = ref.faces or ("faces" if config.augment.region == "face" else None)
        beside = ref.model_copy(update={"faces": faces})
        named = filter(None, (ref.persons, faces, ref.saliency))
        for name, opened, one in [*asked, *((name, beside, None) for name in named)]:
            try:
                ShardSet(opened, teacher=one, prompts=getattr(config, "prompt", None))
            except VeaError as error:
                yield Finding.of(error, "sidecars")
            else:
                yield Finding("ok", "sidecars", f"{name} of {ref.path} {ref.split}")


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about the data."""
    return collect({"data": check_sets, "overlap": check_overlap, "sidecars": check_sidecars}, config)
