"""Export of the network that finds faces to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vea.faces.net import CELL, network_of
from vea.models.face_net import decode
from vea.publish.onnx import write_onnx
from vea.publish.verify import _compare


class _Cells(nn.Module):
    """What the file computes: every cell's score, box and points."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scores (B, cells) 0..1 and places (B, cells, 14) in pixels."""
        rows = decode(self.network(images.float()))
        return rows[..., 0].sigmoid(), rows[..., 1:]


def export_face_net(weights: Path, out: Path, *, opset: int = 20) -> dict[str, float]:
    """Returns {output: largest difference to torch}; writes one ``.onnx`` file.

    Its input ``images`` is (batch, 3, H, W) uint8 RGB, H and W multiples of 32; ``scores`` is (batch, cells) 0..1,
    ``places`` (batch, cells, 14): box x0, y0, x1, y1 and five points in pixels. What overlaps is not removed.
    The difference of places is in units of 100 pixels.

    Raises:
        VeaError: ``out`` exists, or onnx, onnxscript or onnxruntime is not installed.
        RunError: an output differs by more than ``TOLERANCE``; no file is left.
    """
    network = _Cells(network_of(weights)).eval()
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 2 * CELL, 3 * CELL), (1, 3, 5 * CELL, 4 * CELL)]
    given = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in shapes]
    height, width = torch.export.Dim("rows", min=1, max=400), torch.export.Dim("columns", min=1, max=400)
    names = ["scores", "places"]

    def check(ran: list[list[np.ndarray]]) -> dict[str, float]:
        theirs = [[scores.ravel(), places.ravel() / 100] for scores, places in ran]
        ours = [[scores.flatten(), places.flatten() / 100] for scores, places in map(network, given)]
        return _compare(
            {name: torch.from_numpy(np.concatenate(parts)) for name, parts in zip(names, zip(*theirs))},
            {name: torch.cat(parts) for name, parts in zip(names, zip(*ours))},
            what=f"{out}",
        )

    sizes = {0: torch.export.Dim("batch"), 2: CELL * height, 3: CELL * width}
    return write_onnx(network, given, out, example=given[0], names=names, sizes=sizes, opset=opset,
                      texts={"name": "faces", "input": "RGB, uint8 0..255"}, check=check)  # fmt: skip
