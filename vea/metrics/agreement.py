"""Agreement of raters, and one answer from several raters or judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from vea.errors import VeaError, did_you_mean

AGGREGATIONS = ("majority", "union", "intersection", "k-of-n", "soft")


def krippendorff_alpha(ratings: np.ndarray, *, level: str = "interval") -> float:
    """Returns Krippendorff's alpha of (R, N) ratings, NaN for missing; NaN where no unit can be paired or all agree.

    Args:
        ratings: (R, N), one row a rater.
        level: ``interval`` (squared differences) or ``nominal`` (equal or not).
    """
    values = np.asarray(ratings, float)
    distance = {"interval": lambda gap: gap**2, "nominal": lambda gap: (gap != 0).astype(float)}
    if level not in distance:
        raise VeaError(f"no level of measurement {level!r}{did_you_mean(level, distance)}")
    paired = values[:, (~np.isnan(values)).sum(0) >= 2]
    known = paired[~np.isnan(paired)]
    if len(known) < 2:
        return float("nan")
    levels, counts = np.unique(known, return_counts=True)
    gaps = distance[level](levels[:, None] - levels[None])
    expected = float((gaps * np.outer(counts, counts)).sum()) / (len(known) * (len(known) - 1))
    # (levels, N): how often each value was given to each unit
    table = np.stack([(paired == value).sum(0) for value in levels]).astype(float)
    within = np.einsum("an,ab,bn->n", table, gaps, table) / (table.sum(0) - 1)
    return float(1 - within.sum() / len(known) / expected) if expected > 0 else float("nan")


def fleiss_kappa(counts: np.ndarray) -> float:
    """Returns Fleiss' kappa of (N, C) vote counts; rows with fewer than two votes are left out (n may vary by row)."""
    votes = np.asarray(counts, float)
    votes = votes[votes.sum(1) >= 2]
    if len(votes) == 0:
        return float("nan")
    size = votes.sum(1)
    observed = float((((votes**2).sum(1) - size) / (size * (size - 1))).mean())
    chance = float(((votes.sum(0) / votes.sum()) ** 2).sum())
    return (observed - chance) / (1 - chance) if chance < 1 else float("nan")


def quadratic_kappa(first: np.ndarray, second: np.ndarray, *, levels: int = 8) -> float:
    """Returns Cohen's kappa with quadratic weights of two (N,) ratings cut to whole numbers by ``int()``.

    Ratings outside 0 to ``levels`` - 1 are left out, NaN too; NaN where kappa is undefined (both say one same value).
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    known = ~(np.isnan(a) | np.isnan(b))
    x, y = np.trunc(a[known]).astype(int), np.trunc(b[known]).astype(int)
    inside = (x >= 0) & (x < levels) & (y >= 0) & (y < levels)
    table = np.zeros((levels, levels))
    np.add.at(table, (x[inside], y[inside]), 1)
    if table.sum() == 0:
        return float("nan")
    weights = (np.arange(levels)[:, None] - np.arange(levels)[None]) ** 2
    expected = float((weights * np.outer(table.sum(1), table.sum(0))).sum() / table.sum())
    return 1 - float((weights * table).sum()) / expected if expected else float("nan")


def norm_reliability(means: np.ndarray, deviations: np.ndarray, raters: np.ndarray | float) -> float:
    """Returns the reliability of means of ratings, 1 - mean(sd^2 / n) / var(means): 1 is no noise at all.

    NaN where the means do not vary, one alone included.
    """
    noise = float(np.mean(np.asarray(deviations, float) ** 2 / np.asarray(raters, float)))
    spread = float(np.var(np.asarray(means, float), ddof=1)) if np.size(means) > 1 else 0.0
    return 1 - noise / spread if spread > 0 else float("nan")


def aggregate_labels(
    raters: Sequence[Iterable[str] | None], how: str = "majority", *, k: int = 1
) -> set[str] | dict[str, float]:
    """Returns the labels of one sample from the label sets of several raters or judges.

    Args:
        raters: one set of labels a rater; None is a rater who did not answer and counts nowhere.
        how: ``majority`` (more than half), ``union`` (any), ``intersection`` (all), ``k-of-n`` (at least ``k``) or
            ``soft`` (the share of raters by label).
        k: for ``k-of-n``. 1 is the union, the number of raters the intersection.

    Raises:
        VeaError: there is no such rule, or k is below 1.
    """
    if how not in AGGREGATIONS:
        raise VeaError(f"no aggregation {how!r}{did_you_mean(how, AGGREGATIONS)}")
    if how == "k-of-n" and k < 1:
        raise VeaError(f"k-of-n needs k of at least 1, not {k}")
    answers = [set(labels) for labels in raters if labels is not None]
    votes = Counter(label for labels in answers for label in labels)
    if how == "soft":
        return {label: count / len(answers) for label, count in sorted(votes.items())}
    least = {"majority": len(answers) // 2 + 1, "union": 1, "intersection": len(answers), "k-of-n": k}[how]
    return {label for label, count in votes.items() if count >= least}
