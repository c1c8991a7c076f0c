"""Results of enrichment passes beside a prepared set: row i of ``sidecars/NAME/<shard>`` belongs to its sample i.

``meta.json`` in the folder says which pass with which options and model made it, and of which set: a sidecar of other
images or of another model is refused, not silently used.
"""

from __future__ import annotations

import collections
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vea.data.shards.index import Index
from vea.data.shards.reader import ShardReader
from vea.errors import VeaError
from vea.storage.remote import SIDECARS, Absent

FORMAT = 1
# a server does not list what it has
USUAL = ("persons", "faces", "landmarks", "saliency", "prompts", "teacher_text", "teacher_image")
MAX_OPEN = 64  # files of rows that stay open: each holds a descriptor, or the lines of a shard


def index_checksum(index: Index) -> str:
    """Returns the sha256 of what identifies the images of a set: its shards by split, their samples and checksums."""
    shards = {
        split: [[shard["file"], shard["samples"], shard["sha256"]] for shard in entry["shards"]]
        for split, entry in index.splits.items()
    }
    return hashlib.sha256(json.dumps(shards, sort_keys=True).encode()).hexdigest()


def read_meta(folder: Path) -> dict[str, Any]:
    """Returns ``meta.json`` of a sidecar.

    Raises:
        VeaError: it is missing, damaged, or of a format that this vea does not read.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise VeaError(
                f"{path} has format {meta['format']!r}, this vea reads {FORMAT}; remove {folder}, write it again"
            )
        meta["pass"], meta["options"], meta["index_sha256"], meta["suffix"]  # all there
        return meta
    except FileNotFoundError:
        raise VeaError(f"{path} is missing; write the sidecar with `vea enrich`") from None
    except (ValueError, KeyError, TypeError):
        raise VeaError(f"{path} is damaged; remove {folder} and write it again with `vea enrich`") from None


def check_same_set(meta: dict[str, Any], index: Index, folder: Path) -> None:
    """Raises ``VeaError`` unless the sidecar in ``folder`` was made from the images of ``index``."""
    if meta["index_sha256"] != index_checksum(index):
        raise VeaError(
            f"the sidecar {folder} was made from other images than those of {index.root} (set {meta.get('set')!r}); "
            "remove it and write it again with `vea enrich`"
        )


def sidecar_folder(index: Index, name: str) -> Path | None:
    """Returns the folder of a sidecar on this machine, None where there is none.

    Of a remote set it is what ``vea enrich`` wrote here, or the place in the cache for what the server has.
    """
    folder = index.root / "sidecars" / name
    if (folder / "meta.json").is_file():
        return folder
    return index.remote.sidecar(name) if index.remote else None


def is_fetched(folder: Path) -> bool:
    """Returns whether a sidecar's folder is the place in the cache for what a server has."""
    return folder.parent.name == SIDECARS


def open_rows(index: Index, folder: Path, name: str, *, stem: str, suffix: str, samples: int) -> Any:
    """Returns ``read_rows`` of the file with the rows of a shard; a server's is fetched.

    Raises:
        RunError: the server does not have it (``Absent``), or sends something else than ``samples`` rows.
    """
    path = folder / f"{stem}{suffix}"

    def check(fetched: Path) -> str:
        try:
            found = len(read_rows(fetched, suffix))
        except ValueError as error:
            return str(error)
        return "" if found == samples else f"{found} rows for {samples} samples"

    return index.remote.rows(name, path, check, read_rows) if index.remote and is_fetched(folder) else read_rows(path)


