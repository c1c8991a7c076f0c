"""Passes over an evaluation set with the predictions kept, and temperatures fitted on validation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vea.distributed import collectives
from vea.distributed.runtime import Runtime
from vea.losses.classification import soft_targets
from vea.metrics import ClassificationMetrics
from vea.metrics.calibration import fit_temperature, reliability, sharpen
from vea.metrics.codes import information, neighbours, perplexity
from vea.metrics.corruptions import corrupt_batch
from vea.models.heads import BankedHeads
from vea.tasks.base import Batch, Metrics, Task
from vea.tasks.recognise import RecogniseTask
from vea.tasks.recognise_metrics import RecogniseMetrics
from vea.training.steps import to_device

M = TypeVar("M", bound=Metrics)


@torch.inference_mode()
def collect(
    task: Task,
    batches: Iterable[Batch],
    runtime: Runtime,
    metrics: M,
    *,
    flip: bool = False,
    worse: tuple[str, int] | None = None,
) -> M:
    """Returns the filled collector: ``vea.training.engine.evaluate`` with the predictions kept.

    Args:
        task: the model.
        batches: of ``eval_loader``.
        runtime: device and ranks.
        metrics: of the task, empty.
        flip: average the logits with those of the mirrored image (test-time augmentation).
        worse: (kind, strength) of a corruption of the images.
    """
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


@torch.inference_mode()
def bank_use(task: RecogniseTask, batches: Iterable[Batch], runtime: Runtime) -> dict[str, float]:
    """Returns how a recogniser's bank is used: ``perplexity``, ``information/TARGET`` of its classes in bits, and
    ``neighbours/TARGET`` of its votes; collective."""
    heads = task.heads
    assert isinstance(heads, BankedHeads)
    seen: list[tuple[Tensor, dict[str, Tensor]]] = []
    for batch in batches:
        keep = batch["valid"].bool()
        with runtime.autocast():
            found = task.features(task.normalise(batch["image"].to(runtime.device)))
        codes = heads.bank(found, step=None).codes.cpu()
        labels = {name: soft_targets(batch["labels"][name], field=field) for name, field in task.fields.items()
                  if field.kind in ("class", "distribution")}  # fmt: skip
        seen.append((codes[keep], {name: rows[keep] for name, rows in labels.items()}))
    parts = [part for rank in collectives.gather_objects(seen) for part in rank]
    codes = torch.cat([codes for codes, _ in parts])
    told = {"perplexity": float(perplexity(codes, count=len(heads.bank.codes)))}
    for name in parts[0][1]:
        rows = torch.cat([labels[name] for _, labels in parts])
        known = rows.sum(1) > 0
        if task.fields[name].kind == "class":
            told[f"information/{name}"] = information(codes[known], rows[known].argmax(1))
        else:
            told[f"neighbours/{name}"] = neighbours(heads.affinities(name).cpu(), rows[known])
    return told


def calibrate(scored: RecogniseMetrics, val: RecogniseMetrics) -> dict[str, Any]:
    """Returns {target: temperature fitted on val, the metrics at it, reliability before and after} of class targets."""
    result = {}
    for name, metrics in scored.by_target.items():
        if scored.fields[name].kind not in ("class", "distribution"):
            continue
        temperature = fit_temperature(*val.by_target[name].gather())  # type: ignore[arg-type, misc]
        if temperature is None:
            print(f"{name}: no temperature calibrates it (its predictions are near chance); left as trained")
            continue
        probabilities, targets = metrics.gather()
        after = sharpen(probabilities, temperature=temperature)
        cooled = ClassificationMetrics(metrics.classes)  # type: ignore[union-attr]
        cooled.update(after, targets)
        before, now = metrics.compute(), cooled.compute()
        result[name] = {
            "temperature": temperature,
            "ece": [before["ece"], now["ece"]],
            "nll": [before["nll"], now["nll"]],
            "reliability": [reliability(probabilities, targets), reliability(after, targets)],
        }
    return result


def plot_reliability(calibration: dict[str, Any], *, path: Path) -> None:
    """Writes a picture: accuracy over confidence of each class target, as trained and at the fitted temperature."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(calibration), 4), layout="constrained")
    for axis, (name, result) in zip(figure.subplots(1, len(calibration), squeeze=False)[0], calibration.items()):
        axis.plot([0, 1], [0, 1], color="0.7", label="honest")
        for rows, label, ece in zip(
            result["reliability"], ("as trained", f"T={result['temperature']:.2f}"), result["ece"]
        ):
            axis.plot(
                [r["confidence"] for r in rows], [r["accuracy"] for r in rows], "o-", label=f"{label}, ECE {ece:.3f}"
            )
        axis.set(title=name, xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
