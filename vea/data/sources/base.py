"""What every reader of a raw layout shares: a fixed order of samples, missing files, tables."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from vea.data.cards import Card
from vea.data.sample import Sample
from vea.data.shards.writer import Records, Skipped
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import LabelField


def hash_of(key: str) -> bytes:
    """Returns 8 bytes that depend on the key alone: they order samples and cut splits where none exist."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class UnreadableRecord(Exception):
    """One sample cannot be made; the text is the reason. It is listed, and the others go on."""


# what code that reads a layout meets where a file holds other things than the layout says
_OTHER_SHAPE = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError)


class Source:
    """Reads one raw layout. Subclasses list what there is (``records``) and load one of it (``load``).

    Listing is cheap and without images, so that order, limit and parts of the work are decided before any is read.
    """

    options: dict[str, Any] = {}  # noqa: RUF012 (names and defaults of card.options; read only)
    needs_root = True

    def __init__(self, card: Card):
        self.card = card
        for name in card.options:
            if name not in self.options:
                raise VeaError(
                    f"card {card.name}: layout {card.layout!r} has no option {name!r}{did_you_mean(name, self.options)}"
                )
        self.option = {**self.options, **card.options}
        self.warnings: list[str] = []

    def fields(self, root: Path) -> dict[str, LabelField]:
        """Returns the label fields, classes in index order."""
        return self.card.label_fields

    def splits(self, root: Path) -> list[str]:
        """Returns the names of the splits that can be read."""
        return list(self.card.splits)

    def records(self, root: Path, split: str) -> Iterable[tuple[str, Any]]:
        """Returns (key, what ``load`` needs) of every sample of a split, in any order."""
        raise NotImplementedError  # abstract

    def load(self, root: Path, split: str, key: str, record: Any) -> Sample:
        """Returns one sample; raises ``FileNotFoundError`` when its image is missing."""
        raise NotImplementedError  # abstract

    def listing(self, root: Path, split: str, *, limit: int | None = None) -> list[tuple[str, Any]]:
        """Returns ``records`` in the order in which they are written: by a hash of the key, so not sorted by class."""
        return sorted(self.records(root, split), key=lambda pair: (hash_of(pair[0]), pair[0]))[:limit]

    def read(self, root: Path, split: str, key: str, record: Any) -> Sample | Skipped:
        """Returns one sample, or why there is none."""
        try:
            return self.load(root, split, key, record)
        except FileNotFoundError as error:
            return Skipped(key, f"the image file is missing: {error.filename or error}")
        except UnreadableRecord as error:
            return Skipped(key, str(error))
        except (*_OTHER_SHAPE, OSError) as error:  # a name that is none, a value of another type
            return Skipped(key, f"its record is not as the layout {self.card.layout} has it ({_reason(error)})")

    def to_write(self, root: str | Path, split: str, *, limit: int | None = None) -> Records:
        """Returns what ``vea.data.shards.writer`` needs: the keys of a split in order, and how each is read.

        Raises:
            VeaError: files of the layout are missing or do not say what they should.
        """
        root = Path(root)
        try:
            listing = self.listing(root, split, limit=limit)
        except _OTHER_SHAPE as error:
            raise VeaError(
                f"{root} is not as the layout {self.card.layout} has it: {_reason(error)} in split {split!r}; "
                f"look at its tables. To obtain it: {self.card.obtain.strip()}"
            ) from None
        about = hashlib.sha256(repr(self.option).encode())
        for _, record in listing:
            about.update(repr(record).encode("utf-8", "surrogatepass"))
        return Records(
            [key for key, _ in listing], lambda i: self.read(root, split, *listing[i]), about=about.hexdigest()
        )

    def samples(self, root: str | Path, split: str, *, limit: int | None = None) -> Iterator[Sample | Skipped]:
        """Yields the samples of a split in the order in which they are written."""
        for key, record in self.listing(Path(root), split, limit=limit):
            yield self.read(Path(root), split, key, record)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def require_file(root: Path, name: str, card: Card) -> Path:
    """Returns ``root/name``; raises ``VeaError`` with the way to obtain the set when it does not exist."""
    path = root / name
    if not path.exists():
        raise VeaError(
            f"{root} is not the raw folder of {card.name}: {name} is missing. To obtain it: {card.obtain.strip()}"
        )
    return path


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, with or without BOM; raises ``VeaError`` naming the line that is none."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VeaError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise VeaError(f"{path}, line {line}: it holds a zero byte; save the file as UTF-8 or copy it again")
    return text


MALFORMED = 0.05  # of the lines of a table: up to here they are left out and listed, beyond it is another table


