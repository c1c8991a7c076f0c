"""A small network that finds faces: box, score and five points a cell, at strides 8, 16 and 32.

The plan is YuNet's (Wu et al., Machine Intelligence Research 2023): units of a 1x1 and a depthwise 3x3 convolution, a
top-down pyramid, no anchors; 53,000 parameters. Its weights are not YuNet's: finetune/face_net.py trains them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
ANSWERS = 16  # of a cell: two logits (is a face, how well the box fits), centre and logarithm of the size, five points
WIDTHS = ((16, 16), (16, 16), (16, 32), (32, 32), (32, 64), *[(64, 64)] * 9)  # channels into and out of each unit
HALVED = (2, 6, 8, 10)  # features made of the one before it, halved (feature 0 is the stem's, 1 the first unit's)
JOINED = {13: 9, 14: 7}  # features of the pyramid, made of the one before it, doubled, and this one
ENDS = (14, 13, 12)  # features that the heads of STRIDES read
SIZES = ((0.0, 40.0), (28.0, 110.0), (76.0, 1e6))  # side of the faces (root of the area, pixels) that a stride learns
CENTRE = 1.5  # a cell learns a face whose centre is nearer than so many strides, or .3 of the face if that is less


class Unit(nn.Module):
    """A 1x1 convolution, then a depthwise 3x3 one: (B, inputs, H, W) to (B, outputs, H, W), before any ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(inputs, outputs, 1)
        self.depth = nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.depth(self.point(x))


class FaceNet(nn.Module):
    """The network. ``forward`` takes RGB 0..255 (B, 3, H, W), H and W multiples of 32.

    Returns three tensors (B, 16, H / stride, W / stride): two logits, the box's centre from the cell's corner and the
    logarithm of its size, the points x, y from the cell's corner; all lengths in strides.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0][0], 3, 2, 1)
        self.units = nn.ModuleList(Unit(inputs, outputs) for inputs, outputs in WIDTHS)
        self.heads = nn.ModuleList(Unit(WIDTHS[-1][1], ANSWERS) for _ in STRIDES)
        for head in self.heads:
            nn.init.constant_(head.depth.bias[:2], -3.0)  # type: ignore[union-attr, index, arg-type]

    @staticmethod
    def scaled(image: Tensor) -> Tensor:
        """Returns what the stem reads of pictures 0..255."""
        return image / 64

    @staticmethod
    def entering(number: int, features: list[Tensor]) -> Tensor:
        """Returns what makes feature ``number`` (1 to 14) out of those before it."""
        before = features[number - 1]
        if number in HALVED:
            return F.max_pool2d(before, 2)
        if number in JOINED:
            return features[JOINED[number]] + F.interpolate(before, scale_factor=2.0, mode="nearest")
        return before

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = [F.relu(self.stem(self.scaled(image)))]
        for number, unit in enumerate(self.units, start=1):
            features.append(F.relu(unit(self.entering(number, features))))
        return tuple(head(features[end]) for head, end in zip(self.heads, ENDS))


def centres(height: int, width: int, stride: int) -> Tensor:
    """Returns (height * width, 2) cell centres x, y in pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride


def score_logit(answer: Tensor) -> Tensor:
    """Returns the logit of the score, the root of the product of both shares: (..., 2) to (...)."""
    logarithm = F.logsigmoid(answer).mean(-1)
    return logarithm - torch.log(-torch.expm1(logarithm.clamp(max=-1e-6)))


def decode(maps: tuple[Tensor, ...]) -> Tensor:
    """Returns (B, cells, 15) of all strides: logit, box x0, y0, x1, y1, points x, y, in pixels of the input."""
    rows = []
    for answer, stride in zip(maps, STRIDES):
        batch, _, height, width = answer.shape
        flat = answer.float().permute(0, 2, 3, 1).reshape(batch, height * width, ANSWERS)
        corner = centres(height, width, stride).to(flat) - stride / 2
        middle, half = flat[..., 2:4] * stride + corner, flat[..., 4:6].clamp(max=6.0).exp() * (stride / 2)
        points = flat[..., 6:] * stride + corner.repeat(1, 5)
        rows.append(torch.cat([score_logit(flat[..., :2])[..., None], middle - half, middle + half, points], -1))
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
