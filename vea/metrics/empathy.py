"""Continuous valence over time, by the protocol of the OMG-Empathy challenge: one CSV a listener and story.

A folder holds ``Subject_X_Story_Y.csv``: the header ``valence``, then one number a video frame. Each pair of files is
scored by the concordance correlation coefficient (CCC; population moments, 0 where a series does not vary).
Personalised score: mean over the listeners of their mean over stories; generalised: mean over the stories of their mean
over listeners. Source: github knowledgetechnologyuhh/OMGEmpathyChallenge (evaluation script).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from vea.errors import VeaError
from vea.metrics.values import concordance

NAME = re.compile(r"Subject_(\d+)_Story_(\d+)\.csv", re.IGNORECASE)

Key = tuple[int, int]  # listener, story


def ccc(prediction: np.ndarray, target: np.ndarray) -> float:
    """Returns the concordance correlation coefficient of two series (T,), -1..1; 0 where either does not vary.

    Raises:
        VeaError: the lengths differ, or are 0, or a value is not a number.
    """
    first, second = (np.asarray(series, float).ravel() for series in (prediction, target))
    if len(first) != len(second) or not len(first):
        raise VeaError(f"CCC compares series of one length, not {len(first)} and {len(second)} values")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise VeaError("CCC: a value is not a number")
    if not (first.std() > 0 and second.std() > 0):
        return 0.0  # the correlation is not defined; the challenge counts it as 0
    centre = second.mean()  # moving and scaling both leaves it as it is, and keeps the digits
    scale = max(float(np.abs(first - centre).max()), float(np.abs(second - centre).max()))
    pair = np.stack([first - centre, second - centre], 1) / scale
    return float(concordance(pair[None])[0])


def read_valence(path: Path) -> np.ndarray:
    """Returns the series (T,) in a CSV with a column ``valence``.

    Raises:
        VeaError: no such column, no row, or a cell that is no number; the sentence says where.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            head = [cell.strip().lower() for cell in next(rows, [])]
            if "valence" not in head:
                raise VeaError(f"{path} has no column 'valence' in its first line")
            column, values = head.index("valence"), []
            for cells in rows:
                if not any(cell.strip() for cell in cells):
                    continue
                values.append(_number(cells, column, where=f"{path}, line {rows.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise VeaError(f"{path} cannot be read as CSV ({error})") from None
    if not values:
        raise VeaError(f"{path} has a header and no row")
    return np.array(values)


def _number(cells: list[str], column: int, *, where: str) -> float:
    text = cells[column].strip() if column < len(cells) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise VeaError(f"{where}: {text!r} is not a number")
    return value


def read_folder(folder: Path) -> dict[Key, np.ndarray]:
    """Returns {(listener, story): valence (T,)} of the files of the protocol in ``folder``; others are passed over.

    Raises:
        VeaError: no folder, no such file in it, a CSV of another name, two files of one pair, or one that is no CSV.
    """
    if not folder.is_dir():
        raise VeaError(f"no folder {folder}")
    found: dict[Key, np.ndarray] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() != ".csv":
            continue
        match = NAME.fullmatch(path.name)
        if match is None:
            raise VeaError(f"{path}: the name is not Subject_X_Story_Y.csv")
        key = int(match[1]), int(match[2])
        if key in found:
            raise VeaError(f"{folder} has two files of subject {key[0]} and story {key[1]}")
        found[key] = read_valence(path)
    if not found:
        raise VeaError(f"{folder} holds no Subject_X_Story_Y.csv")
    return found


def empathy_scores(predictions: Mapping[Key, np.ndarray], targets: Mapping[Key, np.ndarray]) -> dict[str, float]:
    """Returns ``personalized``, ``generalized`` and ``ccc/subject_X``, ``ccc/story_Y``: means of CCC.

    Raises:
        VeaError: a pair is missing or unknown, or its length differs; nothing is cut or filled.
    """
    if not targets:
        raise VeaError("there is no series to score against")
    for what, keys in (
        ("no prediction", set(targets) - set(predictions)),
        ("unknown", set(predictions) - set(targets)),
    ):
        if keys:
            names = [f"Subject_{subject}_Story_{story}" for subject, story in sorted(keys)]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise VeaError(f"{what}: {', '.join(names[:3])}{more}")
    scores: dict[Key, float] = {}
    for key, target in sorted(targets.items()):
        try:
            scores[key] = ccc(predictions[key], target)
        except VeaError as error:
            raise VeaError(f"Subject_{key[0]}_Story_{key[1]}: {error}") from None
    subjects, stories = (_means(scores, part) for part in (0, 1))
    return {
        "personalized": float(np.mean(list(subjects.values()))),
        "generalized": float(np.mean(list(stories.values()))),
        **{f"ccc/subject_{number}": value for number, value in subjects.items()},
        **{f"ccc/story_{number}": value for number, value in stories.items()},
    }


def _means(scores: Mapping[Key, float], part: int) -> dict[int, float]:
    numbers: Iterable[int] = sorted({key[part] for key in scores})
    return {n: float(np.mean([value for key, value in scores.items() if key[part] == n])) for n in numbers}


def score_folders(predictions: Path, targets: Path) -> dict[str, float]:
    """Returns ``empathy_scores`` of two folders of ``Subject_X_Story_Y.csv``."""
    return empathy_scores(read_folder(predictions), read_folder(targets))
