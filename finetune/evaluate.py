"""Evaluate a fine-tuned run on a split it has not chosen anything by: table, JSON, report.

    python finetune/evaluate.py runs/expression-ship --split test
    python finetune/evaluate.py runs/expression-ship --split test --data data/other_faces   # another prepared set
    python finetune/evaluate.py runs/expression-ship --split val --weights final            # not the chosen weights
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from vea import runtime as vea_runtime
from vea.config import DatasetRef, ExpressionConfig, load_config
from vea.data.loaders import eval_loader
from vea.data.shards import read_index
from vea.errors import VeaError, command, did_you_mean
from vea.metrics import ClassificationMetrics
from vea.report import write_report
from vea.runtime import Runtime
from vea.tasks.expression import ExpressionMetrics, ExpressionTask
from vea.training.checkpoint import find_weights, load_weights, write_text
from vea.training.engine import to_device

HEADLINE = ("accuracy", "accuracy_top3", "balanced_accuracy", "macro_f1", "nll", "ece")


def read_run(run_dir: Path) -> ExpressionConfig:
    """Returns the resolved config of a run folder."""
    if not (run_dir / "config.yaml").is_file():
        raise VeaError(f"no run at {run_dir} (no config.yaml in it); give the folder that finetune/expression.py wrote")
    return load_config(run_dir / "config.yaml", schema=ExpressionConfig)


def data_to_evaluate(config: ExpressionConfig, *, split: str, data: str | None) -> list[DatasetRef]:
    """Returns ``split`` of the set at ``data``, or of the run's own validation sets."""
    paths = [data] if data else list(dict.fromkeys(ref.path for ref in config.data.val))
    for path in paths:
        splits = read_index(path).splits
        if split not in splits:
            raise VeaError(f"--split: {path} has no split {split!r}{did_you_mean(split, splits)}")
    return [DatasetRef(path=path, split=split) for path in paths]


@torch.inference_mode()
def collect(task: ExpressionTask, batches: Any, runtime: Runtime) -> ExpressionMetrics:
    """Returns the filled collector: ``vea.training.engine.evaluate`` with the predictions kept."""
    metrics = task.new_metrics()
    task.eval()
    for batch in batches:
        batch = to_device(batch, runtime.device)
        with runtime.autocast():
            outputs = task.predict(batch)
        metrics.update(outputs, batch)
    return metrics


def summarise(metrics: ClassificationMetrics) -> dict[str, Any]:
    """Returns one target's numbers: metrics, 95 % intervals, counts per class, confusion (rows = truth)."""
    confusion = metrics.confusion()
    return {
        "classes": list(metrics.classes),
        "samples": int(confusion.sum()),
        "metrics": metrics.compute(),
        "intervals": {name: list(bounds) for name, bounds in metrics.intervals().items()},
        "samples_per_class": confusion.sum(1).tolist(),
        "confusion": confusion.tolist(),
    }


def print_tables(target: str, result: dict[str, Any], *, title: str, console: Console) -> None:
    """Prints the headline numbers, and the recall and confusion of every class."""
    headline = Table(title=f"{target}: {title}, {result['samples']} samples", title_justify="left")
    for column in ("metric", "value", "95 % interval"):
        headline.add_column(column, justify="left" if column == "metric" else "right")
    for name in HEADLINE:
        if name in result["metrics"]:
            bounds = result["intervals"].get(name)
            shown = f"{bounds[0]:.4f} - {bounds[1]:.4f}" if bounds else ""
            headline.add_row(name, f"{result['metrics'][name]:.4f}", shown)
    console.print(headline)

    classes = result["classes"]
    table = Table(title=f"{target}: rows are the truth, columns the prediction", title_justify="left")
    table.add_column("class")
    for name in ("n", "recall", "95 % interval", *(name[:9] for name in classes)):
        table.add_column(name, justify="right", no_wrap=True)
    for index, name in enumerate(classes):
        recall, bounds = result["metrics"].get(f"recall/{name}"), result["intervals"].get(f"recall/{name}")
        table.add_row(
            name,
            str(result["samples_per_class"][index]),
            "-" if recall is None else f"{recall:.3f}",
            "-" if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}",
            *(str(count) for count in result["confusion"][index]),
        )
    console.print(table)


@command
def main(argv: list[str]) -> None:
    """Runs the evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of finetune/expression.py")
    parser.add_argument("--split", required=True)
    parser.add_argument("--data", help="a prepared set; default: the run's own validation set")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--weights",
        choices=("best", "final", "ema"),
        default="best",
        help="best: chosen by validation; final: the last step's; ema: the last step's average",
    )
    arguments = parser.parse_args(argv)
    if arguments.batch_size < 1:
        raise VeaError("--batch-size must be at least 1")

    config = read_run(arguments.run)
    refs = data_to_evaluate(config, split=arguments.split, data=arguments.data)
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)

    wanted = "best" if arguments.weights == "best" else "final"
    folder = find_weights(arguments.run, prefer=wanted)
    if folder.name != wanted:
        raise VeaError(f"{arguments.run} has no {wanted}/ weights yet (it has {folder.name}); let the run finish")
    weights, state = load_weights(folder, ema=arguments.weights == "ema")
    for ref in refs:  # the heads' names are the checkpoint's, so data with other names or another order is refused
        task = ExpressionTask(config, fields=read_index(ref.path).fields)
        try:
            task.check_metadata(state["task"])
        except VeaError as error:
            raise VeaError(f"{folder} cannot be evaluated on {ref.path}: {error}") from None
    task.load_state_dict(weights)
    task.to(runtime.device)

    batches = eval_loader(config, views="classify", refs=refs, batch_size=arguments.batch_size,
                          rank=runtime.rank, world_size=runtime.world_size)  # fmt: skip
    metrics = collect(task, batches, runtime)
    results = {name: summarise(collector) for name, collector in metrics.by_target.items()}
    predictions = metrics.records()

    if runtime.is_main:
        console = Console(width=None if sys.stdout.isatty() else 160)
        title = f"{arguments.run.name}, {arguments.split} of {', '.join(ref.path for ref in refs)}"
        for target, result in results.items():
            print_tables(target, result, title=title, console=console)
        record = {
            "format": 1,
            "split": arguments.split,
            "data": [ref.path for ref in refs],
            "synthetic": any(read_index(ref.path).synthetic for ref in refs),
            "weights": {"kind": arguments.weights, "step": state.get("step"), "best": state.get("best")},
            "targets": results,
            "predictions": predictions,
        }
        path = arguments.run / f"evaluation_{arguments.split}.json"
        write_text(path, json.dumps(record, ensure_ascii=False, separators=(",", ":")))
        print(f"wrote {path}")
        print(f"report: {write_report(arguments.run)}")
    vea_runtime.stop()


if __name__ == "__main__":
    sys.exit(main())
