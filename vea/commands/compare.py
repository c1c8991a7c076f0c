"""``vea compare RUN_A RUN_B`` and ``vea leaderboard DIR``: what evaluation records say about runs, side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vea.errors import VeaError, did_you_mean

SHOWN = ("accuracy", "balanced_accuracy", "macro_f1", "mAP", "ccc", "rmse", "ece", "emotion_accuracy", "cider")


def read_evaluation(run_dir: Path, *, split: str) -> dict[str, Any]:
    """Returns the evaluation record of a run.

    Raises:
        VeaError: there is none, or it is not readable.
    """
    path = run_dir / f"evaluation_{split}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise VeaError(f"no {path}; run finetune/evaluate.py {run_dir} --split {split} first") from None
    except ValueError:
        raise VeaError(f"{path} is not readable JSON; evaluate the run again") from None


def paired_outcomes(a: dict[str, Any], b: dict[str, Any], *, target: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (truth, predictions of a, predictions of b), each (N,), of the samples that both records score.

    Raises:
        VeaError: the target is missing or is no class or value, or keys, truths or class names differ.
    """
    for record in (a, b):
        if target not in record["targets"]:
            raise VeaError(f"--target: no {target!r} in the evaluation{did_you_mean(target, record['targets'])}")
    if a["targets"][target].get("classes") != b["targets"][target].get("classes"):
        raise VeaError(f"the two runs name the classes of {target!r} differently; they cannot be paired")
    one, two = a["predictions"], b["predictions"]
    if isinstance(one[target], list):
        raise VeaError(f"{target!r} holds sentences; compare pairs classes and values")
    if one["keys"] != two["keys"] or one[target]["target"] != two[target]["target"]:
        raise VeaError("the two evaluations are not of the same samples; evaluate both on the same data and split")
    if any(isinstance(row, list) for row in one[target]["target"]):
        raise VeaError(f"{target!r} holds label sets; compare pairs classes and values")
    truth, x, y = (np.array(row, float) for row in (one[target]["target"], one[target]["prediction"],
                                                    two[target]["prediction"]))  # fmt: skip
    known = ~np.isnan(truth) if not a["targets"][target].get("classes") else truth >= 0
    return truth[known], x[known], y[known]


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the exact two-sided p of McNemar's test (1947) from the samples that only one of two got right."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def compare(argv: list[str]) -> None:
    """Prints the paired difference of two runs, its bootstrap interval, and McNemar's test for classes."""
    parser = argparse.ArgumentParser(prog="vea compare", description=__doc__)
    parser.add_argument("run_a", type=Path)
    parser.add_argument("run_b", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--target", help="default: the first of run A")
    arguments = parser.parse_args(argv)
    from vea.evals.compare import is_eval_run, paired

    if is_eval_run(arguments.run_a) and is_eval_run(arguments.run_b):
        found = paired(arguments.run_a, arguments.run_b, task=arguments.target)
        print(f"{found['task']}, read-out {found['readout']}, {found['n']} questions")
        print(f"A {found['a']:.4f}, B {found['b']:.4f}; B - A: {found['b'] - found['a']:+.4f}, "
              f"95 % paired bootstrap by picture {found['low']:+.4f} to {found['high']:+.4f}")  # fmt: skip
        return
    from vea.metrics import bootstrap_interval, concordance

    a, b = (read_evaluation(run, split=arguments.split) for run in (arguments.run_a, arguments.run_b))
    target = arguments.target or next(iter(a["targets"]))
    truth, x, y = paired_outcomes(a, b, target=target)
    if len(truth) == 0:
        raise VeaError(f"no sample of {arguments.split} has a label {target!r}; choose another --target")
    print(f"{target}, {len(truth)} samples of {arguments.split}")
    if a["targets"][target].get("classes"):
        right = np.stack([x == truth, y == truth], 1).astype(float)
        scores, difference = right.mean(0), right[:, 1] - right[:, 0]
        low, high = bootstrap_interval(difference)
        only_a, only_b = int((difference < 0).sum()), int((difference > 0).sum())
        name, tail = "accuracy", f"; McNemar: only A right {only_a}, only B {only_b}, p = {mcnemar(only_a, only_b):.3g}"
    else:

        def gain(rows: np.ndarray) -> np.ndarray:
            return concordance(rows[..., [2, 0]]) - concordance(rows[..., [1, 0]])

        rows = np.stack([truth, x, y], 1)
        scores = np.array([concordance(rows[None][..., [i, 0]])[0] for i in (1, 2)])
        (low, high), name, tail = bootstrap_interval(rows, gain), "ccc", ""
    print(f"{name}: A {scores[0]:.4f}, B {scores[1]:.4f}")
    print(f"B - A: {scores[1] - scores[0]:+.4f}, 95 % paired bootstrap {low:+.4f} to {high:+.4f}{tail}")


def leaderboard(argv: list[str]) -> None:
    """Prints one row per run and target of the evaluations below a folder, best first within a target."""
    parser = argparse.ArgumentParser(prog="vea leaderboard", description=__doc__)
    parser.add_argument("dir", nargs="?", type=Path, default=Path("runs"))
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args(argv)
    rows = []
    for path in sorted(arguments.dir.rglob(f"evaluation_{arguments.split}.json")):
        record = read_evaluation(path.parent, split=arguments.split)
        for target, result in record["targets"].items():
            metrics = result["metrics"]
            first = next((metrics[name] for name in ("accuracy", "mAP", "ccc", "cider") if name in metrics), 0.0)
            # runs of different data are not rivals: the data is a column and sorts before the score
            rows.append(((target, ", ".join(record["data"]), -first), path.parent.name, result["samples"], metrics))
    judged = _judged(arguments.dir)
    if not rows and not judged:
        raise VeaError(f"no evaluation_{arguments.split}.json below {arguments.dir}; finetune/evaluate.py writes them")
    if not rows:
        return
    table = Table(title=f"{arguments.split} split, runs below {arguments.dir}", title_justify="left")
    shown = [name for name in SHOWN if any(name in row[-1] for row in rows)]
    for column in ("target", "data", "run", "n", *shown):
        table.add_column(column)
    for (target, data, _), run, samples, metrics in sorted(rows, key=lambda row: row[0]):
        cells = (f"{metrics[name]:.4f}" if name in metrics else "" for name in shown)
        table.add_row(target, data, run, str(samples), *cells)
    Console(width=180).print(table)


def _judged(folder: Path) -> bool:
    """Prints the runs of ``vea eval`` below a folder, best first within a task; returns whether there are any."""
    from vea.evals.compare import leaderboard_rows

    rows = leaderboard_rows(folder)
    if rows:
        table = Table("task", "read-out", "model", "headline", "n", "run", title="vea eval", title_justify="left")
        for task, readout, model, value, count, run in rows:
            table.add_row(task, readout, model, f"{value:.4f}", str(count), run)
        Console(width=180).print(table)
    return bool(rows)
