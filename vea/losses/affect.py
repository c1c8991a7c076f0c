"""Losses of dimensions and of label sets, and what helps rare classes; a missing label never adds anything."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor


def concordance(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns the concordance correlation coefficient (Lin 1989) of two (N,) tensors; population variances."""
    covariance = ((prediction - prediction.mean()) * (target - target.mean())).mean()
    spread = prediction.var(correction=0) + target.var(correction=0) + (prediction.mean() - target.mean()) ** 2
    return 2 * covariance / spread.clamp(min=1e-8)


def ccc_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Returns ``1 - CCC + MSE`` of (B,) values where the target is not NaN; fp32 scalar, 0 without labels.

    CCC is a statistic of all samples: give those of the global batch. The squared error keeps a batch with fewer than
    two labels of use.
    """
    known = ~target.isnan()
    prediction, target = prediction.float()[known], target.float()[known]
    if len(target) == 0:
        return prediction.sum()
    error = F.mse_loss(prediction, target)
    return error + 1 - concordance(prediction, target) if len(target) > 1 else error


def multilabel_loss(logits: Tensor, target: Tensor, *, asymmetric: bool = False) -> Tensor:
    """Returns binary cross-entropy of (B, C) logits, or timm's asymmetric loss (Ridnik et al. 2021), over B * C.

    Rows of NaN have no label. The divisor is the batch, as in ``soft_cross_entropy``.
    """
    known = ~target.isnan().any(1)
    rows, wanted = logits.float()[known], target.float()[known]
    if asymmetric:
        total = AsymmetricLossMultiLabel()(rows, wanted) if len(rows) else rows.sum()
    else:
        total = F.binary_cross_entropy_with_logits(rows, wanted, reduction="sum")
    return total / logits.numel()


def class_weights(counts: Tensor, *, method: str) -> Tensor:
    """Returns (C,) weights from (C,) class counts whose mean over the samples is 1; a class never seen weighs 0.

    ``balanced`` weighs by 1 / count: in expectation the loss of sampling every class equally often. ``sqrt`` is its
    square root, ``effective`` divides by the effective number of samples (Cui et al. 2019, beta 0.999).
    """
    counts = counts.double()
    amount = {"balanced": counts, "sqrt": counts.sqrt(), "effective": 1 - 0.999**counts}[method]
    weights = torch.where(counts > 0, 1 / amount.clamp(min=1e-12), 0.0)
    return (weights * counts.sum() / (weights * counts).sum().clamp(min=1e-12)).float()
