"""Fusion of the scene and person embeddings alpha, beta into gamma: the variants of UniEmoX (arXiv 2409.18877).

Each maps (B, C), (B, C) to (B, C); a = alpha, b = beta, H = 3 heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.errors import VeaError, did_you_mean

HEADS = 3


class NoFusion(nn.Module):
    """gamma = a: the person view is not used (ablation)."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns ``a``."""
        return a


class EasyFusion(nn.Module):
    """gamma = ELU(W (LN(a) + LN(b)) + bias) with one shared LN: the default."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns (B, C)."""
        return F.elu(self.linear(self.norm(a) + self.norm(b)))


class WeightedFusion(nn.Module):
    """gamma = LN(sum_h p_h * a + q_h * b) + eps, with p, q in R^(H x C) drawn from N(0, 1), eps learned from 1e-5."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scene_heads = nn.Parameter(torch.randn(HEADS, width))
        self.person_heads = nn.Parameter(torch.randn(HEADS, width))
        self.norm = nn.LayerNorm(width)
        self.eps = nn.Parameter(torch.tensor(1e-5))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns (B, C); the sum over heads is taken over the weights, which is the same and cheaper."""
        return self.norm(self.scene_heads.sum(0) * a + self.person_heads.sum(0) * b) + self.eps


class DualFusion(nn.Module):
    """gamma = swish(sum_h w_a^h a + w_b^h b), (w_a^h, w_b^h) = softmax over the two branches of one score each.

    The released code takes the softmax over an axis of length 1, which makes the weights constant; not so here.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scene_score = nn.Linear(width, HEADS)
        self.person_score = nn.Linear(width, HEADS)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns (B, C)."""
        weights = torch.stack([self.scene_score(a), self.person_score(b)], dim=-1).softmax(-1).sum(-2)  # (B, 2)
        return F.silu(weights[:, :1] * a + weights[:, 1:] * b)


class GluFusion(nn.Module):
    """gamma = ReLU(m * sigmoid(W_g m)), m = MLP(concat_h u_h), u_h = softmax_C(W_a^h a) * a + softmax_C(W_b^h b) * b.

    The MLP is HC -> C -> C with a ReLU between.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scene_attention = nn.Linear(width, HEADS * width)
        self.person_attention = nn.Linear(width, HEADS * width)
        self.mlp = nn.Sequential(nn.Linear(HEADS * width, width), nn.ReLU(), nn.Linear(width, width))
        self.gate = nn.Linear(width, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns (B, C)."""
        by_head = (len(a), HEADS, a.shape[-1])
        u = self.scene_attention(a).view(by_head).softmax(-1) * a[:, None]
        u = u + self.person_attention(b).view(by_head).softmax(-1) * b[:, None]
        m = self.mlp(u.flatten(1))
        return F.relu(m * self.gate(m).sigmoid())


class LambdaFusion(nn.Module):
    """gamma = Linear(lambda a + b), lambda learned from 1: the figure of the paper."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.linear = nn.Linear(width, width)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Returns (B, C)."""
        return self.linear(self.scale * a + b)


FUSIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": NoFusion,
    "easy": EasyFusion,
    "weighted": WeightedFusion,
    "dual": DualFusion,
    "glu": GluFusion,
    "lambda": LambdaFusion,
}


def build_fusion(name: str, *, width: int) -> nn.Module:
    """Returns the fusion ``name`` for embeddings of ``width``; raises ``VeaError`` for a name that is not known."""
    if name not in FUSIONS:
        raise VeaError(f"model.fusion: {name!r} is not known{did_you_mean(name, FUSIONS)}")
    return FUSIONS[name](width)
