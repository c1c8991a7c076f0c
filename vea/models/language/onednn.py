"""Matrix products on a CPU by oneDNN, for writing explanations.

A step of writing multiplies a row or a few per picture with every weight there is. For so few rows the product that
torch takes by itself (MKL's) reads and rearranges the weights more slowly than oneDNN, which torch carries as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@contextmanager
def quick_products(model: nn.Module) -> Iterator[None]:
    """Returns a context in which float32 linear layers of ``model`` on a CPU multiply by oneDNN.

    The same sums in another order. It keeps no gradient; weights, their names and the layers stay as they are.
    """
    found: list[Any] = []
    # under autocast the layers choose a shorter type themselves
    if hasattr(torch.ops.mkldnn, "_linear_pointwise") and not torch.is_autocast_enabled("cpu"):
        found = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, Conv1D)) and _fits(layer)]
    for layer in found:
        weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight  # GPT-2 stores (in, out)
        # as an attribute of the one layer, which hides its class's method until it is taken away
        vars(layer)["forward"] = partial(_product, weight=weight, bias=layer.bias, plain=layer.forward)
    try:
        yield
    finally:
        for layer in found:
            vars(layer).pop("forward", None)


def _fits(layer: Any) -> bool:
    return layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32


def _product(x: Tensor, *, weight: Tensor, bias: Tensor | None, plain: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns x W^T + b, (..., O), of x (..., I) and weight (O, I)."""
    if x.dtype != torch.float32 or x.numel() <= x.shape[-1]:  # one row with a matrix is bound by memory either way
        return plain(x)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
