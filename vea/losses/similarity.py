"""Agreement of the fused embedding with the teacher's image embedding (L2 of UniEmoX), and signs of collapse."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns (B,) fp32: 1 - cos of each row of ``student`` (B, D) and ``teacher`` (B, D); ``.mean()`` is L2."""
    return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)


@torch.no_grad()
def collapse_signs(embeddings: Tensor) -> dict[str, Tensor]:
    """Returns ``gamma_std`` and ``gamma_rank`` of the L2-normalised ``embeddings`` (B, D).

    ``gamma_std``: the mean deviation of a coordinate over the batch times sqrt(D); near 1 when directions are spread
    out, near 0 when all samples share one. ``gamma_rank``: the effective number of dimensions in use, as the
    participation ratio (sum of eigenvalues)^2 / (sum of squares) of the covariance, which needs no decomposition.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = F.normalize(embeddings.float(), dim=-1)
        centred = rows - rows.mean(0)
        gram = centred @ centred.T if len(rows) <= rows.shape[1] else centred.T @ centred
        spread = centred.square().mean(0).sqrt().mean() * rows.shape[1] ** 0.5
        rank = gram.trace().square() / gram.square().sum().clamp(min=1e-12)
    return {"gamma_std": spread, "gamma_rank": rank}
