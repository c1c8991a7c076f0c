"""Losses over paired and unpaired samples of one batch: L1 of UniEmoX, InfoNCE, and the sigmoid loss.

**Ranks.** These functions know none. The caller gathers the rows of all ranks with ``vea.runtime.all_gather`` and every
rank computes the loss of the global batch. The backward pass of the gather sums over ranks, so local rows receive
W times their gradient; DDP's mean divides by W again: parameters receive exactly the gradient of one process with the
whole batch. Losses that are means over local samples need no gather for that. With gradient accumulation "the batch" is
the micro-batch of all ranks.

**Samples without a text** (``paired`` False) are neither rows nor columns; the mean is over those that have one. In a
batch without any the loss is 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_matrices(student: Tensor, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Returns A = F T^t and C = V T^t, (B, M) fp32 each, from (B, D), (B, D) and (M, D); rows are normalised here."""
    with torch.autocast(student.device.type, enabled=False):
        f, v, t = (F.normalize(rows.float(), dim=-1) for rows in (student, image, text))
        return f @ t.T, v @ t.T


def _rows(tensor: Tensor, paired: Tensor | None) -> Tensor:
    """Returns (B,) fp32 weights: 1 for samples with a text, 0 for the others."""
    return torch.ones(len(tensor), device=tensor.device) if paired is None else paired.float()


def _mean(losses: Tensor, rows: Tensor) -> Tensor:
    return (losses * rows).sum() / rows.sum().clamp(min=1)


def contrastive_similarity(student: Tensor, image: Tensor, text: Tensor, *, paired: Tensor | None = None) -> Tensor:
    """Returns L1 = 1 - mean_i cos(A_i, C_i): each sample relates to all texts as its teacher's image embedding does.

    The diagonals of A and C are the paired samples, the rest the unpaired ones. A logit scale would cancel.

    Args:
        student: (B, D) fused embeddings gamma, with gradient.
        image: (B, D) the teacher's image embeddings.
        text: (B, D) the teacher's text embeddings.
        paired: bool (B,), False where a sample has no text; None means all have one.
    """
    rows = _rows(student, paired)
    a, c = similarity_matrices(student, image, text)
    return _mean(1 - F.cosine_similarity(a * rows, c * rows, dim=-1), rows)


def infonce(student: Tensor, text: Tensor, *, temperature: float, paired: Tensor | None = None) -> Tensor:
    """Returns the symmetric InfoNCE of CLIP (arXiv 2103.00020): mean cross-entropy of matching pairs, both directions.

    Two samples with the same text count as each other's negatives, as in CLIP.
    """
    rows = _rows(student, paired)
    with torch.autocast(student.device.type, enabled=False):
        f, t = F.normalize(student.float(), dim=-1), F.normalize(text.float(), dim=-1)
        # a large negative number and not -inf: a batch without any text must give 0, not NaN, in the gradient as well
        hidden = (rows == 0)[None].expand(len(f), -1)
        logits = f @ t.T / temperature
        log_p = logits.masked_fill(hidden, -1e4).log_softmax(1).diagonal()
        log_q = logits.T.masked_fill(hidden, -1e4).log_softmax(1).diagonal()
        return _mean(-(log_p + log_q) / 2, rows)


def sigmoid(
    student: Tensor, text: Tensor, *, log_scale: Tensor, bias: Tensor, paired: Tensor | None = None
) -> Tensor:
    """Returns the pairwise loss of SigLIP (arXiv 2303.15343, equation 1): each pair of the batch is a yes or a no.

    -1/B sum_ij log sigmoid(z_ij (exp(log_scale) f_i . t_j + bias)), z = 1 on the diagonal and -1 off it.
    """
    rows = _rows(student, paired)
    with torch.autocast(student.device.type, enabled=False):
        f, t = F.normalize(student.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = log_scale.exp() * (f @ t.T) + bias
        sign = 2 * torch.eye(len(f), device=f.device) - 1
        return _mean(-(F.logsigmoid(sign * logits) * rows).sum(1), rows)
