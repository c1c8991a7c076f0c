"""EfficientNet-Lite on a CPU by oneDNN: weights laid out once, activations and shortcuts a part of the convolutions.

By itself torch rearranges a convolution's weights at every call, and goes over the maps again for ReLU6, for the sum
with a shortcut and for a padding that is not the same on both sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vea.models.cnn import SceneLite, fold_norms

RELU6 = ("hardtanh", [0.0, 6.0])


class _Convolution:
    """A folded convolution for maps of one size; ``after`` is the size of its own."""

    def __init__(self, conv: Any, *, size: tuple[int, int], activate: bool) -> None:
        weight: Tensor = conv.weight.detach()
        self.padding, self.stride = [side // 2 for side in conv.kernel_size], list(conv.stride)
        if self.stride == [2, 2]:
            weight = as_symmetric(weight, size=size)
        height, width = (
            (side + 2 * pad - kernel) // step + 1
            for side, pad, kernel, step in zip(size, self.padding, weight.shape[2:], self.stride)
        )
        self.after = (height, width)
        self.groups, self.bias, self.activation = conv.groups, conv.bias.detach(), RELU6 if activate else ("none", [])
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight.contiguous(memory_format=torch.channels_last),
            self.padding, self.stride, [1, 1], self.groups, [1, conv.in_channels, *size],
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self.padding, self.stride, [1, 1], self.groups, *self.activation, ""
        )

    def add_to(self, x: Tensor, total: Tensor) -> Tensor:
        """Returns ``total`` with the convolution of ``x`` added in place; there is no activation."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, self.padding, self.stride, [1, 1], self.groups, "add", 1.0, None, [], None
        )


def as_symmetric(weight: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Returns weights (O, I, k', k'') that with padding k // 2 do what (O, I, k, k) do with TensorFlow's "SAME".

    At stride 2 "SAME" pads an even side by (k - 2) // 2 before and k // 2 after it: the same as a kernel with a leading
    zero and k // 2 on both sides. An odd side has k // 2 on both. ``size`` is (H, W) of the maps, k is odd.
    """
    top, left = (1 - side % 2 for side in size)
    return F.pad(weight, (left, 0, top, 0))


class _Laid:
    """The convolutions of a folded ``SceneLite`` for pictures of one size."""

    def __init__(self, body: Any, size: tuple[int, int]) -> None:
        def laid(conv: Any, *, activate: bool) -> _Convolution:
            nonlocal size
            made = _Convolution(conv, size=size, activate=activate)
            size = made.after
            return made

        self.stem = laid(body.conv_stem, activate=True)
        self.stages: list[list[tuple[list[_Convolution], _Convolution, bool]]] = []
        for stage in body.blocks:
            blocks = []
            for block in stage:
                convs = [module for module in block.children() if isinstance(module, nn.Conv2d)]
                first = [laid(conv, activate=True) for conv in convs[:-1]]
                blocks.append((first, laid(convs[-1], activate=False), block.has_skip))
            self.stages.append(blocks)
        self.head = laid(body.conv_head, activate=True)

    def __call__(self, x: Tensor) -> Tensor:
        x, pooled = self.stem(x), []
        for number, blocks in enumerate(self.stages):
            for first, last, has_skip in blocks:
                inner = x
                for convolution in first:
                    inner = convolution(inner)
                x = last.add_to(inner, x) if has_skip else last(inner)
            if number in (4, 5):
                pooled.append(x.mean((2, 3)))
        pooled.append(self.head(x).mean((2, 3)))
        return torch.cat(pooled, dim=1)


class QuickScene(nn.Module):
    """A ``SceneLite`` for prediction, in two thirds of its time; the answers are the same to fp32's rounding.

    Called as the network, (B, 3, H, W) -> (B, num_features). On another device, in another type and where a gradient
    is asked for, the network itself answers.
    """

    def __init__(self, network: SceneLite) -> None:
        super().__init__()
        self.network, self.num_features = network, network.num_features
        self._laid: tuple[tuple[int, int], _Laid] | None = None  # of the last size

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_laid": None}  # oneDNN's layouts can be neither copied nor pickled

    def forward(self, x: Tensor) -> Tensor:
        """Returns pooled features (B, num_features)."""
        weight: Any = self.network.body.conv_stem.weight
        plain = x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
        if not plain or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return self.network(x)
        size = (x.shape[2], x.shape[3])
        laid = self._laid
        if laid is None or laid[0] != size:
            self._laid = laid = (size, _Laid(self.network.body, size))
        return laid[1](x)


def quick(network: nn.Module) -> nn.Module:
    """Returns the quickest form of a network for prediction; its batch norms are folded in place."""
    fold_norms(network)
    known = all(hasattr(torch.ops.mkldnn, name) for name in ("_convolution_pointwise", "_reorder_convolution_weight"))
    if isinstance(network, SceneLite) and known and torch.backends.mkldnn.is_available():
        return QuickScene(network)
    return network
