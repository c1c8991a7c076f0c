"""Classification metrics gathered over ranks, with bootstrap intervals that say how far a number can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multilabel_average_precision,
    multilabel_f1_score,
)

from vea import runtime
from vea.caption_metrics import caption_scores as caption_scores  # one place to find metrics
from vea.errors import VeaError

RESAMPLES = 1000


# ------------------------------------------------------------------------------------------- formulas on a confusion

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


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Returns the mean F1 over the classes that occur in the truth or in the predictions."""
    found = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    return _nanmean(_divide(2 * found, confusion.sum(-1) + confusion.sum(-2)))


# ------------------------------------------------------------------------------------------------------------ bootstrap


def _interval(statistics: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(statistics, [tail, 100 - tail], axis=0)
    return low, high


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda rows: rows.mean(1),
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of ``statistic`` over resampled ``values`` (Efron 1979).

    Args:
        values: (N, ...), one row per sample.
        statistic: vectorised: (R, N, ...) resampled values -> (R,). The mean by default.
        seed: the same seed gives the same interval.
        resamples: how often N samples are drawn with replacement.
        level: 0.95 for a 95 % interval.
    """
    values = np.asarray(values)
    if len(values) == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    block = max(1, 8_000_000 // max(1, values.size))  # rows of resamples at once: at most 64 MB
    drawn = [
        statistic(values[rng.integers(len(values), size=(min(block, resamples - start), len(values)))])
        for start in range(0, resamples, block)
    ]
    low, high = _interval(np.concatenate(drawn), level)
    return float(low), float(high)


def bootstrap_confusions(confusion: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Returns (resamples, C, C) confusion matrices of N samples drawn with replacement.

    Drawing samples and counting them into cells is a multinomial draw over the cells: exact, and without the samples.
    """
    total = int(confusion.sum())
    if total == 0:
        return np.zeros((resamples, *confusion.shape))
    shares = confusion.ravel() / total
    return np.random.default_rng(seed).multinomial(total, shares, size=resamples).reshape(resamples, *confusion.shape)


# ------------------------------------------------------------------------------------------------------------ collector


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
            parts = runtime.gather_objects(mine)
            self._gathered = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        return self._gathered

    def confusion(self) -> np.ndarray:
        """Returns (C, C) counts, rows = truth, columns = prediction; collective."""
        probabilities, targets = self.gather()
        if len(targets) == 0:
            return np.zeros((len(self.classes),) * 2, dtype=np.int64)
        return multiclass_confusion_matrix(probabilities.argmax(1), targets, num_classes=len(self.classes)).numpy()

    def compute(self) -> dict[str, float]:
        """Returns accuracy, accuracy_top3 (from four classes on), balanced_accuracy, macro_f1, nll, ece, recall/CLASS.

        ``ece`` is the expected calibration error over 15 bins (Guo et al. 2017). A class without samples has no recall
        entry. Collective: every rank gets the same numbers.

        Raises:
            VeaError: no sample with a label was seen.
        """
        probabilities, targets = self.gather()
        if len(targets) == 0:
            raise VeaError(f"no sample has a label among {', '.join(self.classes)}; choose another split or target")
        confusion = self.confusion()
        result = {"accuracy": float(accuracy(confusion))}
        count = len(self.classes)
        if count >= 4:
            result["accuracy_top3"] = float(
                multiclass_accuracy(probabilities, targets, num_classes=count, top_k=3, average="micro")
            )
        result["balanced_accuracy"] = float(balanced_accuracy(confusion))
        result["macro_f1"] = float(macro_f1(confusion))
        chosen = probabilities.gather(1, targets[:, None]).clamp(min=torch.finfo(torch.float32).tiny)
        result["nll"] = float(-chosen.log().mean())
        result["ece"] = float(multiclass_calibration_error(probabilities, targets, num_classes=count, n_bins=15))
        for name, value in zip(self.classes, recall(confusion)):
            if not np.isnan(value):
                result[f"recall/{name}"] = float(value)
        return result

    def intervals(self, *, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Returns bootstrap intervals of accuracy, balanced_accuracy, macro_f1 and recall/CLASS; collective."""
        resampled = bootstrap_confusions(self.confusion(), seed=seed)
        result = {}
        for name, formula in (("accuracy", accuracy), ("balanced_accuracy", balanced_accuracy), ("macro_f1", macro_f1)):
            low, high = _interval(formula(resampled), level)
            result[name] = (float(low), float(high))
        recalls = recall(resampled)
        for column, name in enumerate(self.classes):
            if not np.isnan(recalls[:, column]).all():
                low, high = _interval(recalls[:, column], level)
                result[f"recall/{name}"] = (float(low), float(high))
        return result


class MultilabelMetrics(ClassificationMetrics):
    """Collects label sets: scores (B, C) in [0, 1] and multi-hot targets (B, C), rows of NaN without a label."""

    def update(self, scores: Tensor, target: Tensor, *, valid: Tensor | None = None) -> None:
        """Adds a batch."""
        keep = ~target.isnan().any(1)
        keep = keep if valid is None else keep & valid
        self._probabilities.append(scores.detach()[keep].float().cpu())
        self._targets.append(target.detach()[keep].long().cpu())
        self._gathered = None

    def gather(self) -> tuple[Tensor, Tensor]:
        """Returns (N, C) scores and (N, C) targets of all ranks; collective."""
        if self._gathered is None:
            empty = torch.zeros(0, len(self.classes))
            parts = runtime.gather_objects(
                (torch.cat([empty, *self._probabilities]), torch.cat([empty.long(), *self._targets]))
            )
            self._gathered = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        return self._gathered

    def compute(self) -> dict[str, float]:
        """Returns mAP over the classes that occur, macro_f1 at 0.5 over them, and ap/CLASS; collective."""
        scores, targets = self.gather()
        if len(targets) == 0:
            raise VeaError(f"no sample has a label among {', '.join(self.classes)}; choose another split or target")
        found = targets.any(0)
        each = multilabel_average_precision(scores, targets, num_labels=len(self.classes), average="none")
        f1 = multilabel_f1_score(scores, targets, num_labels=len(self.classes), average="none")
        result = {"mAP": float(each[found].mean()), "macro_f1": float(f1[found].mean())}
        return result | {f"ap/{name}": float(each[i]) for i, name in enumerate(self.classes) if found[i]}


class ValueMetrics:
    """Collects predicted and rated values of one dimension; NaN stands for no rating."""

    def __init__(self) -> None:
        self._pairs: list[Tensor] = []

    def update(self, prediction: Tensor, target: Tensor, *, valid: Tensor | None = None) -> None:
        """Adds a batch of (B,) predictions and ratings."""
        keep = ~target.isnan()
        keep = keep if valid is None else keep & valid
        self._pairs.append(torch.stack([prediction, target], 1).detach().double().cpu()[keep])

    def gather(self) -> np.ndarray:
        """Returns (N, 2) predictions and ratings of all ranks; collective."""
        mine = torch.cat([torch.zeros(0, 2, dtype=torch.float64), *self._pairs])
        return torch.cat(runtime.gather_objects(mine)).numpy()

    def compute(self) -> dict[str, float]:
        """Returns ccc (Lin 1989), pearson and rmse; collective."""
        pairs = self.gather()
        if len(pairs) == 0:
            raise VeaError("no sample has a rating; choose another split or target")
        return {name: float(formula(pairs[None])[0]) for name, formula in VALUE_STATISTICS.items()}

    def intervals(self, *, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Returns bootstrap intervals of the same; collective."""
        pairs = self.gather()
        return {name: bootstrap_interval(pairs, f, seed=seed, level=level) for name, f in VALUE_STATISTICS.items()}


def concordance(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) concordance correlation coefficients of (R, N, 2) pairs; 0 where nothing varies."""
    (x, y), means = np.moveaxis(pairs, -1, 0), pairs.mean(1)
    covariance = (x * y).mean(1) - means[:, 0] * means[:, 1]
    spread = x.var(1) + y.var(1) + (means[:, 0] - means[:, 1]) ** 2
    return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12)


def pearson(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) correlations of (R, N, 2) pairs; 0 where one side does not vary."""
    (x, y), means = np.moveaxis(pairs, -1, 0), pairs.mean(1)
    covariance, scale = (x * y).mean(1) - means[:, 0] * means[:, 1], x.std(1) * y.std(1)
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def rmse(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) root mean squared differences of (R, N, 2) pairs, in units of the ratings."""
    return np.sqrt(((pairs[..., 0] - pairs[..., 1]) ** 2).mean(1))


VALUE_STATISTICS = {"ccc": concordance, "pearson": pearson, "rmse": rmse}


# ------------------------------------------------------------------------------------------------------------ retrieval


def retrieval_recall(image: Tensor, text: Tensor, owner: Tensor) -> dict[str, float]:
    """Returns recall at 1 and 5, both directions.

    Args:
        image: (N, D), rows of unit length.
        text: (M, D), rows of unit length.
        owner: int (M,), the row of ``image`` that each text belongs to.
    """
    similarity = image @ text.T  # (N, M)
    own = owner[None, :] == torch.arange(len(image))[:, None]
    figures = {}
    for k in (1, 5):
        found = own.gather(1, similarity.topk(k, dim=1).indices).any(1)
        figures[f"image_to_text_r{k}"] = round(float(found.float().mean()), 4)
        found = (similarity.topk(k, dim=0).indices == owner[None, :]).any(0)
        figures[f"text_to_image_r{k}"] = round(float(found.float().mean()), 4)
    return figures
