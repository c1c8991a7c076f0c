"""Export to ONNX."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import vea
from vea.errors import VeaError
from vea.inference.readings import Readings
from vea.publish.verify import _compare, outputs
from vea.storage import atomic
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import SavedModel, preprocessing


class _Recogniser(nn.Module):
    """What the ONNX file computes: pixels in; probabilities and logits of every target, and its readings, out."""

    def __init__(self, task: RecogniseTask, readings: Readings, *, unit: bool) -> None:
        super().__init__()
        self.task, self.readings, self.unit = task, readings, unit

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs in the order of ``outputs``."""
        found = self.task.features(self.task.normalise(images * 255 if self.unit else images))
        logits = self.task.heads(found)
        answers = self.task.answers(logits)
        return (*answers.values(), *logits.values(), *self.readings(found, answers).values())


def export_onnx(
    model: SavedModel, out: Path, *, images: Tensor, input_type: str = "uint8", opset: int = 20
) -> dict[str, float]:
    """Returns {output: largest difference to torch}; writes one ``.onnx`` file.

    Its input ``images`` is (batch, 3, S, S) RGB, uint8 0..255 or (``input_type="float"``) float32 0..1; grey
    conversion and normalisation are inside. Each target has an output of its name (probabilities, or a value on the
    raters' scale) and ``logits_TARGET``; then come ``units``, ``intensity`` and ``affect``, where the model has them
    (``vea.inference.readings``), whose columns the metadata ``readings`` names. Metadata: ``vea`` (version), ``name``,
    ``recipe``, and as JSON ``classes``, ``kinds``, ``ranges``, ``preprocessing``.

    Raises:
        VeaError: ``out`` exists, or onnx, onnxscript or onnxruntime is not installed.
        RunError: an output differs by more than ``TOLERANCE``; no file is left.
    """
    given = images if input_type == "uint8" else images.float() / 255
    readings = Readings.of(model)
    expected = outputs(model.task, images, readings)
    network = _Recogniser(copy.deepcopy(model.task), readings, unit=input_type == "float").eval()
    described = model.task.metadata()
    texts = {"name": model.name, "recipe": model.task.config.recipe,
             "input": f"images: (batch, 3, S, S) RGB, {'uint8 0..255' if input_type == 'uint8' else 'float32 0..1'}",
             "preprocessing": json.dumps(preprocessing(model))}  # fmt: skip
    texts["readings"] = json.dumps(readings.names)
    texts |= {name: json.dumps(described[name], ensure_ascii=False) for name in ("classes", "kinds", "ranges")}
    batches = [batch for batch in (given[:1], given[1:]) if len(batch)]  # two sizes find a batch that became a constant

    def check(ran: list[list[np.ndarray]]) -> dict[str, float]:
        theirs = {name: torch.from_numpy(np.concatenate(rows)) for name, rows in zip(expected, zip(*ran))}
        return _compare(theirs, expected, what=f"{out}")

    # example batch of 2: torch.export would take a batch of 1 for a constant
    return write_onnx(network, batches, out, example=given[:1].repeat(2, 1, 1, 1), names=list(expected),
                      sizes={0: torch.export.Dim("batch")}, opset=opset, texts=texts, check=check)  # fmt: skip


def write_onnx(network: nn.Module, batches: list[Tensor], out: Path, *, example: Tensor, names: list[str],
               sizes: dict[int, Any], opset: int, texts: dict[str, str],
               check: Callable[[list[list[np.ndarray]]], dict[str, float]]) -> dict[str, float]:  # fmt: skip
    """Writes ``network`` with input ``images`` and outputs ``names``, and returns what ``check`` says of it.

    Args:
        network: takes (batch, 3, H, W) images, gives the outputs as a tuple.
        batches: what the written file is run on, one after the other; their answers go to ``check``.
        out: must not exist.
        example: a batch to trace with.
        names: of the outputs.
        sizes: {axis: dimension} of the axes that may change.
        opset: of ONNX.
        texts: metadata.
        check: raises where an answer is wrong; then no file is left.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise VeaError(f"--to onnx needs the package {error.name}: pip install 'vea[export]'") from None
    program = torch.onnx.export(network, (example,), input_names=["images"], output_names=names,
                                dynamic_shapes=(sizes,), opset_version=opset, dynamo=True, verbose=False)  # fmt: skip
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"vea": vea.__version__, **texts})
    with atomic.new_file(out, replace=False) as temporary, torch.inference_mode():
        onnx.save(proto, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        return check([session.run(names, {"images": batch.numpy()}) for batch in batches])
