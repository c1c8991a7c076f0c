"""The temporal head against frame-wise averages, on drawn people who tell stories: CCC, three seeds.

    python datasets/prepare.py moving --out data/moving       # of each seed: a card with options {seed: S}
    python benchmarks/temporal.py data/moving0:runs/t0 data/moving1:runs/t1 --json temporal.json

Each argument is a prepared set of clips and the run of recipe ``temporal`` that was trained on it. What is compared on
the test split, whose persons are in no other split, from the same embeddings of the frozen recogniser:

- ``ridge``: ridge regression from a frame's embedding (penalty chosen on val), each frame alone;
- ``average``: the same, averaged over the frames around (window chosen on val, once the penalty is);
- ``head``: the run's best weights.

``ccc``: all frames together; ``personalized`` and ``generalized``: OMG-Empathy's scores. The predicted series of the
head are written as the challenge's files and scored from there, by ``vea.metrics.empathy.score_folders``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vea.config import DatasetRef
from vea.data.loading.loader import eval_loader
from vea.errors import RunError, VeaError, command
from vea.inference.temporal import load_temporal, series_of, write_series
from vea.metrics.empathy import score_folders
from vea.tasks.temporal import TemporalMetrics, TemporalTask

PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0)
WINDOWS = (1, 3, 5, 7, 9, 13, 17, 21)  # frames, the middle one is asked for

Clips = dict[str, tuple[np.ndarray, np.ndarray]]  # key: embeddings (T, F), truth (T,)


@torch.no_grad()
def embedded(task: TemporalTask, data: str, split: str) -> Clips:
    """Returns the embeddings and the truth of every clip of a split."""
    refs = [DatasetRef(path=data, split=split)]
    found: Clips = {}
    for batch in eval_loader(task.config, task.item_spec(), refs=refs, batch_size=8, rank=0, world_size=1):
        rows = task.embeddings(batch).numpy()
        for place, key in enumerate(batch["keys"]):
            if batch["valid"][place]:
                found[key] = rows[place], batch["series"][place].numpy()
    return found


def smoothed(series: np.ndarray, window: int) -> np.ndarray:
    """Returns the mean over the frames around each frame; at the ends over those that there are."""
    weights = np.ones(window)
    return np.convolve(series, weights, "same") / np.convolve(np.ones_like(series), weights, "same")


def scored(predicted: dict[str, np.ndarray], clips: Clips, target: str) -> dict[str, float]:
    """Returns the scores of series by key."""
    metrics = TemporalMetrics(target)
    metrics._clips = [(key, row.tolist(), clips[key][1].tolist()) for key, row in predicted.items()]
    return metrics.compute()


def ridge_series(train: Clips, val: Clips, test: Clips, target: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the test scores of ridge regression and of its moving average, and what was chosen."""
    x = np.concatenate([rows for rows, _ in train.values()]).astype(np.float64)
    y = np.concatenate([truth for _, truth in train.values()]).astype(np.float64)
    mean, std = x.mean(0), x.std(0) + 1e-6

    def features(rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([(rows - mean) / std, np.ones((len(rows), 1))], 1))

    def predicted(weights: torch.Tensor, clips: Clips, window: int) -> dict[str, np.ndarray]:
        return {key: smoothed((features(rows) @ weights).numpy().ravel(), window) for key, (rows, _) in clips.items()}

    fits = {penalty: solved(features(x), torch.from_numpy(y), penalty) for penalty in PENALTIES}
    penalty = max(PENALTIES, key=lambda p: scored(predicted(fits[p], val, 1), val, target)["ccc"])
    window = max(WINDOWS, key=lambda w: scored(predicted(fits[penalty], val, w), val, target)["ccc"])
    alone = scored(predicted(fits[penalty], test, 1), test, target)
    return alone | {"penalty": penalty}, scored(predicted(fits[penalty], test, window), test, target) | {
        "window": window
    }


def solved(x: torch.Tensor, y: torch.Tensor, penalty: float) -> torch.Tensor:
    """Returns the weights (F + 1, 1) that minimise |xw - y|^2 + penalty N / F |w|^2; the constant is free."""
    square = x.T @ x
    keep = torch.ones(len(square), dtype=x.dtype)
    keep[-1] = 0
    return torch.linalg.solve(square + penalty * len(x) / len(square) * torch.diag(keep), x.T @ y[:, None])


def one(data: str, run: Path) -> dict[str, Any]:
    """Returns the three rows of a set and its run.

    Raises:
        RunError: a person is in two splits, or the files say something else than the run.
    """
    task = load_temporal(run)
    clips = {split: embedded(task, data, split) for split in ("train", "val", "test")}
    persons = [{key.partition("_Story")[0] for key in part} for part in clips.values()]
    if sum(map(len, persons)) != len(set().union(*persons)):
        raise RunError(f"{data}: a person is in two splits")
    target = task.config.target
    ridge, average = ridge_series(clips["train"], clips["val"], clips["test"], target)
    found = series_of(task, [DatasetRef(path=data, split="test")])
    head, rows = found.compute(), found.series()
    with tempfile.TemporaryDirectory() as folder:
        for name, part in (("ours", 0), ("truth", 1)):
            write_series(Path(folder) / name, {key: pair[part] for key, pair in rows.items()}, column="valence")
        files = score_folders(Path(folder) / "ours", Path(folder) / "truth")
    if abs(files["personalized"] - head["personalized"]) > 1e-4:
        raise RunError(f"{run}: {files['personalized']:.5f} from the files, {head['personalized']:.5f} from the run")
    return {"data": data, "run": str(run), "ridge": ridge, "average": average, "head": head}


@command
def main(argv: list[str]) -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="DATA:RUN")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not all(":" in pair for pair in arguments.pairs):
        raise VeaError("give pairs DATA:RUN, a prepared set of clips and the run that was trained on it")
    rows = [
        one(*(part if at == 0 else Path(part) for at, part in enumerate(pair.split(":")))) for pair in arguments.pairs
    ]  # type: ignore[arg-type]
    for way in ("ridge", "average", "head"):
        for name in ("ccc", "personalized", "generalized"):
            print(f"{way:<8} {name:<13}" + "  ".join(f"{row[way][name]:.3f}" for row in rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
