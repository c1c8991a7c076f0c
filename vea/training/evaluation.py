"""Scores of a trained recogniser on a split, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchmetrics.functional.classification import multilabel_average_precision

from vea.config import DatasetRef
from vea.data.shards.index import read_index
from vea.distributed.runtime import Runtime
from vea.metrics import ClassificationMetrics, MultilabelMetrics, ValueMetrics
from vea.metrics.corruptions import corrupt_batch
from vea.storage.atomic import write_text
from vea.tasks.recognise import RecogniseTask
from vea.tasks.recognise_metrics import RecogniseMetrics
from vea.taxonomy.fields import LabelField
from vea.training.engine import to_device


@torch.inference_mode()
def collect(
    task: RecogniseTask,
    batches: Any,
    runtime: Runtime,
    *,
    fields: dict[str, LabelField] | None = None,
    flip: bool = False,
    worse: tuple[str, int] | None = None,
) -> RecogniseMetrics:
    """Returns the filled collector: ``vea.training.engine.evaluate`` with the predictions kept.

    Args:
        task: the model.
        batches: of ``eval_loader``.
        runtime: device and ranks.
        fields: the labels to score; None for all of the model's.
        flip: average the logits with those of the mirrored image (test-time augmentation).
        worse: (kind, strength) of a corruption of the images.
    """
    metrics = RecogniseMetrics(task.fields if fields is None else fields)
    task.eval()
    for batch in batches:
        batch = to_device(batch, runtime.device)
        if worse:
            images = corrupt_batch(batch["image"], batch["keys"], kind=worse[0], strength=worse[1])
            batch = {**batch, "image": images}
        with runtime.autocast():
            outputs = task.predict(batch)
            if flip:
                mirrored = task.predict({**batch, "image": batch["image"].flip(3)})
                outputs = {name: (value + mirrored[name]) / 2 for name, value in outputs.items()}
        metrics.update(outputs, batch)
    return metrics


def blind_score(metrics: ClassificationMetrics | MultilabelMetrics | ValueMetrics) -> dict[str, Any]:
    """Returns a target's main metric and what it is without a look at the picture: ``{metric, chance, majority}``.

    ``majority`` always names the scored split's own most frequent class (no training split can know a better one).
    Of label sets both are the mean mAP of 20 shuffles of the predictions: that of few samples is above the prevalence.
    """
    if isinstance(metrics, ValueMetrics):
        return {"metric": "ccc", "chance": 0.0, "majority": 0.0}
    if isinstance(metrics, MultilabelMetrics):
        (scores, targets), generator = metrics.gather(), torch.Generator().manual_seed(0)
        scores, targets = scores[:, targets.any(0)], targets[:, targets.any(0)]  # the classes that occur, as in mAP
        orders = [torch.randperm(len(scores), generator=generator) for _ in range(20)]
        blind = sum(
            float(multilabel_average_precision(scores[order], targets, num_labels=scores.shape[1])) for order in orders
        ) / len(orders)
        return {"metric": "mAP", "chance": blind, "majority": blind}
    counts = metrics.confusion().sum(1)
    return {
        "metric": "accuracy",
        "chance": 1 / len(counts),
        "majority": float(counts.max() / counts.sum()),
    }


def summarise(metrics: ClassificationMetrics | MultilabelMetrics | ValueMetrics) -> dict[str, Any]:
    """Returns one target's numbers: metrics, 95 % intervals, and for classes counts and confusion (rows = truth)."""
    if isinstance(metrics, MultilabelMetrics):
        return {"samples": len(metrics.gather()[1]), "metrics": metrics.compute(), "intervals": {}}
    intervals = {name: list(bounds) for name, bounds in metrics.intervals().items()}
    if isinstance(metrics, ValueMetrics):
        return {"samples": len(metrics.gather()), "metrics": metrics.compute(), "intervals": intervals}
    confusion = metrics.confusion()
    return {
        "classes": list(metrics.classes),
        "samples": int(confusion.sum()),
        "metrics": metrics.compute(),
        "intervals": intervals,
        "samples_per_class": confusion.sum(1).tolist(),
        "confusion": confusion.tolist(),
    }


def evaluation_record(
    metrics: RecogniseMetrics,
    refs: Sequence[DatasetRef],
    *,
    split: str,
    weights: str,
    state: Mapping[str, Any],
    **extra: Any,
) -> dict[str, Any]:
    """Returns what an evaluation file holds: data, weights and options, scores, blind scores, every prediction.

    Args:
        metrics: filled by ``collect``; all ranks have to call.
        refs: what was scored.
        split: its name.
        weights: best, final or ema.
        state: of the checkpoint.
        extra: options of the evaluation.
    """  # fmt: skip
    return {
        "format": 1,
        **extra,
        "split": split,
        "data": [ref.path for ref in refs],
        "synthetic": any(read_index(ref.path).synthetic for ref in refs),
        "weights": {"kind": weights, "step": state.get("step"), "best": state.get("best")},
        "targets": {name: summarise(collector) for name, collector in metrics.by_target.items()},
        "blind": {name: blind_score(collector) for name, collector in metrics.by_target.items()},
        "predictions": metrics.records(),
    }


def write_evaluation(path: Path, record: dict[str, Any]) -> None:
    """Writes the file that report, card, comparison and tracker read."""
    write_text(path, json.dumps(record, ensure_ascii=False, separators=(",", ":")))
