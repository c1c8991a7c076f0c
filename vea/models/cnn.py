"""Small networks of vea's own, by name: for inputs that timm's models are too large or too coarse for."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from vea.errors import VeaError, did_you_mean

Pool = Literal["avg", "avgmax"]


class ConvNorm(nn.Sequential):
    """A convolution of odd size, batch norm and, unless it ends a residual branch, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, size: int = 3, stride: int = 1, activate: bool = True):
        convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if activate else []))


class DownBlock(nn.Module):
    """A residual block that halves the side: the shortcut averages 2x2 pixels, so that none is skipped (ResNet-D)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        last = ConvNorm(outputs, outputs, activate=False)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]  # every block begins as its shortcut
        self.body = nn.Sequential(ConvNorm(inputs, outputs, stride=2), last)
        pool = nn.AvgPool2d(2, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, ConvNorm(inputs, outputs, size=1, activate=False))
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, outputs, H/2, W/2)."""
        return self.activation(self.body(x) + self.shortcut(x))


class ResidualBlock(nn.Module):
    """Two convolutions beside a plain shortcut; as it begins it changes nothing, so a trained network may get some."""

    def __init__(self, width: int):
        super().__init__()
        last = ConvNorm(width, width, activate=False)
        nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]
        self.body = nn.Sequential(ConvNorm(width, width), last)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, width, H, W)."""
        return self.activation(x + self.body(x))


class FaceCNN(nn.Module):
    """A small residual network for face crops of 48x48 pixels; called with (B, C, H, W), returns (B, num_features).

    The stem keeps the full resolution: at 48 pixels an eyelid is two pixels wide, and a stride there loses it. Each
    stage is one residual block that halves the side (48, 24, 12, 6, 3). 2.4 M parameters, 61 M multiply-adds. Built on
    a CPU's terms: channels in multiples of 16, no depthwise convolutions, channels_last. ``depths`` adds so many
    residual blocks behind each stage; they begin as nothing, so that a deeper network can start from a trained one
    (``train.init_from``). ``pool="avgmax"`` is for whole scenes: beside the mean over places it keeps each channel's
    largest value, in which a small object is not diluted.
    """

    block: Callable[[int, int], nn.Module] = DownBlock
    stem_size, stem_stride = 3, 1

    def __init__(
        self,
        *,
        in_chans: int = 1,
        widths: tuple[int, ...] = (16, 48, 80, 160, 384),
        depths: tuple[int, ...] = (),
        pool: Pool = "avg",
    ):
        super().__init__()
        if depths and len(depths) != len(widths) - 1:
            raise VeaError(
                f"model.encoder.args: depths needs {len(widths) - 1} numbers, one a stage, not {len(depths)}"
            )
        if pool not in ("avg", "avgmax"):
            raise VeaError(f"model.encoder.args: pool is avg or avgmax, not {pool!r}")
        self.pool = pool
        self.stem = ConvNorm(in_chans, widths[0], size=self.stem_size, stride=self.stem_stride)
        self.stages = nn.Sequential(*(type(self).block(a, b) for a, b in pairwise(widths)))
        self.extra = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(width) for _ in range(depth))) for width, depth in zip(widths[1:], depths)
        )
        self.num_features = widths[-1] * (2 if pool == "avgmax" else 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns by which timm groups parameters into layers."""
        return {"stem": r"^stem", "blocks": r"^(?:stages|extra)\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the last feature map (B, widths[-1], H', W')."""
        x = self.stem(x)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if len(self.extra):
                x = self.extra[number](x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Returns pooled features (B, num_features)."""
        x = self.forward_features(x)
        average = x.mean((2, 3))
        return average if self.pool == "avg" else torch.cat([average, x.amax((2, 3))], dim=1)


class PlainBlock(nn.Module):
    """A convolution that halves the side, and a residual one after it; no path goes around the stride."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.down = ConvNorm(inputs, outputs, stride=2)
        self.body = ConvNorm(outputs, outputs, activate=False)
        nn.init.zeros_(self.body[1].weight)  # type: ignore[arg-type]
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B, outputs, H/2, W/2)."""
        x = self.down(x)
        return self.activation(x + self.body(x))


class FaceNano(FaceCNN):
    """FaceCNN for the least time a face: 0.7 M parameters, 18 M multiply-adds, seven layers deep.

    At batch 1 a layer costs more than its multiply-adds: the stem is one 5x5 convolution with stride 2, and no block
    has a convolution in its shortcut. (48, 24, 12, 6, 3 pixels a side, as in FaceCNN.)
    """

    block, stem_size, stem_stride = PlainBlock, 5, 2

    def __init__(self, *, in_chans: int = 1, widths: tuple[int, ...] = (32, 64, 96, 192), pool: Pool = "avg"):
        super().__init__(in_chans=in_chans, widths=widths, pool=pool)


class SceneLite(nn.Module):
    """EfficientNet-Lite (timm's, Apache-2.0) whose pooled features are those of two late stages and its head.

    Called with (B, 3, H, W), returns (B, num_features): the mean over places of stage five, stage six and the head of
    1,280. What a picture evokes hangs on colours and textures as well as on what is in it
    (docs/results/scene_model.md). ``size`` is 0 to 4, as in the paper's names.
    """

    def __init__(self, *, in_chans: int = 3, size: int = 2) -> None:
        super().__init__()
        import timm

        name = f"tf_efficientnet_lite{size}"
        self.body: Any = timm.create_model(name, in_chans=in_chans, num_classes=0, global_pool="")
        blocks: Any = self.body.blocks
        self.num_features = sum(blocks[stage][-1].conv_pwl.out_channels for stage in (4, 5)) + 1280

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns by which timm groups parameters into layers."""
        return {"stem": r"^body\.(conv_stem|bn1)", "blocks": r"^body\.blocks\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """Returns the last feature map (B, 1280, H/32, W/32)."""
        return self.body.forward_features(x)

    def forward(self, x: Tensor) -> Tensor:
        """Returns pooled features (B, num_features)."""
        body, pooled = self.body, []
        x = body.bn1(body.conv_stem(x))
        for number, block in enumerate(body.blocks):
            x = block(x)
            if number in (4, 5):
                pooled.append(x.mean((2, 3)))
        pooled.append(body.bn2(body.conv_head(x)).mean((2, 3)))
        return torch.cat(pooled, dim=1)


class Committee(nn.Module):
    """Networks of this file side by side: called with (B, C, H, W), returns their features in a row (B, num_features).

    ``members`` holds each one's ``name`` and ``args``, as ``model.encoder`` does (``vea.tasks.saved.join``).
    """

    def __init__(self, *, members: list[dict[str, Any]], in_chans: int = 1) -> None:
        super().__init__()
        built = [build_network(member["name"], channels=in_chans, args=member.get("args")) for member in members]
        self.members = nn.ModuleList(built)
        self.num_features = sum(cast(int, member.num_features) for member in built)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns the patterns by which timm groups parameters into layers."""
        return {"stem": r"^members\.\d+\.stem", "blocks": r"^members\.\d+\.(?:stages|extra)\.(\d+)"}

    def forward(self, x: Tensor) -> Tensor:
        """Returns pooled features (B, num_features), those of the first member first."""
        return torch.cat([member(x) for member in self.members], dim=1)


@torch.no_grad()
def fold_norms(net: nn.Module) -> None:
    """Makes each batch norm that follows a convolution a part of it, in place: the answers stay, to fp32's rounding.

    For inference only: w' = w g / s and b' = (b - m) g / s + c, of running mean m, deviation s, gain g and offset c. Of
    timm's norms the activation stays.
    """
    pairs = [
        (module, first, name, second)
        for module in net.modules()
        for (_, first), (name, second) in pairwise(module.named_children())
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
    ]
    for module, conv, name, norm in pairs:
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.running_mean * gain
        conv.weight.mul_(gain[:, None, None, None])
        conv.bias = nn.Parameter(bias if conv.bias is None else bias + conv.bias * gain, requires_grad=False)
        setattr(module, name, getattr(norm, "act", nn.Identity()))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vea_face_cnn": FaceCNN,
    "vea_face_nano": FaceNano,
    "vea_scene_lite": SceneLite,
    "vea_committee": Committee,
}


def build_network(name: str, *, channels: int, args: dict[str, Any] | None = None) -> nn.Module:
    """Returns the vea network ``name``; it has ``num_features`` and ``group_matcher`` like timm's models.

    Raises:
        VeaError: no network has this name, or it does not take ``args``.
    """
    if name not in NETWORKS:
        raise VeaError(f"model.encoder.name: no vea network {name!r}{did_you_mean(name, NETWORKS)}")
    try:
        return NETWORKS[name](in_chans=channels, **(args or {}))
    except TypeError as error:
        raise VeaError(f"model.encoder.args do not fit {name}: {error}") from None
