"""A trained head over time, read back and applied: series of clips, scored and written as OMG-Empathy's files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from vea.config import DatasetRef, TemporalConfig, load_config
from vea.data.loading.loader import eval_loader
from vea.errors import VeaError
from vea.storage.atomic import write_text
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.temporal import TemporalMetrics, TemporalTask
from vea.taxonomy.fields import LabelField


def load_temporal(run: Path, *, device: str = "cpu", kind: str = "best") -> TemporalTask:
    """Returns the task of a run of recipe temporal with its weights, in evaluation mode.

    Raises:
        VeaError: there is no such run, or it is of another recipe.
    """
    config = load_config(run / "config.yaml")
    if not isinstance(config, TemporalConfig):
        raise VeaError(f"{run} is a run of recipe {config.recipe!r}, not of temporal")
    folder = find_weights(run) if kind == "best" else run / kind
    weights, state = load_weights(folder)
    described = state["task"]
    low, high = described["range"]
    task = TemporalTask(config, fields={described["target"]: LabelField("value", low=low, high=high)})
    task.check_metadata(described)
    consume_prefix_in_state_dict_if_present(weights, "module.")
    task.load_state_dict(weights)
    return task.to(device).eval()


@torch.no_grad()
def series_of(task: TemporalTask, refs: list[DatasetRef], *, rank: int = 0, world_size: int = 1) -> TemporalMetrics:
    """Returns the collected series of every clip of prepared sets."""
    metrics = task.new_metrics()
    device = next(task.head.parameters()).device
    size = task.config.eval_batch_size
    for batch in eval_loader(
        task.config, task.item_spec(), refs=refs, batch_size=size, rank=rank, world_size=world_size
    ):
        batch = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        metrics.update(task.predict(batch), batch)
    return metrics


def write_series(folder: Path, series: Mapping[str, np.ndarray], *, column: str = "valence") -> None:
    """Writes ``KEY.csv`` for each clip, a number a frame under ``column``: what the challenge's script reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, values in series.items():
        text = io.StringIO()
        text.write(f"{column}\n" + "".join(f"{value:.6f}\n" for value in values))
        write_text(folder / f"{key}.csv", text.getvalue())


def evaluate_over_time(task: TemporalTask, refs: list[DatasetRef], *, folder: Path, **place: int) -> dict[str, Any]:
    """Returns scores by target, and writes the predicted series to ``folder``; collective."""
    metrics = series_of(task, refs, **place)
    found = metrics.series()
    scores = metrics.compute()
    if place.get("rank", 0) == 0:
        write_series(folder, {key: rows for key, (rows, _) in found.items()}, column=task.config.target)
    return {
        "targets": {task.config.target: {"samples": len(found), "metrics": scores, "intervals": {}}},
        "series": folder.name,
        "predictions": {"keys": list(found), task.config.target: _means(found)},
    }


def _means(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, list[Any]]:
    """Returns the mean of every clip in columns, in the order of ``series``; None stands for no label."""
    known = [truth[np.isfinite(truth)] for _, truth in series.values()]
    return {
        "target": [float(truth.mean()) if len(truth) else None for truth in known],
        "prediction": [float(rows.mean()) if len(rows) else None for rows, _ in series.values()],
        "confidence": [1.0] * len(series),
    }
