"""Reconstruction of removed patches: L3 of UniEmoX, the loss of MAE (arXiv 2111.06377)."""

from __future__ import annotations

from torch import Tensor

EPSILON = 1e-6  # added to a patch's variance, as in MAE


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (mean, deviation) over the pixels of each patch, (..., 1) each; ``patches`` is (..., P)."""
    mean = patches.mean(-1, keepdim=True)
    return mean, (patches.var(-1, keepdim=True) + EPSILON).sqrt()


def reconstruction(prediction: Tensor, target: Tensor, *, norm_pix: bool = False) -> Tensor:
    """Returns (B,) fp32: the mean squared error of each sample's removed patches; ``.mean()`` is L3.

    Args:
        prediction: (B, M, P) predicted pixels of the M removed patches.
        target: (B, M, P) their pixels, normalised as the encoder sees them.
        norm_pix: compare with each patch normalised by its own mean and deviation instead.
    """
    prediction, target = prediction.float(), target.float()
    if norm_pix:
        mean, deviation = patch_statistics(target)
        target = (target - mean) / deviation
    return (prediction - target).square().mean((-2, -1))
