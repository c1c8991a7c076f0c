"""Recall of retrieval."""

from __future__ import annotations

import torch
from torch import Tensor

from vea.errors import VeaError
from vea.metrics.captions import caption_scores as caption_scores  # one place to find metrics
from vea.metrics.classification import refuse_broken


def retrieval_recall(
    image: Tensor, text: Tensor, owner: Tensor, *, ranks: tuple[int, ...] = (1, 5)
) -> dict[str, float]:
    """Returns recall at each of ``ranks``, both directions.

    Args:
        image: (N, D), rows of unit length.
        text: (M, D), rows of unit length.
        owner: int (M,), the row of ``image`` that each text belongs to.
        ranks: k of recall at k, none above N or M.

    Raises:
        VeaError: there is nothing to find, or a row is not a number.
    """
    if not (len(image) and len(text)):
        raise VeaError("there is no picture or no text to retrieve")
    refuse_broken(image)
    refuse_broken(text)
    similarity = image @ text.T  # (N, M)
    own = owner[None, :] == torch.arange(len(image))[:, None]
    figures = {}
    for k in ranks:
        found = own.gather(1, similarity.topk(k, dim=1).indices).any(1)
        figures[f"image_to_text_r{k}"] = round(float(found.float().mean()), 4)
        found = (similarity.topk(k, dim=0).indices == owner[None, :]).any(0)
        figures[f"text_to_image_r{k}"] = round(float(found.float().mean()), 4)
    return figures
