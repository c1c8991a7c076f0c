"""Features that do not tell what they should not: the gradient of a head turned round (DANN, arXiv 1505.07818)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, factor: float) -> Tensor:  # type: ignore[override]
        ctx.factor = factor
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradients[0], None


def reverse_gradient(features: Tensor, factor: float) -> Tensor:
    """Returns ``features`` (B, D) unchanged; the gradient that comes back through it is multiplied by ``-factor``.

    FMAE-IAT (arXiv 2407.11243) puts the head of the persons behind it, with a factor of 2: the head learns who is
    shown, and the encoder unlearns it.
    """
    return _Reversal.apply(features, factor)
