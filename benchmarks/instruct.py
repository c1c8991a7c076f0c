"""A pupil on test pictures beside its controls: another picture shown, the picture withheld, hints.

    python benchmarks/instruct.py runs/instruct-smollm2 --out runs/judged [--fer data/fer2013plus --faces 300]

Every answer is kept in --out, so a run that was stopped goes on. Needs VEA_DATA (OASIS). Intervals: 95 %, pictures
drawn with replacement, 2,000 times; differences are paired by picture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vea.evals.backends.base import Backend
from vea.evals.backends.baselines import Shuffled
from vea.evals.backends.ours import Hinted, Recogniser
from vea.evals.backends.pupil import PupilBackend
from vea.evals.question import Question
from vea.evals.run import evaluate
from vea.evals.tasks.affect import pearson_or_zero
from vea.evals.tasks.base import Task, open_task
from vea.evals.tasks.statements import Statements
from vea.tasks.instruct_saved import open_pupil

DRAWS = 2000


class WithoutContext(Statements):
    """Scene statements without the caption that names the scene."""

    name = "statements-without-context"

    def questions(self, split: str) -> list[Question]:
        """Returns the scene statements alone, their context cut off."""
        found = [q for q in super().questions(split) if q.row["class"] == "scene context"]
        return [replace(q, prompt=f"The image is{q.prompt.partition(', the image is')[2]}") for q in found]


class WithContext(Statements):
    """Scene statements as they are."""

    name = "statements-with-context"

    def questions(self, split: str) -> list[Question]:
        """Returns the scene statements alone."""
        return [q for q in super().questions(split) if q.row["class"] == "scene context"]


def rows_of(folder: Path, task: Task) -> list[dict[str, Any]]:
    """Returns the judged answers of a task."""
    lines = (folder / f"judged_{task.name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def numbers(rows: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Returns {measure and read-out: Pearson, low, high}: of the expected number, and of the likeliest digit.

    The latter is what greedy text says, for one digit is one token and the digits' mass is near 1.
    """
    told: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if shares := row.get("probabilities"):
            expected = sum(float(digit) * share for digit, share in shares.items())
            digit = float(max(shares, key=lambda name: shares[name]))
            told.setdefault(row["class"], []).append((expected, digit, float(row["truth"])))
    found = {}
    for name, held in told.items():
        table = np.array(held)
        drawn = np.random.default_rng(0).integers(0, len(table), (DRAWS, len(table)))
        for column, readout in enumerate(("expected", "likeliest digit")):
            given = [pearson_or_zero(table[rows, column], table[rows, 2]) for rows in drawn]
            low, high = np.quantile(given, [0.025, 0.975])
            found[f"{name}, {readout}"] = [pearson_or_zero(table[:, column], table[:, 2]), float(low), float(high)]
    return found


def interval(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], readout: str) -> list[float]:
    """Returns (difference of mean points, low, high), paired by picture."""
    sums: dict[str, list[float]] = {}
    for a, b in zip(first, second, strict=True):
        held = sums.setdefault(a["group"], [0.0, 0.0])
        held[0] += a["points"][readout] - b["points"][readout]
        held[1] += 1
    table = np.array(list(sums.values()))
    drawn = table[np.random.default_rng(0).integers(0, len(table), (DRAWS, len(table)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return [float(table[:, 0].sum() / table[:, 1].sum()), float(low), float(high)]


def main() -> None:
    """Judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--fer", type=Path, help="prepared FER+")
    parser.add_argument("--faces", type=int, default=300, help="test faces, the first of the set")
    parser.add_argument("--pictures", type=int, help="test pictures with statements, the first of the set; all")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    task = open_pupil(given.run)

    def pupil(blind: bool = False) -> PupilBackend:
        return PupilBackend(given.run, blind=blind, task=task)

    controls: dict[str, Backend] = {"pupil": pupil(), "shuffled": Shuffled(pupil()), "withheld": pupil(blind=True)}
    oasis: list[Task] = [open_task("affect"), open_task("statements"), WithContext(), WithoutContext()]
    record: dict[str, Any] = {}
    for one in oasis:
        for name, backend in controls.items():
            if one.name.startswith("statements-") and name != "pupil":
                continue
            limit = None if one.name == "affect" else given.pictures
            found = evaluate(backend, [one], out=given.out / name, readouts=("probability",), limit=limit)
            held = found[one.name]["scores"]["probability"]
            if one.name == "affect":
                held["numbers"] = numbers(rows_of(given.out / name, one))
            record[f"{name}/{one.name}"] = held
            short = {key: held[key] for key in ("measures", "numbers", "accuracy", "answer_mass") if key in held}
            print(f"{name:12s} {one.name:28s} {short}", flush=True)
    if given.fer:
        faces = open_task(f"choice:{given.fer}@expression")
        others = {"hinted": Hinted(pupil(), "expression"), "random hints": Hinted(pupil(), "random")}
        for name, backend in {**controls, **others, "recogniser": Recogniser("expression")}.items():
            found = evaluate(backend, [faces], out=given.out / name, readouts=("probability",), limit=given.faces)
            record[f"{name}/choice"] = found["choice"]["scores"]
            print(f"{name:12s} {'choice':28s} {found['choice']['scores']['probability']['accuracy']:.3f}", flush=True)
        truth = [row["truth"] for row in rows_of(given.out / "pupil", faces)]
        record["blind prior/choice"] = max(truth.count(name) for name in set(truth)) / len(truth)
        print(f"blind prior: {record['blind prior/choice']:.3f}", flush=True)
    for one in [oasis[1], *([faces] if given.fer else [])]:
        for control in ("shuffled", "withheld"):
            pair = [rows_of(given.out / name, one) for name in ("pupil", control)]
            record[f"pupil - {control}/{one.name}"] = interval(*pair, "probability")
            print(f"pupil - {control}, {one.name}: {record[f'pupil - {control}/{one.name}']}", flush=True)
    (given.out / "instruct.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
