"""One network for two data sets that share no label, with a teacher for each: what the teachers bring.

    python datasets/prepare.py fer2013plus --out data/fer2013plus && python datasets/prepare.py oasis --out data/oasis
    python benchmarks/joint_affect.py --json joint_affect.json

Arms, at one budget (configs/finetune/joint_affect.yaml), same weights and pictures for a seed: ``labels`` alone;
``a teacher each``: ``expression`` for the faces, ``scene`` for the photographs, each of its own set only (arXiv
2502.03979); ``every teacher everywhere``: both speak of every picture. Validation chooses the step, the table shows the
test splits. What is complete is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from recipes import evaluated, spread
from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.errors import command
from vea.storage.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/finetune/joint_affect.yaml"
ARMS = {
    "labels": ["distill.models=[]"],
    "a teacher each": [],
    "every teacher everywhere": ["distill.only_labelled=false"],
}
METRICS = {"expression": "accuracy", "valence": "ccc", "arousal": "ccc"}


def figures(record: dict[str, Any]) -> dict[str, float]:
    """Returns {target: its metric} of an evaluation."""
    return {name: float(record["targets"][name]["metrics"][metric]) for name, metric in METRICS.items()}


def table_of(results: dict[str, list[dict[str, float]]], title: str) -> Table:
    """Returns a row an arm, and of each arm after the first its difference to it, paired by seed; times 100."""
    table = Table(title=title, title_justify="left")
    for column in ("", *(f"{name}, {metric}" for name, metric in METRICS.items())):
        table.add_column(column)
    first = next(iter(results))
    for arm, rows in results.items():
        table.add_row(arm, *(spread([row[name] for row in rows]) for name in METRICS))
    for arm, rows in list(results.items())[1:]:
        gains = {name: [row[name] - base[name] for row, base in zip(rows, results[first])] for name in METRICS}
        table.add_row(f"{arm} - {first}", *(spread(values) for values in gains.values()))
    return table


@command
def main(argv: list[str]) -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS)[:2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/joint-affect-arms"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="for every run")
    given = parser.parse_intermixed_args(argv)
    for arm in given.arms:
        load_config(CONFIG, [*ARMS[arm], *given.overrides])  # a typo stops here, before any run
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in given.arms}
    for seed in given.seeds:
        for arm in given.arms:
            folder = given.out / f"{arm.replace(' ', '-')}-s{seed}"
            words = [CONFIG, f"name={folder.name}", f"seed={seed}", *ARMS[arm], *given.overrides]
            results[arm].append(figures(evaluated(folder, "finetune/train.py", *words)))
    title = f"{CONFIG}, seeds {given.seeds}: test, times 100, mean ± sd"
    Console(width=None if sys.stdout.isatty() else 120).print(table_of(results, title))
    if given.json:
        record = {"seeds": given.seeds, "overrides": given.overrides, "results": results}
        write_text(given.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
