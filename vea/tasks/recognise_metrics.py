"""What is measured of a recogniser, target by target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vea.distributed import collectives
from vea.errors import RunError
from vea.losses.classification import soft_targets
from vea.metrics import ClassificationMetrics, MultilabelMetrics, ValueMetrics
from vea.tasks.base import Batch
from vea.taxonomy.fields import LabelField


class RecogniseMetrics:
    """Collects every target's predictions; ``compute`` names them ``TARGET/METRIC`` and adds the mean loss."""

    def __init__(self, fields: dict[str, LabelField]):
        self.fields = fields
        self.by_target: dict[str, ClassificationMetrics | MultilabelMetrics | ValueMetrics] = {
            name: ValueMetrics()
            if field.kind == "value"
            else (MultilabelMetrics if field.kind == "multilabel" else ClassificationMetrics)(field.classes)
            for name, field in fields.items()
        }
        self._losses: dict[str, list[tuple[float, int]]] = {name: [] for name in fields}
        self._records: list[tuple[str, list[tuple[Any, Any, float]]]] = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Adds one batch. The class of a vote distribution is the one with most votes; ties have none."""
        valid = batch.get("valid")
        keep = torch.ones(len(batch["keys"]), dtype=torch.bool) if valid is None else valid.cpu().bool()
        columns = []
        for name, field in self.fields.items():
            logits, labels = outputs[name].float().cpu(), batch["labels"][name].cpu()
            broken = [batch["keys"][i] for i in (keep & ~logits.isfinite().all(1)).nonzero().flatten().tolist()]
            if broken:
                raise RunError(
                    f"the prediction of {name} is not a number for {', '.join(broken[:3])} ({len(broken)} of a batch): "
                    "the weights are broken; take an earlier checkpoint"
                )
            if field.kind == "value":
                target, predicted = labels.float(), unscale_value(logits[:, 0], field=field)
                losses = (logits[:, 0] - scale_value(target, field=field)).square()[keep & ~target.isnan()]
                confidence = torch.ones(len(labels))
                self.by_target[name].update(predicted, target, valid=keep)
            elif field.kind == "multilabel":
                target, confidence = labels, logits.sigmoid().max(1).values
                known = keep & ~labels.isnan().any(1)
                losses = nn.functional.binary_cross_entropy_with_logits(
                    logits[known], labels[known], reduction="none"
                ).mean(1)
                predicted = (logits > 0).long()
                self.by_target[name].update(logits.sigmoid(), labels, valid=keep)
            else:
                rows = soft_targets(labels, field=field)
                target = hard_targets(rows)
                self.by_target[name].update(logits.softmax(1), target, valid=keep)
                losses = -(rows * logits.log_softmax(1)).sum(1)[keep & (rows.sum(1) > 0)]
                confidence, predicted = logits.softmax(1).max(1)
            self._losses[name].append((float(losses.double().sum()), len(losses)))
            columns.append(list(zip(target.tolist(), predicted.tolist(), confidence.tolist())))
        for index in keep.nonzero().flatten().tolist():
            self._records.append((batch["keys"][index], [column[index] for column in columns]))

    def compute(self) -> dict[str, float]:
        """Returns the metrics of every target and ``loss``, the mean loss summed over targets; collective.

        The loss of a value is its squared error on [-1, 1]: CCC belongs to the whole set, and is a metric of its own.
        """
        result: dict[str, float] = {}
        total = 0.0
        for name, metrics in self.by_target.items():
            parts = [pair for rank in collectives.gather_objects(self._losses[name]) for pair in rank]
            mean = sum(part[0] for part in parts) / max(1, sum(part[1] for part in parts))
            total += mean
            result[f"{name}/loss"] = mean
            result |= {f"{name}/{metric}": value for metric, value in metrics.compute().items()}
        return {"loss": total, **result}

    def records(self) -> dict[str, Any]:
        """Returns every sample's outcome in columns, sorted by key; -1 or None stands for no label; collective.

        ``{"keys": [...], TARGET: {"target": [...], "prediction": [...], "confidence": [...]}}``: class indices, values,
        or (label sets) the indices of the classes that are there.
        """
        rows = sorted(
            (row for rank in collectives.gather_objects(self._records) for row in rank), key=lambda row: row[0]
        )
        table: dict[str, Any] = {"keys": [key for key, _ in rows]}
        for position, (name, field) in enumerate(self.fields.items()):
            cells = [outcomes[position] for _, outcomes in rows]
            table[name] = {
                "target": [_recorded(cell[0], kind=field.kind) for cell in cells],
                "prediction": [_recorded(cell[1], kind=field.kind) for cell in cells],
                "confidence": [round(cell[2], 4) for cell in cells],
            }
        return table

    def report(self) -> dict[str, Any]:
        """Returns what an evaluation keeps, by target: ``targets``, ``blind`` and ``predictions``; collective."""
        return {
            "targets": {name: summarise(metrics) for name, metrics in self.by_target.items()},
            "blind": {name: blind_score(metrics) for name, metrics in self.by_target.items()},
            "predictions": self.records(),
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


def blind_score(metrics: ClassificationMetrics | MultilabelMetrics | ValueMetrics) -> dict[str, Any]:
    """Returns a target's main metric and what it is without a look at the picture: ``{metric, chance, majority}``.

    ``majority`` always names the scored split's own most frequent class (no training split can know a better one).
    Of label sets both are the mean mAP of 20 shuffles of the predictions: that of few samples is above the prevalence.
    """
    if isinstance(metrics, ValueMetrics):
        return {"metric": "ccc", "chance": 0.0, "majority": 0.0}
    if isinstance(metrics, MultilabelMetrics):
        from torchmetrics.functional.classification import multilabel_average_precision

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


def _recorded(value: Any, *, kind: str) -> Any:
    """Returns the form of one outcome that JSON can hold: NaN is None, a multi-hot row its indices."""
    if kind == "value":
        return None if value != value else round(value, 4)
    if kind == "multilabel":
        return None if value[0] != value[0] else [index for index, there in enumerate(value) if there]
    return value


def scale_value(values: Tensor, *, field: LabelField) -> Tensor:
    """Returns the raters' scale [low, high] mapped to [-1, 1]; as it is where the field states no scale."""
    if field.low is None or field.high is None:
        return values
    return 2 * (values - field.low) / (field.high - field.low) - 1


def unscale_value(values: Tensor, *, field: LabelField) -> Tensor:
    """Returns the inverse of ``scale_value``."""
    if field.low is None or field.high is None:
        return values
    return field.low + (values + 1) / 2 * (field.high - field.low)


def hard_targets(rows: Tensor) -> Tensor:
    """Returns (B,) class indices of soft targets (B, C): the largest mass; -1 where there is none or it is shared."""
    top = rows.max(1, keepdim=True).values
    unique = ((rows == top).sum(1) == 1) & (top[:, 0] > 0)
    return torch.where(unique, rows.argmax(1), -1)
