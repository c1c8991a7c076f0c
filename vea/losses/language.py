"""Losses of SEVLM (arXiv 2403.11150, section 3): next token, its VAD, and the contrast of explanations.

Position t predicts token t + 1. Pads and the prompt are in no mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def answer_loss(logits: Tensor, ids: Tensor, answer: Tensor) -> Tensor:
    """Returns the mean cross-entropy of the answer's tokens, fp32; 0 where there is none.

    Args:
        logits: (B, L, V).
        ids: int64 (B, L).
        answer: bool (B, L), the tokens to predict.
    """
    wanted = answer[:, 1:]
    costs = F.cross_entropy(logits[:, :-1][wanted].float(), ids[:, 1:][wanted], reduction="sum")
    return costs / wanted.sum().clamp(min=1)


def answer_costs(logits: Tensor, ids: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Returns per sentence the summed cross-entropy of its answer and the number of its tokens, (B,) each."""
    costs = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
    wanted = answer[:, 1:]
    return (costs * wanted).sum(1), wanted.sum(1)


def vad_loss(prediction: Tensor, vad: Tensor, explanation: Tensor) -> Tensor:
    """Returns the squared error of the next token's VAD, where it has one and is in the explanation; 0 elsewhere.

    Args:
        prediction: (B, L, 3), of the VAD head at each position.
        vad: (B, L, 3), of the tokens themselves, zeros where unknown.
        explanation: bool (B, L).
    """
    target = vad[:, 1:].float()
    wanted = explanation[:, 1:] & (target != 0).any(-1)
    return F.mse_loss(prediction[:, :-1][wanted].float(), target[wanted], reduction="sum") / (
        3 * wanted.sum().clamp(min=1)
    )


def span_mean(hidden: Tensor, span: Tensor) -> Tensor:
    """Returns (B, D): the mean of (B, L, D) over bool (B, L), zeros for an empty span."""
    weights = span.to(hidden.dtype)
    return torch.einsum("bld,bl->bd", hidden, weights) / weights.sum(1, keepdim=True).clamp(min=1)


def explanation_contrast(positive: Tensor, negatives: Tensor, known: Tensor) -> Tensor:
    """Returns the mean of -log softmax of s+ over s+ and its known negatives; rows without one are left out.

    Args:
        positive: (B,) scores of (image, emotion, explanation) that belong together.
        negatives: (B, 2) scores with the explanation of the image's other emotion, and of another image.
        known: bool (B, 2), the negatives that exist.
    """
    scores = torch.cat([positive[:, None], negatives.masked_fill(~known, -torch.inf)], dim=1).float()
    rows = known.any(1)
    return -(scores.log_softmax(1)[:, 0] * rows).sum() / rows.sum().clamp(min=1)
