"""Export to ONNX."""

from __future__ import annotations

import copy
import json
from pathlib import Path

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
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ImportError as error:
        raise VeaError(f"--to onnx needs the package {error.name}: pip install 'vea[export]'") from None
    given = images if input_type == "uint8" else images.float() / 255
    readings = Readings.of(model)
    expected = outputs(model.task, images, readings)
    network = _Recogniser(copy.deepcopy(model.task), readings, unit=input_type == "float").eval()
    # example batch of 2: torch.export would take a batch of 1 for a constant
    program = torch.onnx.export(
        network,
        (given[:1].repeat(2, 1, 1, 1),),
        input_names=["images"],
        output_names=list(expected),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    described = model.task.metadata()
    texts = {"vea": vea.__version__, "name": model.name, "recipe": model.task.config.recipe,
             "input": f"images: (batch, 3, S, S) RGB, {'uint8 0..255' if input_type == 'uint8' else 'float32 0..1'}",
             "preprocessing": json.dumps(preprocessing(model))}  # fmt: skip
    texts["readings"] = json.dumps(readings.names)
    texts |= {name: json.dumps(described[name], ensure_ascii=False) for name in ("classes", "kinds", "ranges")}
    onnx.helper.set_model_props(proto, texts)
    with atomic.new_file(out, replace=False) as temporary:
        onnx.save(proto, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        batches = given[:1], given[1:]  # two sizes, so that a batch that became a constant is found
        ran = [session.run(list(expected), {"images": batch.numpy()}) for batch in batches if len(batch)]
        theirs = {name: torch.from_numpy(np.concatenate(rows)) for name, rows in zip(expected, zip(*ran))}
        return _compare(theirs, expected, what=f"{out}")
