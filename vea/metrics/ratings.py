"""Graded ratings against several human raters (EmoNet-Face, arXiv 2505.20033)."""

from __future__ import annotations

from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.metrics.agreement import krippendorff_alpha, quadratic_kappa


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the rank correlation of two (N,) arrays, NaN left out; NaN with fewer than two pairs or a constant."""
    from scipy.stats import rankdata

    a, b = np.asarray(first, float), np.asarray(second, float)
    known = ~(np.isnan(a) | np.isnan(b))
    if known.sum() < 2:
        return float("nan")
    x, y = rankdata(a[known]), rankdata(b[known])
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _mean(values: list[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _against_median(model: np.ndarray, humans: np.ndarray) -> float:
    rated = ~np.isnan(humans).all(0)
    if rated.sum() < 2:
        return float("nan")
    median, given = np.nanmedian(humans[:, rated], axis=0), model[rated]
    known = ~np.isnan(given)
    # Humans who always say the same ask nothing: left out. A model that always says the same, or nothing, knows
    # nothing: 0.
    if np.ptp(median) == 0:
        return float("nan")
    if known.sum() < 2 or np.ptp(given[known]) == 0:
        return 0.0
    return spearman(given[known], median[known])


def _kappa(model: np.ndarray, humans: np.ndarray) -> float:
    """Returns the mean over humans of the quadratic kappa with each; humans with fewer than two pairs are left out."""
    pairs = [(~np.isnan(model) & ~np.isnan(human)).sum() for human in humans]
    return _mean([quadratic_kappa(model, human) for human, count in zip(humans, pairs) if count >= 2])


def rating_scores(scores: Any, humans: Any) -> dict[str, Any]:
    """Returns how a model's ratings agree with human ones.

    Args:
        scores: (N, E), the model's rating of N pictures for E emotions; NaN where it gave none.
        humans: (R, N, E) of R raters, NaN where one did not rate.

    Returns:
        ``per_emotion``: Spearman against the median of the humans, one value an emotion; a model that gives a
        constant or fewer than two ratings counts 0, humans who give a constant NaN; ``spearman``: its mean;
        ``answered``: the share of ratings that the model gave; ``kappa``: quadratic kappa of the ratings cut to 0..7
        by ``int()``, mean over humans, then over emotions; ``alpha``: Krippendorff's interval alpha of the humans, one
        value an emotion. Values that are undefined are NaN and left out of means.

    Raises:
        VeaError: the shapes do not belong together.
    """
    model, people = np.asarray(scores, float), np.asarray(humans, float)
    if model.ndim != 2 or people.ndim != 3 or people.shape[1:] != model.shape:
        raise VeaError(
            f"scores {model.shape} and humans {people.shape} do not fit; scores are (pictures, emotions), humans "
            "(raters, pictures, emotions)"
        )
    emotions = range(model.shape[1])
    per_emotion = [_against_median(model[:, e], people[:, :, e]) for e in emotions]
    return {
        "spearman": _mean(per_emotion),
        "per_emotion": per_emotion,
        "answered": float((~np.isnan(model)).mean()) if model.size else float("nan"),
        "kappa": _mean([_kappa(model[:, e], people[:, :, e]) for e in emotions]),
        "alpha": [krippendorff_alpha(people[:, :, e]) for e in emotions],
    }


def human_scores(humans: Any) -> dict[str, Any]:
    """Returns the same scores for the people: each rater against the median of the others, mean over raters."""
    people = np.asarray(humans, float)
    each = [rating_scores(people[r], np.delete(people, r, axis=0)) for r in range(len(people)) if len(people) > 1]
    columns = [_mean([row["per_emotion"][e] for row in each]) for e in range(people.shape[2])]
    return {
        "spearman": _mean(columns),
        "per_emotion": columns,
        "kappa": _mean([row["kappa"] for row in each]),
        "alpha": [krippendorff_alpha(people[:, :, e]) for e in range(people.shape[2])],
    }
