"""Temperature and reliability."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vea.errors import VeaError


def fit_temperature(probabilities: Tensor, targets: Tensor) -> float | None:
    """Returns the T of ``softmax(log p / T)`` with the least negative log-likelihood (Guo et al. 2017).

    None where there is no such T between 1/20 and 20: predictions near chance are best when flat, and flatter still.
    """
    logits = probabilities.double().clamp(min=1e-12).log()
    log_t = torch.zeros((), dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_t.exp(), targets)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    temperature = float(log_t.detach().exp())
    return temperature if 0.05 < temperature < 20 else None


def sharpen(probabilities: Tensor, *, temperature: float) -> Tensor:
    """Returns the probabilities at another temperature."""
    return (probabilities.clamp(min=1e-12).log() / temperature).softmax(1)


def reliability(probabilities: Tensor, targets: Tensor, *, bins: int = 15) -> list[dict[str, float]]:
    """Returns {confidence, accuracy, samples} of each bin of confidence that has samples."""
    confidence, predicted = probabilities.max(1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    rows = [(place == index).nonzero().flatten() for index in range(bins)]
    found = []
    for row in rows:
        if len(row):
            right = (predicted[row] == targets[row]).float().mean()
            found.append({"confidence": float(confidence[row].mean()), "accuracy": float(right), "samples": len(row)})
    return found


def calibration_scores(confidence: Any, correct: Any, bins: int = 10) -> dict[str, float]:
    """Returns how far stated confidence can be trusted.

    Args:
        confidence: (N,), 0 to 1.
        correct: (N,), whether each answer was right.
        bins: equal bins ``[low, high)``; the last is closed, so that a confidence of 1 counts (EmoCaliber's own
            scorer drops it).

    Returns:
        ``ece``, the expected calibration error; ``brier``, the mean squared error; ``auroc``, the chance that a right
        answer has more confidence than a wrong one, ties half (NaN where all are right or all are wrong). All NaN
        without answers.

    Raises:
        VeaError: the lengths differ, or a confidence is outside 0 to 1.
    """
    c, right = np.asarray(confidence, float).ravel(), np.asarray(correct, float).ravel()
    if c.shape != right.shape:
        raise VeaError(f"{len(c)} confidences and {len(right)} answers; there must be one for each")
    if bins < 1:
        raise VeaError(f"bins is {bins}; it must be at least 1")
    if len(c) == 0:
        return {"ece": float("nan"), "brier": float("nan"), "auroc": float("nan")}
    if not np.isfinite(right).all():
        raise VeaError("whether an answer was right is not a number")
    if not ((c >= 0) & (c <= 1)).all():
        raise VeaError("a confidence is outside 0 to 1; divide percentages by 100")
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, c, side="right") - 1, 0, bins - 1)
    gaps = np.bincount(place, right - c, bins)
    positive, negative = right > 0.5, right <= 0.5
    auroc = float("nan")
    if positive.any() and negative.any():
        from scipy.stats import rankdata

        above = rankdata(c)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
        auroc = float(above / (positive.sum() * negative.sum()))
    return {"ece": float(np.abs(gaps).sum() / len(c)), "brier": float(((c - right) ** 2).mean()), "auroc": auroc}