class Sidecar:
    """The rows of one split, read when they are asked for.

    Args:
        reader: of the split.
        name: folder below ``sidecars/``.
        made_by: the pass that must have made it.
        otherwise: what the user can do instead of writing the sidecar; ends a sentence.

    Raises:
        VeaError: it is missing or incomplete, was made by another pass or from another set.
    """

    def __init__(self, reader: ShardReader, name: str, *, made_by: str, otherwise: str = "") -> None:
        self.name, self.index = name, reader.index
        self._otherwise = f", or {otherwise}" if otherwise else ""
        self._made_by = made_by
        self._root = reader.index.remote.url if reader.index.remote else reader.root
        folder = sidecar_folder(reader.index, name)
        if folder is None:
            raise VeaError(f"{self._root} has no sidecar {name}: {self._remedy()}")
        self.folder = folder
        self.meta = read_meta(self.folder)
        if self.meta["pass"] != made_by:
            raise VeaError(f"{self.folder} was made by the pass {self.meta['pass']}, not by {made_by}: name another")
        check_same_set(self.meta, reader.index, self.folder)
        self._shards = [(shard["file"], shard["samples"]) for shard in reader.shards]
        self._ends = np.cumsum([samples for _, samples in self._shards])
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()
        files = [] if is_fetched(folder) else [self._path(number) for number in range(len(self._shards))]
        if missing := [path for path in files if not path.is_file()]:
            raise VeaError(f"{missing[0]} and {len(missing) - 1} more are missing: {self._remedy()}")

    def _remedy(self) -> str:
        return f"run `vea enrich {self._made_by} {self._root}` to its end{self._otherwise}"

    def _path(self, number: int) -> Path:
        return self.folder / f"{Path(self._shards[number][0]).stem}{self.meta['suffix']}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": collections.OrderedDict()}

    def _rows(self, number: int) -> Any:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        path, samples = self._path(number), self._shards[number][1]
        try:
            where = {"stem": path.stem, "suffix": self.meta["suffix"], "samples": samples}
            rows = open_rows(self.index, self.folder, self.name, **where)
        except (OSError, ValueError) as error:
            raise VeaError(f"{path} is not readable ({error}); remove it and {self._remedy()}") from None
        if len(rows) != samples:
            raise VeaError(f"{path} has {len(rows)} rows for {samples} samples; remove it and {self._remedy()}")
        if len(self._open) >= MAX_OPEN:
            self._open.popitem(last=False)
        self._open[number] = rows
        return rows

    def row(self, i: int) -> Any:
        """Returns the row of sample ``i`` of the split: float32 (D,), or what its line of JSON holds."""
        number = int(np.searchsorted(self._ends, i, side="right"))
        row = self._rows(number)[i - int(self._ends[number - 1] if number else 0)]
        return np.array(row, dtype=np.float32) if self.meta["suffix"] == ".npy" else json.loads(row)


def read_rows(path: Path, suffix: str | None = None) -> Any:
    """Returns the rows of one file: a memory map (N, D) of ``.npy``, or the lines of ``.jsonl`` as bytes.

    Raises:
        ValueError: it is not a matrix that numpy has written.
    """
    if (suffix or path.suffix) == ".npy":
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except EOFError as error:  # of an empty file
            raise ValueError(str(error)) from None
        if rows.ndim != 2:
            raise ValueError(f"its shape is {rows.shape}")
        return rows
    return path.read_bytes().splitlines()


# --------------------------------------------------------------------------------------------------------- the check


def _bad_row(line: bytes) -> str:
    """Returns what is wrong with a line of JSON, empty for nothing."""
    try:
        row = json.loads(line)
    except ValueError:
        return "is not JSON"
    if not isinstance(row, dict):
        return "is not an object"
    boxes, scores = row.get("boxes", []), row.get("scores")
    if any(len(box) != 4 for box in boxes) or (scores is not None and len(scores) != len(boxes)):
        return "has boxes without four numbers or without a score"
    return ""


