"""Losses over paired and unpaired samples of one batch: L1 of UniEmoX, InfoNCE, and the sigmoid loss.

**Ranks.** These functions know none. All but ``infonce`` are sums over rows of a matrix samples x texts, and the texts
are the frozen teacher's: a rank gathers the texts of all ranks (no gradient has to come back), computes the rows of its
own samples (``own`` says which texts are theirs), and counts its part W times, which DDP's mean over W ranks divides
again: parameters receive exactly the gradient of one process with the whole batch. InfoNCE normalises columns too and
needs the rows of all ranks: ``vea.distributed.collectives.all_gather`` brings their gradients back summed, W times as
much, with the same end. With gradient accumulation "the batch" is the micro-batch of all ranks.

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


def _mean(losses: Tensor, rows: Tensor, own: Tensor | None = None) -> Tensor:
    """Returns the part of (B,) ``losses`` in the mean over all M samples of weight ``rows`` (M,)."""
    here = rows if own is None else rows[own]
    return (losses * here).sum() / rows.sum().clamp(min=1)


def _pairs(matrix: Tensor, own: Tensor | None) -> Tensor:
    """Returns bool (B, M), True where a row meets its own text."""
    columns = torch.arange(matrix.shape[1], device=matrix.device)
    return (columns[: len(matrix)] if own is None else own)[:, None] == columns


def contrastive_similarity(
    student: Tensor, image: Tensor, text: Tensor, *, paired: Tensor | None = None, own: Tensor | None = None
) -> Tensor:
    """Returns L1 = 1 - mean_i cos(A_i, C_i): each sample relates to all texts as its teacher's image embedding does.

    The diagonals of A and C are the paired samples, the rest the unpaired ones. A logit scale would cancel.

    Args:
        student: (B, D) fused embeddings gamma, with gradient.
        image: (B, D) the teacher's image embeddings.
        text: (M, D) the teacher's text embeddings.
        paired: bool (M,), False where a sample has no text; None means all have one.
        own: int (B,), each row's own text: the loss is then these rows' part of the mean over all M. None: M = B.
    """
    rows = _rows(text, paired)
    a, c = similarity_matrices(student, image, text)
    return _mean(1 - F.cosine_similarity(a * rows, c * rows, dim=-1), rows, own)


class _LogSumExp(torch.autograd.Function):
    """Row and column log-sum-exp of ``scale * f @ t.T + hidden``, a block of rows at a time, forward and backward.

    The (B, B) logits never exist; the backward pass makes each block again, the one matrix product that this costs:
    a block serves its own rows and adds to the sums of all columns.
    """

    @staticmethod
    def forward(ctx, f: Tensor, t: Tensor, hidden: Tensor, scale: float, block: int) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = f.new_empty(len(f))
        columns = torch.full_like(rows, -torch.inf)
        for start in range(0, len(f), block):
            part = slice(start, start + block)
            logits = (scale * f[part]) @ t.T
            columns = torch.logaddexp(columns, (logits + hidden[part, None]).logsumexp(0))
            rows[part] = logits.add_(hidden).logsumexp(1)
        ctx.save_for_backward(f, t, hidden, rows, columns)
        ctx.scale, ctx.block = scale, block
        return rows, columns

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        f, t, hidden, rows, columns = ctx.saved_tensors
        by_rows, by_columns = gradients
        grad_f, grad_t = torch.empty_like(f), torch.zeros_like(t)
        for start in range(0, len(f), ctx.block):
            part = slice(start, start + ctx.block)
            logits = (ctx.scale * f[part]) @ t.T
            weight = (logits + (hidden - rows[part, None])).exp_().mul_(by_rows[part, None])
            weight += logits.add_(hidden[part, None] - columns).exp_().mul_(by_columns)
            weight *= ctx.scale
            grad_f[part] = weight @ t
            grad_t.addmm_(weight.T, f[part])
        return grad_f, grad_t, None, None, None


def infonce(
    student: Tensor,
    text: Tensor,
    *,
    temperature: float,
    paired: Tensor | None = None,
    focal: float = 0.0,
    block: int | None = None,
) -> Tensor:
    """Returns the symmetric InfoNCE of CLIP (arXiv 2103.00020): mean cross-entropy of matching pairs, both directions.

    Two samples with the same text count as each other's negatives, as in CLIP.

    Args:
        student: (B, D), with gradient.
        text: (B, D).
        temperature: divides the cosines.
        paired: bool (B,), False where a sample has no text.
        focal: gamma of w_i = (1 - p(positive_i))^gamma (arXiv 2506.20923), a constant in the backward pass: pairs that
            are found already count less. 0 is plain InfoNCE.
        block: rows whose logits exist at a time; None makes all at once. Loss and gradients are the same.
    """
    rows = _rows(student, paired)
    with torch.autocast(student.device.type, enabled=False):
        f, t = F.normalize(student.float(), dim=-1), F.normalize(text.float(), dim=-1)
        # a large negative number and not -inf: a batch without any text must give 0, not NaN, in the gradient as well
        if block is None or block >= len(f):
            hidden = (rows == 0)[None].expand(len(f), -1)
            logits = f @ t.T / temperature
            log_p = logits.masked_fill(hidden, -1e4).log_softmax(1).diagonal()
            log_q = logits.T.masked_fill(hidden, -1e4).log_softmax(1).diagonal()
        else:
            sums = _LogSumExp.apply(f, t, -1e4 * (rows == 0).float(), 1 / temperature, block)
            positive = (f * t).sum(1) / temperature
            log_p, log_q = (positive - total for total in sums)
        if focal:
            log_p, log_q = ((1 - log.detach().exp()).clamp(min=0) ** focal * log for log in (log_p, log_q))
        return _mean(-(log_p + log_q) / 2, rows)


def distillation(
    student: Tensor,
    image: Tensor,
    text: Tensor,
    *,
    temperature: float,
    margin: float = 0.01,
    hard: int | None = None,
    paired: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Returns the soft-label loss of arXiv 2510.13515: (KL(P||Q) + KL(Q||P)) / 2, mean over samples.

    P is the softmax of the student's cosines with its own text and the candidates, Q that of the judge, which is here
    the teacher's image against the same texts. A candidate that the judge finds as fitting as the sample's own text
    (its cosine above the own one - ``margin``) is a false negative and is left out.

    Args:
        student: (B, D) gamma, with gradient.
        image: (B, D) the teacher's image embeddings.
        text: (M, D) the teacher's text embeddings.
        temperature: of both softmaxes.
        margin: see above.
        hard: keep only this many candidates, those nearest to the student; None keeps all.
        paired: bool (M,), False where a sample has no text.
        own: int (B,), each row's own text: the loss is then these rows' part of the mean over all M. None: M = B.
    """
    rows = _rows(text, paired)
    a, c = similarity_matrices(student, image, text)
    pairs = _pairs(a, own)
    candidate = ~pairs & (c <= c[pairs][:, None] - margin) & (rows > 0)
    if hard is not None and hard < len(text) - 1:
        threshold = a.detach().masked_fill(~candidate, -torch.inf).topk(hard, dim=1).values[:, -1:]
        candidate &= a.detach() >= threshold
    left_out = ~(pairs | candidate)
    log_p, log_q = ((m / temperature).masked_fill(left_out, -1e4).log_softmax(1) for m in (a, c))
    # sum (p - q)(log p - log q) is KL(P||Q) + KL(Q||P); what is left out has p = q = 0
    return _mean(((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1) / 2, rows, own)


def sigmoid(
    student: Tensor,
    text: Tensor,
    *,
    log_scale: Tensor,
    bias: Tensor,
    paired: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Returns the pairwise loss of SigLIP (arXiv 2303.15343, equation 1): each pair of the batch is a yes or a no.

    -1/M sum_ij log sigmoid(z_ij (exp(log_scale) f_i . t_j + bias)), z = 1 for a pair and -1 for the others; arguments
    as in ``contrastive_similarity``.
    """
    rows = _rows(text, paired)
    with torch.autocast(student.device.type, enabled=False):
        f, t = F.normalize(student.float(), dim=-1), F.normalize(text.float(), dim=-1)
        logits = log_scale.exp() * (f @ t.T) + bias
        sign = 2 * _pairs(logits, own).float() - 1
        return _mean(-(F.logsigmoid(sign * logits) * rows).sum(1), rows, own)


def nt_xent(vectors: Tensor, labels: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Returns the mean over rows i of -1/|P(i)| sum_{p in P(i)} log(exp(s_ip / t) / sum_{a != i} exp(s_ia / t)).

    s is the cosine, P(i) are the other rows of i's label. With one positive a row this is NT-Xent (SimCLR, Chen et al.,
    ICML 2020, equation 1); with several it is Khosla et al. (NeurIPS 2020, equation 2), as ReflectDiffu's contrast of
    pooled vectors takes rows of one emotion. Rows whose label is below 0 are left out; those without a positive only
    stand among the others. No such pair: 0.

    Args:
        vectors: (B, D), with gradient; normalised here, in fp32.
        labels: int (B,), -1 where unknown.
        temperature: t.
    """
    known = labels >= 0
    with torch.autocast(vectors.device.type, enabled=False):
        z, labels = F.normalize(vectors[known].float(), dim=-1), labels[known]
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        logits = (z @ z.T / temperature).masked_fill(itself, -torch.inf)
        positive = (labels[:, None] == labels) & ~itself
        count = positive.sum(1)
        if not count.any():
            return vectors.float().sum() * 0
        costs = torch.where(positive, logits.logsumexp(1, keepdim=True) - logits, 0).sum(1)
        return (costs / count.clamp(min=1))[count > 0].mean()
