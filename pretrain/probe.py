"""Probe a frozen encoder: linear, nearest neighbours, few labels, and ratings, beside the same network untrained.

    python pretrain/probe.py runs/faces --data data/fer2013plus --target expression
    python pretrain/probe.py dinov2_s14.safetensors --image-size 224 --data data/oasis --target valence arousal
    python pretrain/probe.py resnet50=resnet50.safetensors --data data/oasis --target valence arousal   # any of timm
    python pretrain/probe.py runs/mixed --data data/oasis --target category --json runs/mixed/probe_oasis.json

Features are computed once and kept in --cache. Everything is chosen on ``val``: the weight decay, k, the ridge. The
test split is read when nothing is left to choose, and each row scores it once. The row ``colour`` is what brightness
and colorfulness alone can tell, and below the table stands what a constant answer scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vea.errors import command
from vea.inference.probe import probe
from vea.storage.atomic import write_text


def print_table(result: dict[str, Any]) -> None:
    """Prints one table per target."""
    for target, metric in result["metrics"].items():
        table = Table(title=f"{result['data']} {target}: test {metric}, percent; frozen features of "
                            f"{result['encoder']} at {result['image_size']} px", title_justify="left")  # fmt: skip
        names = list(next(iter(result["rows"].values()))[target])
        for column in ("weights", *names):
            table.add_column(column, justify="left" if column == "weights" else "right", no_wrap=True)
        for row, targets in result["rows"].items():
            table.add_row(row, *map(_shown, targets[target].values()))
        Console(width=140).print(table)
        print(f"in brackets: 95 % bootstrap interval; a constant answer: {_shown(result['constant'][target])}")


def _shown(cell: dict[str, Any]) -> str:
    text = f"{100 * cell['test']:.1f}"
    if cell.get("test_sd") is not None:
        text += f" ± {100 * cell['test_sd']:.1f}"
    if "interval" in cell:
        low, high = cell["interval"]
        text += f" ({100 * low:.0f} to {100 * high:.0f})"
    return text + (f", RMSE {cell['rmse']:.3f}" if "rmse" in cell else "")


@command
def main(argv: list[str]) -> None:
    """Runs the probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="run, folder of import-weights, a ViT's weight file, or NAME=FILE: a timm "
                        "model and its weights")  # fmt: skip
    parser.add_argument("--data", required=True, help="prepared set with train, val and test")
    parser.add_argument("--target", required=True, nargs="+", help="label fields of kind class or value")
    parser.add_argument("--rows", nargs="+", help="which of last, ema, file, untrained, colour; default: all")
    parser.add_argument("--image-size", type=int, help="default: the encoder's own")
    parser.add_argument("--eval-crop", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="draws of each share of the labels")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--json", type=Path, help="default: probe_DATA.json in a run folder")
    given = parser.parse_args(argv)
    result = probe(given.encoder, data=given.data, targets=given.target, image_size=given.image_size,
                   eval_crop=given.eval_crop, cache=given.cache, only=given.rows, seeds=given.seeds,
                   workers=given.workers)  # fmt: skip
    print_table(result)
    folder = Path(given.encoder)
    path = given.json or (folder / f"probe_{Path(given.data).name}.json" if folder.is_dir() else None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1))
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
