"""Two eval runs on the same questions: the paired difference; and a table over many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.metrics import bootstrap_interval


def is_eval_run(folder: Path) -> bool:
    """Returns whether a folder holds records of ``vea eval``."""
    return any(folder.glob("eval_*.json"))


def read_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns {task: record} of an eval folder.

    Raises:
        VeaError: there are none, or one is not readable.
    """
    found = {}
    for path in sorted(folder.glob("eval_*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            found[record["task"]] = record
        except (OSError, ValueError, KeyError, TypeError):
            raise VeaError(f"{path} is not a record of vea eval; run it again") from None
    if not found:
        raise VeaError(f"no eval_*.json in {folder}; run vea eval MODEL TASK --out {folder} first")
    return found


def _points(folder: Path, task: str, readout: str) -> dict[str, tuple[str, float]]:
    path = folder / f"judged_{task}.jsonl"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {
            f"{row['key']}\0{row['prompt']}": (row["group"], float(row["points"][readout]))
            for row in rows
            if row["points"].get(readout) is not None
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise VeaError(f"{path} is not readable; run vea eval again") from None


def paired(first: Path, second: Path, *, task: str | None = None, readout: str | None = None) -> dict[str, Any]:
    """Returns means of both on the questions both answered, the difference, and its 95 % interval by picture.

    Raises:
        VeaError: no task or read-out is common, or no question is.
    """
    a, b = read_records(first), read_records(second)
    tasks = [name for name in a if name in b]
    if not tasks:
        raise VeaError(f"{first} and {second} share no task")
    name = task or tasks[0]
    if name not in tasks:
        raise VeaError(f"--target: {name!r} is not a task of both{did_you_mean(name, tasks)}")
    readouts = [r for r in a[name]["scores"] if r in b[name]["scores"]]
    kind = readout or next(iter(reversed(readouts)), "text")
    one, two = _points(first, name, kind), _points(second, name, kind)
    shared = [key for key in one if key in two]
    if not shared:
        raise VeaError(f"{first} and {second} answered no common question of {name} that has a score of its own")
    groups: dict[str, list[float]] = {}
    for key in shared:
        groups.setdefault(one[key][0], []).append(two[key][1] - one[key][1])
    sums = np.array([[sum(gaps), len(gaps)] for gaps in groups.values()])
    low, high = bootstrap_interval(sums, lambda drawn: drawn[..., 0].sum(1) / drawn[..., 1].sum(1))
    means = [float(np.mean([held[key][1] for key in shared])) for held in (one, two)]
    return {"task": name, "readout": kind, "n": len(shared), "a": means[0], "b": means[1], "low": low, "high": high}


def leaderboard_rows(folder: Path) -> list[tuple[str, str, str, float, int, str]]:
    """Returns (task, read-out, model, headline, questions, folder) of the eval runs below, best first in a task."""
    rows = []
    for place in sorted({path.parent for path in folder.rglob("eval_*.json")}):
        for task, record in read_records(place).items():
            for readout, scores in record["scores"].items():
                value = float(scores[record["headline"]])
                rows.append((task, readout, record["model"], value, int(record["questions"]), place.name))
    return sorted(rows, key=lambda row: (row[0], row[1], -row[3]))
