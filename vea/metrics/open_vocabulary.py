"""Open-vocabulary emotion labels compared through emotion wheels (AffectGPT, MER-UniBench, arXiv 2501.16566).

With tables that a user brings in the published form (the project ships none: they are CC BY-NC), or with the wheels of
``vea.taxonomy.wheels``.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.taxonomy import wheels as own

RULES = ("mer2025", "mer2026")
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_words(labels: str | Iterable[str] | None) -> list[str]:
    """Returns the words of a label list: a list, or the published string form ``[happy, 'very sad']``.

    A string loses one leading ``[`` and one trailing ``]``, is cut at quotes and commas, and drops empty parts.
    """
    if labels is None or (isinstance(labels, float) and np.isnan(labels)):
        return []
    if not isinstance(labels, str):
        return [str(word) for word in labels]
    text = labels.removeprefix("[").removesuffix("]")
    return [part.strip() for part in re.split("['\",]", text) if part.strip()]


@dataclass(frozen=True)
class WheelTables:
    """Published tables: forms -> base words -> words of the wheels -> sector by (wheel, level)."""

    forms: dict[str, list[str]]
    bases: dict[str, list[str]]
    wheels: dict[str, dict[str, dict[str, list[str]]]]
    _maps: dict[tuple[str, int], dict[str, str]] = field(default_factory=dict, compare=False)

    def wheel_map(self, wheel: str, level: int) -> dict[str, str]:
        """Returns the sector of every word that stands on a wheel; of a word that stands twice the later place."""
        key = (wheel, level)
        if key not in self._maps:
            found: dict[str, str] = {}
            for first, inner in self.wheels[wheel].items():
                # at level 2 a word of the inner ring goes to the alphabetically first of its second ring
                found[first] = first if level == 1 else min(inner)
                for second, outer in inner.items():
                    found[second] = first if level == 1 else second
                    found.update(dict.fromkeys(outer, first if level == 1 else second))
            self._maps[key] = found
        return self._maps[key]

    def sector(self, word: str, wheel: str, level: int) -> str | None:
        """Returns the sector of a word: of all wheel words it may stand for, the alphabetically first on this wheel."""
        stands_for = {raw for base in self.forms.get(word, ()) for raw in self.bases.get(base, ())}
        places = self.wheel_map(wheel, level)
        return next((places[raw] for raw in sorted(stands_for) if raw in places), None)


def _sheet_rows(path: Path) -> list[dict[str, str]]:
    """Returns the rows of the first sheet of an xlsx by column name; text cells only, empty ones are absent."""
    with zipfile.ZipFile(path) as archive:
        shared = []
        if "xl/sharedStrings.xml" in archive.namelist():
            for item in ElementTree.fromstring(archive.read("xl/sharedStrings.xml")).iter(f"{_SHEET}si"):
                runs = [*item.findall(f"{_SHEET}t"), *item.findall(f"{_SHEET}r/{_SHEET}t")]  # no phonetic runs
                shared.append("".join(run.text or "" for run in runs))
        first = min(name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name))
        rows = []
        for row in ElementTree.fromstring(archive.read(first)).iter(f"{_SHEET}row"):
            cells = {}
            for cell in row.iter(f"{_SHEET}c"):
                value, inline = cell.find(f"{_SHEET}v"), cell.find(f"{_SHEET}is/{_SHEET}t")
                text = value if inline is None else inline
                if text is not None and text.text:
                    column = re.sub(r"\d", "", cell.get("r", ""))
                    cells[column] = shared[int(text.text)] if cell.get("t") == "s" else text.text
            rows.append(cells)
    names = rows[0] if rows else {}
    return [{names[column]: text for column, text in row.items() if column in names} for row in rows[1:] if row]


def _read_wheel(path: Path) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    place = {"level1": "", "level2": "", "level3": ""}
    for row in _sheet_rows(path):
        place |= {name: text for name, text in row.items() if name in place}  # empty cells: as above
        first, second, third = (place[f"level{ring}"].lower().strip() for ring in (1, 2, 3))
        found.setdefault(first, {}).setdefault(second, []).append(third)
    return found


def _read_folder(folder: Path) -> WheelTables:
    forms: dict[str, list[str]] = {}
    with (folder / "format.csv").open(encoding="utf-8-sig", newline="") as handle:
        for row in csv.DictReader(handle):
            for form in [*read_words(row["format"]), row["name"]]:
                forms.setdefault(form, []).append(row["name"])
    bases: dict[str, list[str]] = {}
    for row in _sheet_rows(folder / "synonym.xlsx"):
        for column in (name for name in row if name.startswith("word_")):
            word = row[column].strip().lower()
            synonyms = read_words(row.get(column.replace("word_", "synonym_", 1)))
            for base in [word, *(synonym.strip().lower() for synonym in synonyms)]:
                bases.setdefault(base, []).append(word)
    wheels = {path.stem: _read_wheel(path) for path in sorted(folder.glob("wheel*.xlsx"))}
    return WheelTables(forms, bases, wheels)


@lru_cache(maxsize=4)
def _read_tables(folder: Path) -> WheelTables:
    flat = folder / "flat.json"
    try:
        if (folder / "format.csv").exists() and any(folder.glob("wheel*.xlsx")):
            return _read_folder(folder)
        if flat.exists():
            held = json.loads(flat.read_text(encoding="utf-8"))
            return WheelTables(held["forms_to_bases"], held["bases_to_wheel_words"], held["wheels"])
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise VeaError(f"the wheel tables of {folder} cannot be read ({type(error).__name__}: {error})") from None
    raise VeaError(
        f"no wheel tables in {folder}; the published form is format.csv, synonym.xlsx and wheel1.xlsx to wheel5.xlsx, "
        "or one flat.json with the same content"
    )


def read_tables(folder: str | Path) -> WheelTables:
    """Returns the tables of a folder in the published form: format.csv, synonym.xlsx, wheel*.xlsx, or flat.json.

    Raises:
        VeaError: there are none, or they cannot be read.
    """
    return _read_tables(Path(folder).expanduser().resolve())


def _mappers(tables: str | Path | None, level: int) -> dict[str, Callable[[str], str | None]]:
    """Returns, by wheel, what gives a lower-case word its sector or None."""
    if level not in (1, 2):
        raise VeaError(f"level is {level}; wheels are read at level 1 (inner ring) or 2")
    if tables is None:
        return {name: own.sectors(name, level).get for name in own.WHEELS}
    held = read_tables(tables)
    cached: dict[str, Callable[[str], str | None]] = {}
    for name in held.wheels:
        cached[name] = lru_cache(maxsize=None)(lambda word, name=name: held.sector(word, name, level))
    return cached


def map_words(words: str | Iterable[str] | None, mapper: Callable[[str], str | None]) -> set[str]:
    """Returns the sectors of a label list; words that are on no sector are left out."""
    places = (mapper(word.lower().strip()) for word in read_words(words))
    return {place for place in places if place}


def _checked(
    first: Sequence[Any], second: Sequence[Any], tables: str | Path | None, rules: str, level: int
) -> dict[str, Callable[[str], str | None]]:
    """Returns ``_mappers``; raises ``VeaError`` where lengths differ, or tables, rules or level do not exist."""
    if rules not in RULES:
        raise VeaError(f"no rules {rules!r}{did_you_mean(rules, RULES)}")
    if len(first) != len(second):
        raise VeaError(f"{len(first)} labels and {len(second)} predictions; there must be one for each sample")
    return _mappers(tables, level)


def _wheel(truths: Sequence[Any], predictions: Sequence[Any], mapper: Any, rules: str) -> dict[str, float]:
    precision, recall = [], []
    for truth, prediction in zip(truths, predictions):
        wanted, given = map_words(truth, mapper), map_words(prediction, mapper)
        if wanted:
            hits = len(wanted & given)
            precision.append(hits / len(given) if given else 0.0)
            recall.append(hits / len(wanted) if given else 0.0)
    empty = float("nan") if rules == "mer2025" else 0.0
    p, r = (float(np.mean(values)) if values else empty for values in (precision, recall))
    f = 2 * (p * r) / (p + r) if p + r > 0 else empty
    return {"f": f, "precision": p, "recall": r, "used": len(precision)}


def wheel_scores(
    truths: Sequence[Any],
    predictions: Sequence[Any],
    tables: str | Path | None = None,
    rules: str = "mer2026",
    level: int = 1,
) -> dict[str, Any]:
    """Returns the emotion-wheel F of open-vocabulary labels.

    Precision and recall are averaged over samples, F is taken of the averages, and wheels are averaged last. A sample
    whose truth has no place on a wheel is left out of that wheel only; words without a place are dropped.

    Args:
        truths: one label list a sample: a list of words, or the published string form.
        predictions: the same, in the same order.
        tables: folder with the published tables, or None for the wheels of ``vea.taxonomy.wheels``.
        rules: where P + R is 0 or no sample is left, ``mer2025`` gives NaN (which the mean keeps), ``mer2026`` 0.
            It changes the formula only: the tables of 2025 and 2026 differ too, and come with ``tables``.
        level: 1 for the inner ring, 2 for the second (MER2025 ranks by the mean of both, MER2026 by level 1).

    Returns:
        ``f``, ``precision``, ``recall`` (means over wheels) and ``wheels``: the same by wheel, with ``used``, the
        number of samples that counted.

    Raises:
        VeaError: lengths differ, or tables, rules or level do not exist.
    """
    mappers = _checked(truths, predictions, tables, rules, level)
    found = {name: _wheel(truths, predictions, mapper, rules) for name, mapper in mappers.items()}
    means = {key: float(np.mean([scores[key] for scores in found.values()])) for key in ("f", "precision", "recall")}
    return {**means, "wheels": found}


class HitRate(float):
    """A hit rate that knows its parts: ``wheels`` by name, and ``unmapped``, the labels without a place by wheel."""

    wheels: dict[str, float]
    unmapped: dict[str, int]


def hit_rate(
    labels: Sequence[str],
    predictions: Sequence[Any],
    tables: str | Path | None = None,
    rules: str = "mer2026",
    level: int = 1,
) -> HitRate:
    """Returns how often the sector of the one true label is among the sectors of the prediction, mean over wheels.

    A label that has no place on a wheel is a miss there, and counted in ``unmapped`` of the result: leaving it out
    would make a table with holes look good.

    Args:
        labels: one word a sample.
        predictions: one label list a sample (list or published string form).
        tables: as in ``wheel_scores``.
        rules: as in ``wheel_scores``; without samples the rate is NaN under ``mer2025`` and 0 under ``mer2026``.
        level: 1 or 2.

    Raises:
        VeaError: lengths differ, or tables, rules or level do not exist.
    """
    rates, unmapped = {}, {}
    for name, mapper in _checked(labels, predictions, tables, rules, level).items():
        truths = [mapper(str(label).lower().strip()) for label in labels]
        hits = [bool(truth) and truth in map_words(p, mapper) for truth, p in zip(truths, predictions)]
        rates[name] = float(np.mean(hits)) if hits else float("nan") if rules == "mer2025" else 0.0
        unmapped[name] = sum(not truth for truth in truths)
    result = HitRate(np.mean(list(rates.values())))
    result.wheels, result.unmapped = rates, unmapped
    return result


def mean_labels(predictions: Sequence[Any]) -> float:
    """Returns the mean number of labels a prediction holds: over-predicting pays in F, so print it beside F."""
    return float(np.mean([len(set(read_words(p))) for p in predictions])) if len(predictions) else 0.0


def agree(first: Any, second: Any, tables: str | Path | None = None, level: int = 1) -> bool:
    """Returns whether two readers' labels share a sector on more than half of the wheels (EMER's agreement filter)."""
    mappers = _mappers(tables, level)
    shared = [bool(map_words(first, mapper) & map_words(second, mapper)) for mapper in mappers.values()]
    return sum(shared) * 2 > len(shared)
