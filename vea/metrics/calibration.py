"""Temperature and reliability."""

from __future__ import annotations

import torch
from torch import Tensor


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
