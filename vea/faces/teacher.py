"""YuNet's answers and the features on the way to them, for networks that learn from it (finetune/face_net.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vea.errors import VeaError
from vea.models.face_net import STRIDES, WIDTHS


class YuNetFeatures:
    """Asks YuNet for its features (after each ReLU) and its answers, in the form of ``FaceNet``.

    The file stays as it is: a copy in memory gets the features as further outputs.

    Raises:
        VeaError: the file is no YuNet of the plan that ``FaceNet`` has.
    """

    def __init__(self, weights: Path) -> None:
        import onnx
        import onnxruntime

        graph = onnx.load(str(weights))
        nodes = graph.graph.node
        self.features = [node.output[0] for node in nodes if node.op_type == "Relu"]
        self.answers = [node.input[0] for node in nodes if node.op_type == "Transpose"]  # before any sigmoid
        if len(self.features) != len(WIDTHS) + 1 or len(self.answers) != 4 * len(STRIDES):
            raise VeaError(f"{weights} is no YuNet as it is known here: {len(self.features)} features, "
                           f"{len(self.answers)} answers")  # fmt: skip
        graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in self.features + self.answers)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, image: np.ndarray, *, features: bool = True) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Asks about one RGB picture (S, S, 3) uint8: features (1, C, H, W), and three maps (1, 16, H, W)."""
        bgr = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
        names = [*(self.features if features else []), *self.answers]
        given = [torch.from_numpy(value) for value in self.session.run(names, {"input": bgr})]
        answers = given[-len(self.answers) :]  # class, box, object, points, each at all strides; the score's come first
        parts: dict[int, list[Tensor]] = {part.shape[1]: [] for part in answers}
        for part in answers:
            parts[part.shape[1]].append(part)
        strides = len(STRIDES)
        maps = tuple(torch.cat([parts[1][i], parts[1][i + strides], parts[4][i], parts[10][i]], 1)
                     for i in range(strides))  # fmt: skip
        return given[: -len(self.answers)], maps
