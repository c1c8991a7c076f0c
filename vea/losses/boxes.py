"""Losses of detection: boxes by generalised overlap, scores by quality focal loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def overlaps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (IoU, generalised IoU), each (N,), of boxes (N, 4) as x0, y0, x1, y1, pair by pair.

    Generalised IoU (Rezatofighi et al., 2019): IoU minus the share of the enclosing box that neither fills; -1 to 1.
    """
    shared = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(min=0)
    whole = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).clamp(min=0)
    common, hull = shared.prod(1), whole.prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - common
    iou = common / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def quality_focal(logits: Tensor, quality: Tensor, weight: Tensor) -> Tensor:
    """Returns the sum over cells of weight * |quality - p|^2 * BCE (Li et al., 2020, beta 2); all of one shape.

    ``quality`` is 0 where nothing is, else the overlap that the predicted box has with the true one.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (weight * (quality - logits.sigmoid()).square() * entropy).sum()
