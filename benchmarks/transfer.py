"""Does pretraining help? The same network, budget and data, from scratch and from a pretraining run, over seeds.

    python benchmarks/transfer.py --init runs/faces --seeds 0 1 2

Runs finetune/expression.py and finetune/evaluate.py for each arm and seed; a run that is already complete is not
repeated, so an interrupted table goes on where it stopped. Validation chooses the step; the test split is scored once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.errors import RunError, VeaError, command

METRICS = ("accuracy", "macro_f1")


def run(script: str, *arguments: str) -> None:
    """Runs a recipe of the repository; its failure is ours."""
    words = [sys.executable, script, *arguments]
    if subprocess.run(words).returncode:
        raise RunError(f"{' '.join(words[1:])} failed; its own message is above")


def score(config: str, *, run_dir: Path, overrides: list[str], split: str, target: str) -> dict[str, Any]:
    """Returns the test metrics of one fine-tuning run, training and scoring it first where that is not done yet."""
    path = run_dir / f"evaluation_{split}.json"
    if not path.is_file():
        run("finetune/expression.py", config, f"name={run_dir.name}", f"out={run_dir}", *overrides)
        run("finetune/evaluate.py", str(run_dir), "--split", split)
    return json.loads(path.read_text(encoding="utf-8"))["targets"][target]


def spread(values: list[float]) -> str:
    """Returns mean and sample standard deviation in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{100 * statistics.mean(values):.2f} ± {100 * deviation:.2f}"


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune/expression_faces_vit.yaml")
    parser.add_argument("--init", required=True, type=Path, help="pretraining run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--target", default="expression")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="for both arms")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.init.is_dir():
        raise VeaError(f"no pretraining run at {arguments.init}; make it with pretrain/train.py")
    load_config(arguments.config, arguments.overrides)  # a typo stops here, before any run

    arms = {"scratch": [], "pretrained": [f"train.init_from={arguments.init}"]}
    results: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in METRICS} for arm in arms}
    for seed in arguments.seeds:
        for arm, extra in arms.items():
            overrides = [f"seed={seed}", *extra, *arguments.overrides]
            record = score(arguments.config, run_dir=arguments.out / f"{arm}-s{seed}", overrides=overrides,
                           split=arguments.split, target=arguments.target)  # fmt: skip
            for name in METRICS:
                results[arm][name].append(record["metrics"][name])

    differences = {
        name: [b - a for a, b in zip(results["scratch"][name], results["pretrained"][name])] for name in METRICS
    }
    table = Table(
        title=f"{arguments.config}, {arguments.split} split, seeds {arguments.seeds}: mean ± sd over seeds, percent"
    )
    for column in ("", *METRICS):
        table.add_column(column)
    for arm in arms:
        table.add_row(arm, *(spread(results[arm][name]) for name in METRICS))
    table.add_row("difference (paired)", *(spread(differences[name]) for name in METRICS))
    Console().print(table)
    if arguments.json:
        record = {"config": arguments.config, "init": str(arguments.init), "seeds": arguments.seeds, "results": results,
                  "differences": differences}  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1))
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    sys.exit(main())
