"""Metrics of values: CCC, Pearson, error."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vea.distributed import collectives
from vea.errors import VeaError
from vea.metrics.bootstrap import bootstrap_interval
from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics
from vea.metrics.classification import refuse_broken


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
        pairs = torch.cat(collectives.gather_objects(mine))
        refuse_broken(pairs)
        return pairs.numpy()

    def compute(self) -> dict[str, float]:
        """Returns ccc (Lin 1989), pearson and rmse; collective."""
        pairs = self.gather()
        if len(pairs) == 0:
            raise VeaError("no sample has a rating; choose another split or target")
        return {name: float(formula(pairs[None])[0]) for name, formula in VALUE_STATISTICS.items()}

    def intervals(self, *, seed: int = 0, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Returns bootstrap intervals of the same, none of a single sample; collective."""
        pairs = self.gather()
        if len(pairs) < 2:
            return {}
        return {name: bootstrap_interval(pairs, f, seed=seed, level=level) for name, f in VALUE_STATISTICS.items()}


def concordance(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) concordance correlation coefficients of (R, N, 2) pairs; 0 where nothing varies, NaN with NaN."""
    (x, y), means = np.moveaxis(pairs, -1, 0), pairs.mean(1)
    covariance = (x * y).mean(1) - means[:, 0] * means[:, 1]
    spread = x.var(1) + y.var(1) + (means[:, 0] - means[:, 1]) ** 2
    return np.divide(2 * covariance, spread, out=np.zeros_like(spread), where=~(spread <= 1e-12))


def pearson(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) correlations of (R, N, 2) pairs; 0 where one side does not vary, NaN with NaN."""
    (x, y), means = np.moveaxis(pairs, -1, 0), pairs.mean(1)
    covariance, scale = (x * y).mean(1) - means[:, 0] * means[:, 1], x.std(1) * y.std(1)
    return np.divide(covariance, scale, out=np.zeros_like(scale), where=~(scale <= 1e-12))


def rmse(pairs: np.ndarray) -> np.ndarray:
    """Returns (R,) root mean squared differences of (R, N, 2) pairs, in units of the ratings."""
    return np.sqrt(((pairs[..., 0] - pairs[..., 1]) ** 2).mean(1))


VALUE_STATISTICS = {"ccc": concordance, "pearson": pearson, "rmse": rmse}
