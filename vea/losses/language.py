"""Losses of SEVLM (arXiv 2403.11150, section 3): next token, its VAD, and the contrast of explanations.

Position t predicts token t + 1. Pads and the prompt are in no mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _by_sentence(costs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Returns sums and counts, (B,) each, of the costs of the True places of (B, L)."""
    placed = costs.new_zeros(wanted.shape).masked_scatter(wanted, costs)
    return placed.sum(1), wanted.sum(1)


def answer_costs(logits: Tensor, ids: Tensor, answer: Tensor) -> tuple[Tensor, Tensor]:
    """Returns per sentence the summed cross-entropy of its answer, fp32, and the number of its tokens, (B,) each.

    Args:
        logits: (B, L, V).
        ids: int64 (B, L).
        answer: bool (B, L), the tokens to predict.
    """
    wanted = answer[:, 1:]
    costs = F.cross_entropy(logits[:, :-1][wanted].float(), ids[:, 1:][wanted], reduction="none")
    return _by_sentence(costs, wanted)


def vad_costs(prediction: Tensor, vad: Tensor, explanation: Tensor) -> tuple[Tensor, Tensor]:
    """Returns per sentence the summed squared error of the next token's VAD, fp32, and its count, (B,) each.

    A token counts where it has a VAD and is in the explanation; its error is the mean of three.

    Args:
        prediction: (B, L, 3), of the VAD head at each position.
        vad: (B, L, 3), of the tokens themselves, zeros where unknown.
        explanation: bool (B, L).
    """
    target = vad[:, 1:].float()
    wanted = explanation[:, 1:] & (target != 0).any(-1)
    return _by_sentence((prediction[:, :-1][wanted].float() - target[wanted]).square().mean(1), wanted)


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
