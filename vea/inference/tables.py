"""Rows of faces over time, written as they come: CSV, JSON lines or Parquet, by the suffix of the file."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vea.errors import VeaError
from vea.inference.files import csv_text
from vea.storage.atomic import new_file

FORMS = {".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
GROUP = 4096  # rows of Parquet that are held and written together

Write = Callable[[Mapping[str, Any]], None]


def form_of(path: Path) -> str:
    """Returns csv, json (lines) or parquet, by the suffix.

    Raises:
        VeaError: another suffix, a folder, or Parquet without the package that writes it.
    """
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise VeaError(f"--out {path}: the suffix says the form, and is one of {', '.join(FORMS)}")
    if path.is_dir():
        raise VeaError(f"--out {path} is a folder; name a file")
    if form == "parquet":
        _pyarrow()
    return form


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise VeaError("writing Parquet needs the package pyarrow: pip install pyarrow, or write .csv") from None


@contextmanager
def table(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    """Yields the function that writes a row to ``path``, which gets its name when the block ends.

    An error or Ctrl-C after the first row keeps the rows there are; before it, whatever ``path`` held stays.

    Args:
        path: its suffix says the form, see ``form_of``.
        columns: name and type (str, int or float) of each; a row may lack some.
    """
    form = form_of(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ended: BaseException | None = None
    with new_file(path) as partial:
        count = 0
        with _parquet(partial, columns) if form == "parquet" else _text(partial, form, columns) as put:

            def write(row: Mapping[str, Any]) -> None:
                nonlocal count
                count += 1
                put(row)

            try:
                yield write
            except (VeaError, KeyboardInterrupt) as error:
                ended = error
        if ended is not None and not count:
            raise ended
    if ended is not None:
        raise ended


@contextmanager
def _text(path: Path, form: str, columns: Mapping[str, type]) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as file:
        yield text_table(file, form, columns)


def text_table(stream: TextIO, form: str, columns: Mapping[str, type]) -> Write:
    """Returns the function that writes a row to a stream as CSV (the header is written now) or as a line of JSON."""
    if form == "json":
        return lambda row: print(json.dumps(dict(row), ensure_ascii=False), file=stream, flush=True)
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    return lambda row: writer.writerow({name: csv_text(value) for name, value in row.items()})


@contextmanager
def _parquet(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    arrow, parquet = _pyarrow()
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    waiting: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(arrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def put(row: Mapping[str, Any]) -> None:
            waiting.append(dict(row))
            if len(waiting) >= GROUP:
                flush()

        yield put
        if waiting:
            flush()
