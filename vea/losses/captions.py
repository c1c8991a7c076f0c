"""Stage two: pictures against captions, with widened positives, mixed negatives and phrases.

VAEmo (arXiv 2505.02331) and EmoCapCLIP align captions with a masked-reconstruction encoder by two contrastive paths;
their formulas are not public, so this form is vea's own. Every function takes the rows of the whole global batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -1e4  # and not -inf: a batch without any text must give 0, not NaN, in the gradient as well


def cosines(student: Tensor, text: Tensor) -> Tensor:
    """Returns (B, M) fp32 cosines of (B, D) and (M, D)."""
    with torch.autocast(student.device.type, enabled=False):
        return F.normalize(student.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T


def max_mean(patches: Tensor, phrases: Tensor, known: Tensor) -> Tensor:
    """Returns (B, M) fp32: the mean over a caption's phrases of the best cosine with a patch, as in ColBERT's MaxSim.

    Args:
        patches: (B, K, D) of pictures.
        phrases: (M, P, D) of captions.
        known: (M, P), 0 where a caption has fewer phrases; one without any scores 0.
    """
    with torch.autocast(patches.device.type, enabled=False):
        tokens, words = F.normalize(patches.float(), dim=-1), F.normalize(phrases.float(), dim=-1)
        best = torch.einsum("bkd,mpd->bmpk", tokens, words).amax(-1)
        return (best * known).sum(-1) / known.sum(-1).clamp(min=1)


def likeness(text: Tensor, *, affect: Tensor | None = None, weight: float = 0.0) -> Tensor:
    """Returns (B, B) J: cosines of captions plus ``weight`` times the likeness of affect, 1 - |a_i - a_j| / sqrt(8).

    Args:
        text: (B, D).
        affect: (B, 2) valence and arousal of the captions in [-1, 1]; NaN where no word is rated, which is like
            itself alone.
        weight: see above.
    """
    found = cosines(text, text)
    if affect is None or not weight:
        return found
    near = 1 - torch.linalg.vector_norm(affect[:, None] - affect, dim=-1) / 8**0.5
    near = near.nan_to_num(0.0)
    near.fill_diagonal_(1.0)
    return found + weight * near


def mixed_negatives(
    scores: Tensor,
    text: Tensor,
    *,
    form: str,
    hard: int,
    margin: float,
    temperature: float,
    draws: Tensor,
    paired: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns (mixed (B, M, D) unit vectors, usable bool (B, M)): negatives made of each picture's hardest captions.

    After KaLM-Embedding-V2 (arXiv 2506.20923), online mixing, with the texts of the batch as candidates:
    pair-wise n = l n_a + (1 - l) n_b, l ~ Beta(2, 2) (the middle of three uniform numbers), a and b two different ones
    of the ``hard`` hardest; list-wise n = sum_k w_k n_k over all of these, w = softmax(scores / temperature).
    Both are normalised again, and constants in the backward pass but for the picture that meets them.

    Args:
        scores: (B, B) cosines of pictures and captions.
        text: (B, D), frozen.
        form: ``pair`` or ``list``.
        hard: H, candidates a picture.
        margin: captions whose cosine with the own one is above 1 - margin are false negatives.
        temperature: of ``list``.
        draws: (B, M, 5) uniform numbers: three for l, two for a and b; ``list`` reads none and makes one.
        paired: (B,), 0 where a sample has no text.
    """
    with torch.no_grad(), torch.autocast(text.device.type, enabled=False):
        unit = F.normalize(text.float(), dim=-1)
        candidate = (unit @ unit.T <= 1 - margin) & (paired > 0)
        candidate.fill_diagonal_(False)
        count = min(hard, len(unit))
        ranked = scores.detach().float().masked_fill(~candidate, -torch.inf).sort(dim=1, descending=True, stable=True)
        values, places = ranked.values[:, :count], ranked.indices[:, :count]
        there = values.isfinite().sum(1)  # (B,), candidates among the hardest
        if form == "list":
            weights = (values / temperature).softmax(1).nan_to_num(0.0)
            mixed = (weights[..., None] * unit[places]).sum(1, keepdim=True)
            return F.normalize(mixed, dim=-1), (there > 1)[:, None]
        share = draws[..., :3].sort(-1).values[..., 1:2]
        first = (draws[..., 3] * there[:, None]).long().clamp(max=count - 1)
        second = (draws[..., 4] * (there[:, None] - 1)).long().clamp(min=0)
        second = (second + (second >= first)).clamp(max=count - 1)
        a, b = (unit[places.gather(1, index)] for index in (first, second))
        return F.normalize(share * a + (1 - share) * b, dim=-1), (there > 1)[:, None].expand(-1, a.shape[1])


def caption_infonce(
    scores: Tensor,
    *,
    scale: Tensor,
    paired: Tensor,
    like: Tensor | None = None,
    soft_temperature: float = 0.07,
    mixed: Tensor | None = None,
) -> Tensor:
    """Returns the symmetric InfoNCE of pictures and captions, mean over the samples that have a text.

    P_i = softmax_j(scale * scores_ij) over the captions of the batch, and the same over its pictures for a caption.
    Without ``like`` each direction is -log P_ii, as in CLIP (arXiv 2103.00020). With it, after UniME-V2
    (arXiv 2510.13515), (KL(P||Q) + KL(Q||P)) / 2 with Q_i = softmax_j(J_ij / soft_temperature): a caption that says
    nearly the same is nearly as right.

    Args:
        scores: (B, B), pictures x captions.
        scale: 1 / temperature, a tensor: it may learn.
        paired: (B,), 0 where a sample has no text: it is neither row nor column.
        like: (B, B) J of ``likeness``; None: only the own caption is right.
        soft_temperature: of Q.
        mixed: (B, M) scores of mixed negatives, -inf where there is none; they join the pictures' P and have Q = 0, so
            they take part in -log P_ii and in KL(Q||P), and not in KL(P||Q).
    """
    rows = paired.float()
    hidden = (rows == 0)[None].expand(len(scores), -1)
    losses = []
    for matrix, extra in ((scores, mixed), (scores.T, None)):
        logits = (scale * matrix.float()).masked_fill(hidden, HIDDEN)
        log_p = logits.log_softmax(1)
        against = log_p
        if extra is not None:
            more = (scale * extra.float()).masked_fill(extra == -torch.inf, HIDDEN)
            against = torch.cat([logits, more], 1).log_softmax(1)[:, : len(scores)]
        if like is None:
            losses.append(-against.diagonal())
            continue
        log_q = (like / soft_temperature).masked_fill(hidden, HIDDEN).log_softmax(1)
        forward = log_q.exp() * (log_q - against)
        backward = log_p.exp() * (log_p - log_q)
        losses.append((forward + backward).sum(1) / 2)
    return ((losses[0] + losses[1]) / 2 * rows).sum() / rows.sum().clamp(min=1)
