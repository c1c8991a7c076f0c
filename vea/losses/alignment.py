"""InfoNCE of pictures and several texts each, with a learned scale (CLIP, arXiv 2103.00020, figure 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_text_infonce(image: Tensor, text: Tensor, *, scale: Tensor, paired: Tensor | None = None) -> Tensor:
    """Returns the mean of both directions; with K = 1 it is CLIP's symmetric cross-entropy.

    With l_ijk = scale * cos(image_i, text_jk): a picture finds each of its texts among those of other pictures,
    -mean_ik log(exp l_iik / (exp l_iik + sum_{j != i, k'} exp l_ijk')), so that its texts do not compete with each
    other (the positives of SupCon, arXiv 2004.11362, left out of the denominator); a text finds its picture,
    -mean_jk log(exp l_jjk / sum_i exp l_ijk).

    Args:
        image: (B, D), with gradient; rows are normalised here. B is the global batch: gather before.
        text: (B, K, D), with gradient.
        scale: scalar, 1 / temperature.
        paired: bool (B,), False where a sample has no text: it is no row and no column. None: all have some.
    """
    with torch.autocast(image.device.type, enabled=False):
        f, t = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        count = len(t)
        rows = torch.ones(count, device=f.device) if paired is None else paired.float()
        logits = scale * torch.einsum("id,jkd->ijk", f, t)
        logits = logits.masked_fill((rows == 0)[None, :, None], -1e4)  # not -inf: a batch without texts gives 0
        own = torch.eye(count, dtype=torch.bool, device=f.device)
        positive = logits[own]  # (B, K)
        others = logits.masked_fill(own[:, :, None], -1e4).flatten(1).logsumexp(1, keepdim=True)
        to_text = torch.logaddexp(positive, others) - positive
        to_image = logits.masked_fill((rows == 0)[:, None, None], -1e4).logsumexp(0) - positive
        losses = (to_text + to_image).mean(1) / 2
        return (losses * rows).sum() / rows.sum().clamp(min=1)
