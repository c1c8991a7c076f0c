"""How a bank of prototypes is used: how many are, and what they say of a label."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def perplexity(codes: Tensor, *, count: int) -> Tensor:
    """Returns exp of the entropy of the codes' shares, fp32 scalar: 1 (one code is used) to ``count`` (all alike).

    ``codes`` is (N,) whole numbers below ``count``.
    """
    shares = torch.bincount(codes.long(), minlength=count).float() / max(1, len(codes))
    return torch.special.entr(shares).sum().exp()


def information(codes: Tensor, labels: Tensor) -> float:
    """Returns the mutual information of codes (N,) and classes (N,) in bits, of their shares in the sample.

    I = sum p(k, y) log2 (p(k, y) / (p(k) p(y))); it is biased upwards by about (K - 1)(C - 1) / (2 N ln 2). NaN without
    samples.
    """
    if len(codes) == 0:
        return float("nan")
    joint = torch.zeros(int(codes.max()) + 1, int(labels.max()) + 1, dtype=torch.float64)
    joint.index_put_((codes.long(), labels.long()), torch.ones(len(codes), dtype=torch.float64), accumulate=True)
    joint /= len(codes)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / independent[seen]).log2()).sum())


def neighbours(affinities: Tensor, shares: Tensor) -> float:
    """Returns whether classes that prototypes treat alike are those that people take for one another.

    DICE-Talk's neighbouring emotions: Spearman's rho over pairs of classes between corr(a_c, a_d), of what K prototypes
    say of either class, and corr(s_c, s_d), of the votes for either over N samples. NaN where a column is constant.

    Args:
        affinities: (K, C), of each prototype to each class.
        shares: (N, C) shares of votes.
    """
    from scipy.stats import spearmanr  # takes a second to import

    first, second = torch.triu_indices(affinities.shape[1], affinities.shape[1], 1)
    alike, confused = (torch.corrcoef(rows.double().T)[first, second] for rows in (affinities, shares))
    return float(spearmanr(alike.numpy(), confused.numpy()).statistic)