class Malformed:
    """The rows of one table that are not as they should be.

    Args:
        path: of the table.
        warnings: is told which rows are left out; None: the first one is an error, for row numbers mean something.
    """

    def __init__(self, path: Path, warnings: list[str] | None) -> None:
        self.path, self.warnings = path, warnings
        self.found: list[str] = []
        self.lines = 0

    def add(self, where: str, reason: str, todo: str, *, lines: int = 1) -> None:
        """Notes a row that covers ``lines`` lines; raises ``VeaError`` at once where none may be left out."""
        if self.warnings is None:
            raise VeaError(f"{self.path}, {where}{reason}; {todo}")
        self.found.append(f"{where}{reason}; {todo}")
        self.lines += lines

    def done(self, total: int) -> None:
        """Lists what is left out of ``total`` lines; raises ``VeaError`` where that is too much."""
        if not self.found:
            return
        if self.lines > MALFORMED * total or self.warnings is None:
            more = f" ({self.lines:,} of {total:,} lines are malformed)" if self.lines > 1 else ""
            raise VeaError(f"{self.path}, {self.found[0]}{more}")
        several = "; ".join(entry.split("; ")[0] for entry in self.found[:5])
        dots = " ..." if len(self.found) > 5 else ""
        self.warnings.append(
            f"warning: {self.path}: {self.lines:,} of {total:,} lines are malformed and left out: {several}{dots}"
        )


def read_csv(path: Path, columns: Iterable[str], *, warnings: list[str] | None = None) -> list[dict[str, str]]:
    """Returns the rows of a CSV file with a header.

    With ``warnings`` up to ``MALFORMED`` of the lines may have fewer or more cells than the header: left out, and told.

    Raises:
        VeaError: it is not UTF-8, a column is missing, or a row has fewer or more cells than the header.
    """
    rows, bad, before = [], Malformed(path, warnings), 1
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]  # Kaggle's icml_face_data.csv has blanks in front
        for column in columns:
            if column not in header:
                raise VeaError(f"{path} has no column {column!r}{did_you_mean(column, header)}")
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(header) and not any(cell.strip() for cell in cells[len(header) :]):
                cells = cells[: len(header)]  # a spreadsheet's empty cells
            if len(cells) != len(header):
                reason = f"{len(cells)} cells, the header has {len(header)}"
                todo = "complete the row, or put text with a comma in quotes"
                bad.add(f"line {reader.line_num}: ", reason, todo, lines=max(1, reader.line_num - before))
            else:
                rows.append(dict(zip(header, cells, strict=True)))
            before = reader.line_num
    except csv.Error as error:
        raise VeaError(f"{path}, line {reader.line_num}: {error}; mend the row") from None
    bad.done(max(1, reader.line_num - 1))
    return rows


def read_json(path: Path) -> Any:
    """Returns the value in a JSON file; raises ``VeaError`` when it is not JSON."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise VeaError(f"{path} is not readable JSON: {error}") from None


def read_jsonl(path: Path, *, named: Iterable[str] = (), warnings: list[str] | None = None) -> list[dict[str, Any]]:
    """Returns the rows of a file with one JSON object a line; ``named`` must be texts in each.

    With ``warnings`` up to ``MALFORMED`` of the lines may be anything else: they are left out, and told.

    Raises:
        VeaError: it is not UTF-8; names the first bad line.
    """
    rows, bad, total, todo = [], Malformed(path, warnings), 0, "mend the line"
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        total += bool(line.strip())
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            bad.add(f"line {number}, ", f"is not readable JSON: {error}", todo)
            continue
        if not isinstance(row, dict):
            bad.add(f"line {number}, ", f"is a {type(row).__name__} and must be an object with names", todo)
        elif row and (lost := [name for name in named if not (isinstance(row.get(name), str) and row[name].strip())]):
            bad.add(f"line {number}, ", f"has no text {lost[0]!r}", todo)
        elif row:
            rows.append(row)
    bad.done(total)
    return rows


def texts_of(value: Any) -> list[str]:
    """Returns the captions in a value of raw data: one text is one caption, null and blank ones are none."""
    several = value if isinstance(value, list) else [value]
    return [text.strip() for text in several if isinstance(text, str) and text.strip()]


def key_of_path(path: str) -> str:
    """Returns the key of a file named in raw data: its path without suffix, / as __; pictures of one name differ."""
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).with_suffix("").parts if part not in ("/", ".")]
    return "__".join(parts)


def image_sample(path: Path, *, key: str, split: str, source: str, **known: Any) -> Sample:
    """Returns the sample of an image file; the writer sees to the true format, so the extension is the name's."""
    return Sample(
        key=key, image=path.read_bytes(), extension=path.suffix.lstrip(".").lower(), source=source, split=split, **known
    )