def check_rows(rows: Any, *, samples: int, empty: set[int]) -> str:
    """Returns what is wrong with the rows of a shard, empty for nothing.

    Args:
        rows: of ``read_rows``.
        samples: of the shard.
        empty: rows of images that could not be decoded: NaN in a matrix.
    """
    if len(rows) != samples:
        return f"has {len(rows)} rows for {samples} samples"
    if not isinstance(rows, np.ndarray):
        return next((f"row {i} {bad}" for i, line in enumerate(rows) if (bad := _bad_row(line))), "")
    if rows.dtype != np.float32:
        return f"holds {rows.dtype}, not float32"
    wrong = set(np.flatnonzero(~np.isfinite(rows).all(1)).tolist()) ^ empty
    if not wrong:
        return ""
    return f"is NaN in other rows than those of its skipped images: rows {min(wrong)} and {len(wrong) - 1} more"


def check_sidecar(index: Index, name: str) -> list[str]:
    """Returns everything that is wrong with a sidecar, a sentence each.

    Every file must have a row of the right form for every sample of its shard, the skipped samples must be those of the
    set, a split must have all of its files or none (``vea enrich --splits``), and no file may be of another set.
    """
    folder = sidecar_folder(index, name) or index.root / "sidecars" / name
    try:
        meta = read_meta(folder)
        check_same_set(meta, index, folder)
    except VeaError as error:
        return [str(error)]
    again = f"remove it and run `vea enrich {meta['pass']} {index.remote.url if index.remote else index.root}` again"
    problems, widths, stems = [], set(), set()
    for split, entry in index.splits.items():
        missing, first = [], 0
        for shard in entry["shards"]:
            stem, samples, start = Path(shard["file"]).stem, shard["samples"], first
            where, first = f"sidecars/{name}/{stem}{meta['suffix']}", first + samples
            stems.add(stem)
            try:
                rows = open_rows(index, folder, name, stem=stem, suffix=meta["suffix"], samples=samples)
                skipped = _skipped(index, folder, name, stem)
                keys = ShardReader(index.remote.url if index.remote else index.root, split) if skipped else None
                bad = check_rows(rows, samples=samples, empty=set(skipped) if meta["suffix"] == ".npy" else set())
                if keys and any(not 0 <= i < samples or keys.read(start + i)[0] != skipped[i] for i in skipped):
                    bad = bad or f"has skipped samples in {stem}.skipped.json that are not in these places of the shard"
                if bad:
                    problems.append(f"{where} {bad}; {again}")
                elif isinstance(rows, np.ndarray):
                    widths.add(rows.shape[1])
            except (Absent, FileNotFoundError):
                missing.append(where)
            except VeaError as error:  # of the server, with the file's address
                problems.append(str(error))
            except (OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{where} is not readable ({' '.join(str(error).split())}); {again}")
        if missing and len(missing) < len(entry["shards"]):
            problems.append(
                f"{missing[0]} and {len(missing) - 1} more are missing: run `vea enrich {meta['pass']}` again"
            )
    if len(widths) > 1:
        problems.append(f"sidecars/{name} holds vectors of {sorted(widths)} numbers; {again}")
    strangers = [path.name for path in folder.glob("[!.]*") if path.name.split(".")[0] not in {*stems, "meta"}]
    return problems + [
        f"sidecars/{name}/{file} belongs to no shard of this set; remove it" for file in sorted(strangers)
    ]


def _skipped(index: Index, folder: Path, name: str, stem: str) -> dict[int, str]:
    """Returns {row: key} of a shard's images that could not be decoded."""
    path = folder / f"{stem}.skipped.json"
    try:
        if index.remote and is_fetched(folder):
            index.remote.rows(name, path, lambda fetched: "", Path.stat)
        return {entry["row"]: entry["key"] for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (Absent, FileNotFoundError):
        return {}


def check_sidecars(index: Index, names: Iterable[str] = ()) -> tuple[list[str], list[str]]:
    """Returns (what is wrong, the names of the sidecars): those of the folder, and of ``USUAL`` that a server has.

    ``names`` must be there as well.
    """
    there = {path.name for path in (index.root / "sidecars").glob("[!.]*") if path.is_dir()}
    if index.remote:
        there |= {name for name in USUAL if sidecar_folder(index, name)}
    there |= set(names)
    return [line for name in sorted(there) for line in check_sidecar(index, name)], sorted(there)
