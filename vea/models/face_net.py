"""A small network that finds faces: box, score and five points a cell, at strides 8, 16 and 32.

After YuNet (Wu et al., 2023): depthwise separable convolutions, a top-down pyramid, no anchors. A cell says how far the
four sides and the five points lie from its centre, in strides.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANSWERS = 15  # of a cell: score, four sides, five points
SIZES = ((0.0, 40.0), (28.0, 110.0), (76.0, 1e6))  # side of the faces (root of the area, pixels) that a stride learns
CENTRE = 1.5  # a cell learns a face whose centre is nearer than so many strides, or .3 of the face if that is less


def _cbr(inputs: int, outputs: int, *, stride: int = 1, groups: int = 1, side: int = 3) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _separable(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(_cbr(inputs, inputs, stride=stride, groups=inputs), _cbr(inputs, outputs, side=1))


class FaceNet(nn.Module):
    """The network. ``forward`` takes RGB 0..255 (B, 3, H, W), H and W multiples of 32.

    Returns three tensors (B, 15, H / stride, W / stride): logit of the score, the four sides' distances as logarithms
    (left, up, right, down), and the points' offsets x, y, both in strides from the cell's centre.
    """

    def __init__(self, *, widths: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128), neck: int = 64) -> None:
        super().__init__()
        first, second, *rest = widths
        self.stem = nn.Sequential(
            _cbr(3, first, stride=2), _separable(first, second, stride=2), _separable(second, second)
        )
        stages, before = [], second
        for width in rest:
            blocks = [_separable(before, width, stride=2), _separable(width, width), _separable(width, width)]
            stages.append(nn.Sequential(*blocks))
            before = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList(_cbr(width, neck, side=1) for width in rest)
        self.smooth = nn.ModuleList(_separable(neck, neck) for _ in rest)
        self.heads = nn.ModuleList(nn.Sequential(_separable(neck, neck), nn.Conv2d(neck, ANSWERS, 1)) for _ in rest)
        for head in self.heads:
            bias: Tensor = head[1].bias  # type: ignore[index, assignment]
            nn.init.zeros_(bias)
            bias.data[0], bias.data[1:5] = -4.0, 0.6

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.stem((image - 127.5) / 64)
        levels = []
        for stage, lateral in zip(self.stages, self.lateral):
            x = stage(x)
            levels.append(lateral(x))
        for low in (1, 0):
            levels[low] = levels[low] + F.interpolate(levels[low + 1], scale_factor=2.0, mode="nearest")
        return tuple(head(smooth(level)) for head, smooth, level in zip(self.heads, self.smooth, levels))


def centres(height: int, width: int, stride: int) -> Tensor:
    """Returns (height * width, 2) cell centres x, y in pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride


def decode(maps: tuple[Tensor, ...]) -> Tensor:
    """Returns (B, cells, 15) of all strides: logit, box x0, y0, x1, y1, points x, y, in pixels of the input."""
    rows = []
    for answer, stride in zip(maps, STRIDES):
        batch, _, height, width = answer.shape
        flat = answer.float().permute(0, 2, 3, 1).reshape(batch, height * width, ANSWERS)
        at = centres(height, width, stride).to(flat)
        reach = flat[..., 1:5].clamp(max=6.0).exp() * stride
        points = flat[..., 5:] * stride + at.repeat(1, 5)
        rows.append(torch.cat([flat[..., :1], at - reach[..., :2], at + reach[..., 2:], points], -1))
    return torch.cat(rows, 1)


def assign(faces: Tensor, ignored: Tensor, *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Returns for each cell of a picture its face and its weight.

    Args:
        faces: (N, 14) boxes and points to be found.
        ignored: (M, 4) boxes of what may or may not be a face; cells in them have weight 0 unless a face is theirs.
        height: of the picture in pixels.
        width: of the picture in pixels.

    Returns:
        number of the face (cells,), -1 for none (the smallest face wins), and weight (cells,) 0 or 1.
    """
    numbers, weights = [], []
    for stride, (low, high) in zip(STRIDES, SIZES):
        at = centres(height // stride, width // stride, stride).to(faces)
        x, y = at[:, :1], at[:, 1:]
        number = torch.full((len(at),), -1, dtype=torch.long)
        weight = torch.ones(len(at))
        if len(ignored):
            inside = (x > ignored[:, 0]) & (x < ignored[:, 2]) & (y > ignored[:, 1]) & (y < ignored[:, 3])
            weight[inside.any(1)] = 0.0
        if len(faces):
            area = (faces[:, 2:4] - faces[:, :2]).prod(1)
            side = area.sqrt()
            middle = (faces[:, :2] + faces[:, 2:4]) / 2
            radius = (0.3 * side).clamp(min=0.71 * stride, max=CENTRE * stride)
            near = (x - middle[:, 0]).abs().maximum((y - middle[:, 1]).abs()) <= radius
            mine = near & (side >= low) & (side < high)
            costs = torch.where(mine, area, torch.inf)
            least, index = costs.min(1)
            number = torch.where(least.isfinite(), index, number)
            # the centre of a face that another stride learns is no background
            weight[near.any(1)] = 0.0
            weight[number >= 0] = 1.0
        numbers.append(number)
        weights.append(weight)
    return torch.cat(numbers), torch.cat(weights)
