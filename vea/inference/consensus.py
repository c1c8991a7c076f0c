"""One answer of a model's two readings of a face: FER2013's own labels, and how FER+'s taggers voted.

FER2013's labels came from words typed into a picture search; its test split wants them, other faces do not. FER+'s
votes are about what people see. Their product asks that both agree, each as loud as the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vea.errors import VeaError
from vea.taxonomy.words import map_expressions


def consensus(first: Tensor, second: Tensor, *, classes: Sequence[str], others: Sequence[str]) -> Tensor:
    """Returns probabilities (N, C) over ``classes``: the normalised geometric mean of two readings, by name.

    Args:
        first: (N, C) probabilities of ``classes``.
        second: (N, D) probabilities of ``others``; what ``classes`` lacks, such as contempt, is left out.
        classes: facial expressions in any of their names.
        others: the same of the second reading; each of ``classes`` must be among them.

    Raises:
        VeaError: ``others`` lacks one of ``classes``, or a name is not a facial expression.
    """
    places = map_expressions(classes, others)
    if missing := [name for name, place in zip(classes, places) if place is None]:
        raise VeaError(f"the second reading has no {missing[0]!r}; it has {', '.join(others)}")
    tiny = torch.finfo(first.dtype).tiny
    both = (first.clamp(min=tiny).log() + second[:, places].clamp(min=tiny).log()) / 2
    return both.softmax(1)
