"""Does pretraining help? The same network, budget and data, from scratch and from a pretraining run, over seeds.

    python benchmarks/transfer.py --init runs/faces --seeds 0 1 2
    python benchmarks/transfer.py --init runs/faces --config configs/finetune/emotion_oasis.yaml --target valence
    python benchmarks/transfer.py --init WEIGHTS --config configs/finetune/emotion_oasis_imagenet.yaml --target valence

Runs the config's recipe and finetune/evaluate.py for each arm and seed; a run that is already complete is not
repeated, so an interrupted table goes on where it stopped. Validation chooses the step; the test split is scored once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from recipes import evaluated, spread
from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.errors import VeaError, command

CLASSES, VALUES = ("accuracy", "macro_f1"), ("ccc", "rmse")


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune/expression_faces_vit.yaml")
    parser.add_argument("--init", required=True, type=Path, help="pretraining run, or a weight file of the encoder")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split", default="test")
    parser.add_argument("--target", nargs="+", default=["expression"])
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="for both arms")
    arguments = parser.parse_intermixed_args(argv)
    if not arguments.init.exists():
        raise VeaError(f"--init: nothing at {arguments.init}; make a run with pretrain/train.py, or give a weight file")
    recipe = load_config(arguments.config, arguments.overrides).recipe  # a typo stops here, before any run

    arms = {"scratch": [], "pretrained": [f"train.init_from={arguments.init}"]}
    results: dict[str, dict[str, list[float]]] = {arm: {} for arm in arms}
    for seed in arguments.seeds:
        for arm, extra in arms.items():
            overrides = [f"seed={seed}", *extra, *arguments.overrides]
            folder = arguments.out / f"{arm}-s{seed}"
            record = evaluated(
                folder, f"finetune/{recipe}.py", arguments.config, f"name={folder.name}", *overrides,
                split=arguments.split,
            )["targets"]  # fmt: skip
            for target in arguments.target:
                metrics = record[target]["metrics"]
                for name in VALUES if "ccc" in metrics else CLASSES:
                    results[arm].setdefault(f"{target} {name}", []).append(metrics[name])

    scratch, pretrained = results["scratch"], results["pretrained"]
    differences = {name: [b - a for a, b in zip(scratch[name], pretrained[name])] for name in scratch}
    table = Table(
        title=f"{arguments.config}, {arguments.split} split, seeds {arguments.seeds}: mean ± sd over seeds, times 100"
    )
    for column in ("", *scratch):
        table.add_column(column)
    for arm in arms:
        table.add_row(arm, *(spread(values, digits=2) for values in results[arm].values()))
    table.add_row("difference (paired)", *(spread(values, digits=2) for values in differences.values()))
    Console().print(table)
    if arguments.json:
        record = {"config": arguments.config, "init": str(arguments.init), "seeds": arguments.seeds, "results": results,
                  "differences": differences}  # fmt: skip
        arguments.json.write_text(json.dumps(record, indent=1))
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    sys.exit(main())
