"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics

RESAMPLES = 1000
TINY = 30  # up to so many samples shares have exact intervals


def _interval(statistics: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(statistics, [tail, 100 - tail], axis=0)
    return low, high


def exact_interval(right: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Returns the exact interval of a share, ``right`` of ``total`` (Clopper and Pearson 1934).

    Resampling fails where it is needed most: of three samples, all right, every draw is all right.
    """
    if total == 0:
        return float("nan"), float("nan")
    from scipy.stats import beta  # takes a second to import

    tail = (1 - level) / 2
    low = float(beta.ppf(tail, right, total - right + 1)) if right else 0.0
    high = float(beta.ppf(1 - tail, right + 1, total - right)) if right < total else 1.0
    return low, high


def exact_mean_interval(
    right: np.ndarray, total: np.ndarray, *, level: float = 0.95, of: Callable[[float], float] = float
) -> tuple[float, float]:
    """Returns an interval of the mean over classes of ``of`` (rising) of a share; it holds with at least ``level``.

    Each class with samples has its exact interval at 1 - (1 - level) / K, so that all K hold at once (Bonferroni), and
    with them the mean. NaN without a class.

    Args:
        right: (C,) counts.
        total: (C,) counts; classes with 0 are left out.
        level: 0.95 for a 95 % interval.
        of: what is averaged of each share; it must rise with the share.
    """
    known = np.flatnonzero(total)
    if len(known) == 0:
        return float("nan"), float("nan")
    each = 1 - (1 - level) / len(known)
    bounds = [exact_interval(int(right[c]), int(total[c]), level=each) for c in known]
    return float(np.mean([of(low) for low, _ in bounds])), float(np.mean([of(high) for _, high in bounds]))


def needs_exact(right: int, total: int) -> bool:
    """Returns whether a share is of so few samples, or so extreme, that its interval must be exact."""
    return total <= TINY or right in (0, total)


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.mean(1)


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = _mean,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of ``statistic`` over resampled ``values`` (Efron 1979).

    The mean of right and wrong (1 and 0) has the exact one where samples are few or all alike (``exact_interval``).
    NaN without values, of one alone, and where one is not a number.

    Args:
        values: (N, ...), one row per sample.
        statistic: vectorised: (R, N, ...) resampled values -> (R,). The mean by default.
        seed: the same seed gives the same interval.
        resamples: how often N samples are drawn with replacement.
        level: 0.95 for a 95 % interval.
    """
    values = np.asarray(values)
    if len(values) == 0 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    if statistic is _mean and values.ndim == 1 and ((values == 0) | (values == 1)).all():
        right = int(values.sum())
        if needs_exact(right, len(values)):
            return exact_interval(right, len(values), level=level)
    if len(values) == 1:  # every resample is the same: the spread is not known, and not 0
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
