"""Bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics

RESAMPLES = 1000


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
