"""Thirty pictures in three class folders, as a newcomer has them: the one command, its time, its accuracy.

    VEA_DATA=DIR python benchmarks/own_folder.py [--seeds 0 1 2] [--json FILE]

For each seed ten pictures a class are drawn, of LFW's faces (happiness, neutral, surprise) and of OASIS's photographs
(animals, scenery, persons); ``finetune/train.py --folder`` makes a model of them; it is asked about ``--more`` others
of each class, of other people and other themes. ``agree``: pictures of the run's own test part to which ``predict``
gives the class that the evaluation counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from recipes import spread
from rich.console import Console
from rich.table import Table

import vea
from vea.data.shards.writer import safe_key
from vea.errors import RunError, VeaError, command
from vea.storage.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
FACES, SCENES = ("happiness", "neutral", "surprise"), ("Animal", "Scenery", "Person")
Row = tuple[Path, str, str]  # file, class, the person or theme that it is of


def faces(raw: Path) -> Iterable[Row]:
    """Returns LFW's faces."""
    folder = raw / "lfw_expressions"
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield folder / row["file"], row["emotion"], row["person"]


def scenes(raw: Path) -> Iterable[Row]:
    """Returns OASIS's photographs."""
    with (raw / "oasis" / "oasis.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield raw / "oasis" / "images" / row["file"], row["category"], row["theme_group"]


def drawn(rows: list[Row], *, seed: int, count: int, more: int) -> tuple[list[Row], list[Row]]:
    """Returns ``count`` pictures a class, and ``more`` of each of other people or themes."""
    order = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
    classes = sorted({label for _, label, _ in rows})
    own = [row for label in classes for row in [r for r in order if r[1] == label][:count]]
    seen = {who for _, _, who in own}
    others = [row for label in classes for row in [r for r in order if r[1] == label and r[2] not in seen][:more]]
    return own, others


def measured(rows: list[Row], others: list[Row], *, region: str) -> dict[str, float]:
    """Returns what one run of the command took and gave."""
    with tempfile.TemporaryDirectory() as work:
        folder, run = Path(work, "own"), Path(work, "run")
        for file, label, _ in rows:
            (folder / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / label)
        start = time.perf_counter()
        words = [sys.executable, "finetune/train.py", "--folder", str(folder), "--out", str(run), "--region", region]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RunError(f"{' '.join(words[1:])} failed: {done.stderr[-500:]}")
        seconds = time.perf_counter() - start
        record = json.loads((run / "evaluation_test.json").read_text(encoding="utf-8"))
        [(target, tested)] = record["targets"].items()
        model = vea.load(run)

        def asked(files: list[Path]) -> list[str]:
            return [str(one.expression or one.emotion) for one in model.predict(files)]

        said = asked([file for file, _, _ in others])
        files = {safe_key(f"{path.parent.name}__{path.name}"): path for path in folder.glob("*/*")}
        counted = [model.classes[k] for k in record["predictions"][target]["prediction"]]
        same = asked([files[key] for key in record["predictions"]["keys"]])
        return {
            "seconds": seconds,
            "test part": tested["metrics"]["accuracy"],
            "others": float(np.mean([a == label for a, (_, label, _) in zip(said, others)])),
            "agree": float(np.mean([a == b for a, b in zip(same, counted)])),
        }


@command
def main(argv: list[str]) -> None:
    """Trains, asks and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=10, help="pictures a class")
    parser.add_argument("--more", type=int, default=50, help="others a class")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if not os.environ.get("VEA_DATA"):
        raise VeaError("set VEA_DATA to the folder of the raw data: pictures are drawn from lfw_expressions and oasis")
    raw, result = Path(os.environ["VEA_DATA"]), {}
    for name, source, classes, region in (("faces", faces, FACES, "face"), ("scenes", scenes, SCENES, "scene")):
        rows = [row for row in source(raw) if row[1] in classes]
        result[name] = [
            measured(*drawn(rows, seed=seed, count=given.count, more=given.more), region=region) for seed in given.seeds
        ]
    table = Table(title=f"{given.count} pictures a class, 3 classes, seeds {given.seeds}; chance 33.3")
    for column in ("", "seconds", "own test part, %", "others, %", "predict agrees with the evaluation, %"):
        table.add_column(column)
    for name, runs in result.items():
        table.add_row(name, *(f"{np.mean([r['seconds'] for r in runs]):.0f}" if key == "seconds" else
                              spread([r[key] for r in runs]) for key in runs[0]))  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if given.json:
        write_text(given.json, json.dumps({"seeds": given.seeds, "results": result}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
