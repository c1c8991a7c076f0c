"""Export of the network that finds faces to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import vea
from vea.errors import VeaError
from vea.faces.net import CELL, network_of
from vea.models.face_net import decode
from vea.publish.verify import _compare
from vea.storage import atomic


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
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise VeaError(f"--to onnx needs the package {error.name}: pip install 'vea[export]'") from None
    network = _Cells(network_of(weights)).eval()
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 2 * CELL, 3 * CELL), (1, 3, 5 * CELL, 4 * CELL)]
    given = [torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for shape in shapes]
    height, width = torch.export.Dim("rows", min=1, max=400), torch.export.Dim("columns", min=1, max=400)
    program = torch.onnx.export(
        network,
        (given[0],),
        input_names=["images"],
        output_names=["scores", "places"],
        dynamic_shapes=({0: torch.export.Dim("batch"), 2: CELL * height, 3: CELL * width},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"vea": vea.__version__, "name": "faces", "input": "RGB, uint8 0..255"})
    with atomic.new_file(out, replace=False) as temporary, torch.inference_mode():
        onnx.save(proto, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        theirs, ours = [], []
        for images in given:
            ran, expected = session.run(["scores", "places"], {"images": images.numpy()}), network(images)
            theirs.append([ran[0].ravel(), ran[1].ravel() / 100])
            ours.append([expected[0].flatten(), expected[1].flatten() / 100])
        names = ("scores", "places")
        return _compare(
            {name: torch.from_numpy(np.concatenate(parts)) for name, parts in zip(names, zip(*theirs))},
            {name: torch.cat(parts) for name, parts in zip(names, zip(*ours))},
            what=f"{out}",
        )
