"""Classification metrics over all ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vea.distributed import collectives
from vea.errors import VeaError
from vea.metrics.bootstrap import _interval, bootstrap_confusions, exact_interval, exact_mean_interval, needs_exact
from vea.metrics.calibration import reliability
from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics


# Each takes (..., C, C) counts, rows = truth, columns = prediction, so that one call serves 1,000 resamples.
def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Returns the quotient with NaN, and no warning, where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), np.nan), where=denominator > 0)


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0.0).sum(-1), known.sum(-1))


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of right predictions."""
    return _divide(np.trace(confusion, axis1=-2, axis2=-1).astype(float), confusion.sum((-2, -1)))


def recall(confusion: np.ndarray) -> np.ndarray:
    """Returns (..., C): the share of each class that was found; NaN for a class without samples."""
    return _divide(np.diagonal(confusion, axis1=-2, axis2=-1).astype(float), confusion.sum(-1))


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns the mean recall over the classes that have samples."""
    return _nanmean(recall(confusion))


def _f1_of_jaccard(share: float) -> float:
    return 2 * share / (1 + share)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur in the truth or in the predictions."""
    found = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    return _nanmean(_divide(2 * found, confusion.sum(-1) + confusion.sum(-2)))


def refuse_broken(predictions: Tensor) -> None:
    """Raises VeaError where a row of predictions (N, ...) is not a number: as an argmax it would be the first class."""
    broken = int((~predictions.isfinite()).reshape(len(predictions), -1).any(1).sum()) if len(predictions) else 0
    if broken:
        raise VeaError(f"{broken} of {len(predictions)} predictions are not a number; nothing is scored")


class ClassificationMetrics:
    """Collects class probabilities and targets of one target over batches and ranks."""

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)
        self._probabilities: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._gathered: tuple[Tensor, Tensor] | None = None

    def update(self, scores: Tensor, target: Tensor, *, valid: Tensor | None = None) -> None:
        """Adds a batch; rows that are padding (``valid`` False) or have no label (-1) are left out.

        Args:
            scores: (B, C) logits, or probabilities if every row is non-negative and sums to 1.
            target: (B,) class indices.
            valid: (B,) bool.
        """
        if scores.shape[1] != len(self.classes):
            raise ValueError(f"{scores.shape[1]} scores for {len(self.classes)} classes")
        keep = target >= 0 if valid is None else (target >= 0) & valid
        scores = scores.detach()[keep].float()
        is_probability = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), scores.new_ones(()), atol=1e-4)
        self._probabilities.append((scores if is_probability else scores.softmax(1)).cpu())
        self._targets.append(target.detach()[keep].cpu())
        self._gathered = None

    def gather(self) -> tuple[Tensor, Tensor]:
        """Returns (N, C) probabilities and (N,) targets of all ranks, in rank order; collective."""
        if self._gathered is None:
            empty = torch.zeros(0, len(self.classes))
            none = torch.zeros(0, dtype=torch.long)
            mine = torch.cat([empty, *self._probabilities]), torch.cat([none, *self._targets])
            parts = collectives.gather_objects(mine)
            self._gathered = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
            refuse_broken(self._gathered[0])
        return self._gathered

    def confusion(self) -> np.ndarray:
        """Returns (C, C) counts, rows = truth, columns = prediction; collective."""
        probabilities, targets = self.gather()
        count = len(self.classes)
        cells = (targets * count + probabilities.argmax(1)).numpy()
        return np.bincount(cells, minlength=count**2).reshape(count, count)

    def compute(self) -> dict[str, float]:
        """Returns accuracy, accuracy_top3 (from four classes on), balanced_accuracy, macro_f1, nll, ece, recall/CLASS.

        ``ece`` is the expected calibration error over 15 bins (Guo et al. 2017). A class without samples has no recall
        entry. Collective: every rank gets the same numbers.

        Raises:
            VeaError: no sample with a label was seen, or a prediction is not a number.
        """
        probabilities, targets = self.gather()
        if len(targets) == 0:
            raise VeaError(f"no sample has a label among {', '.join(self.classes)}; choose another split or target")
        confusion = self.confusion()
        result = {"accuracy": float(accuracy(confusion))}
        if len(self.classes) >= 4:
            result["accuracy_top3"] = float((probabilities.topk(3).indices == targets[:, None]).any(1).float().mean())
        result["balanced_accuracy"] = float(balanced_accuracy(confusion))
        result["macro_f1"] = float(macro_f1(confusion))
        chosen = probabilities.gather(1, targets[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
        result["nll"] = float(-chosen.log().mean())
        bins = reliability(probabilities, targets, bins=15)
        result["ece"] = sum(row["samples"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(targets)
        for name, value in zip(self.classes, recall(confusion)):
            if not np.isnan(value):
                result[f"recall/{name}"] = float(value)
        return result

    def intervals(self, *, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Returns bootstrap intervals of accuracy, balanced_accuracy, macro_f1 and recall/CLASS; collective.

        Where samples are few or all alike, those of accuracy and recall are exact and the two means have cautious ones:
        exact for each class and for all classes at once (Bonferroni). F1 = 2J / (1 + J) of the share J of right ones
        among the samples that belong to a class or were taken for it.
        """
        confusion = self.confusion()
        resampled = bootstrap_confusions(confusion, seed=seed)
        result = {}
        for name, formula in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy), ("macro_f1", macro_f1)):
            low, high = _interval(formula(resampled), level)
            result[name] = (float(low), float(high))
        recalls = recall(resampled)
        for column, name in enumerate(self.classes):
            if not np.isnan(recalls[:, column]).all():
                low, high = _interval(recalls[:, column], level)
                result[f"recall/{name}"] = (float(low), float(high))
        shares = {"accuracy": (np.trace(confusion), confusion.sum())}
        shares |= {f"recall/{name}": (confusion[i, i], confusion[i].sum()) for i, name in enumerate(self.classes)}
        if needs_exact(int(np.trace(confusion)), int(confusion.sum())):
            found, truth = np.diagonal(confusion), confusion.sum(1)
            result["balanced_accuracy"] = exact_mean_interval(found, truth, level=level)
            either = truth + confusion.sum(0) - found
            result["macro_f1"] = exact_mean_interval(found, either, level=level, of=_f1_of_jaccard)
        for name, (right, total) in shares.items():
            if total and needs_exact(int(right), int(total)):
                result[name] = exact_interval(int(right), int(total), level=level)
        return result
