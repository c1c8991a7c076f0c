"""Boxes of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vea.enrich.run import Pass
from vea.errors import VeaError

COCO_PERSON = 1  # torchvision counts the background as class 0
NMS_OVERLAP = 0.6  # ONNX: boxes that overlap more are one person
MAX_SIDE = 1333  # torchvision's detectors reduce pictures to it at the latest


class Detection(Pass):
    """What detectors share: the form of a row, and which person is the most prominent."""

    def empty(self) -> dict[str, Any]:
        return {"boxes": [], "scores": []}

    @staticmethod
    def row(boxes: np.ndarray, scores: np.ndarray, *, width: int, height: int, min_score: float) -> dict[str, Any]:
        """Returns the row of boxes (N, 4) clipped to the image: largest area times score first."""
        boxes = boxes.astype(np.float64).clip(0, [width, height, width, height])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        kept = [int(i) for i in np.argsort(-area * scores, kind="stable") if scores[i] >= min_score and area[i] > 0]
        return {
            "boxes": [[round(value, 1) for value in boxes[i].tolist()] for i in kept],
            "scores": [round(float(scores[i]), 4) for i in kept],
        }


def _identity(weights: Path) -> dict[str, Any]:
    from vea.storage.identity import file_sha256

    if not weights.is_file():
        raise VeaError(f"no weights file at {weights}; give one by --weights")
    return {"file": weights.name, "sha256": file_sha256(weights)}


class TorchvisionPersons(Detection):
    """Persons by a torchvision detector with COCO weights from a local file, or from the cache of torch.hub.

    Args:
        weights: a state_dict; None looks for the file that torchvision itself would have downloaded.
        model: name of the architecture; by default the one that the file's name begins with, as torchvision's do.
        min_score: boxes below it are left out.
        device: where to compute.

    Raises:
        VeaError: no such file or architecture, or weights that do not fit it.
    """

    name, batch_size = "persons", 4

    def __init__(
        self, weights: Path | None, *, model: str | None = None, min_score: float = 0.5, device: str = "cpu"
    ) -> None:
        import torch
        from torchvision.models import detection, get_model, list_models

        names = [name for name in list_models(module=detection) if "keypoint" not in name and "mask" not in name]
        if model is None and weights is not None:
            model = max((name for name in names if weights.name.startswith(name)), key=len, default=None)
        if model is None or model not in names:
            said = (
                f"--model {model}" if model else "which detector the weights are of is not in the file's name; --model"
            )
            raise VeaError(f"{said}: give one of {', '.join(names)}")
        path = weights or self._cached(model)
        self.model = _identity(path)
        self.options = {"backend": "torchvision", "model": model, "min_score": min_score}
        self.min_score, self.device = min_score, device
        network = get_model(model, weights=None, weights_backbone=None, num_classes=91)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # what torch raises on other files and on other weights
            reason = " ".join(str(error).split())[:200]
            raise VeaError(
                f"{path} does not hold COCO weights of {model} ({reason}); give others by --weights"
            ) from None
        self.network = network.eval().requires_grad_(False).to(device)

    @staticmethod
    def _cached(model: str) -> Path:
        import torch
        from torchvision.models import get_model_weights

        url: str = next(iter(get_model_weights(model))).url  # type: ignore[attr-defined]
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not path.is_file():
            raise VeaError(f"{path} is not there: download {url} yourself and give it by --weights")
        return path

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> tuple[np.ndarray, float, int, int]:
        assert image is not None
        height, width = image.shape[:2]
        factor = min(1.0, MAX_SIDE / max(height, width))
        if factor < 1:  # a batch of large pictures as floats would not fit
            small = max(1, round(width * factor)), max(1, round(height * factor))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        return image, factor, width, height

    def rows(self, prepared: list[tuple[np.ndarray, float, int, int]]) -> list[dict[str, Any]]:
        import torch

        images = [torch.from_numpy(image).permute(2, 0, 1).to(self.device).float() / 255 for image, *_ in prepared]
        with torch.inference_mode():
            found = self.network(images)
        rows = []
        for boxes, (_, factor, width, height) in zip(found, prepared):
            people = boxes["labels"] == COCO_PERSON
            corners, scores = boxes["boxes"][people].cpu().numpy() / factor, boxes["scores"][people].cpu().numpy()
            rows.append(self.row(corners, scores, width=width, height=height, min_score=self.min_score))
        return rows


class OnnxPersons(Detection):
    """Persons by an ONNX detector of fixed input size: (1, H, W, 3) or (1, 3, H, W), RGB 0..255, float32 or uint8.

    Its output is (1, N, 6): x0, y0, x1, y1 in pixels of the input, score, class. The picture keeps its aspect and is
    padded below or to the right: on the 159 pictures of coco_mini a MobileNetV3-CenterNet then finds 49 % of the
    people at 76 % precision (score 0.3), stretched to the square 41 % at 74 %.

    Raises:
        VeaError: onnxruntime is not installed, or the file is no such detector.
    """

    name = "persons"

    def __init__(self, weights: Path, *, person: int = 0, min_score: float = 0.3, threads: int | None = None) -> None:
        self.model = _identity(weights)
        self.options = {"backend": "onnx", "class": person, "min_score": min_score}
        self.person, self.min_score = person, min_score
        try:
            import onnxruntime
        except ImportError:
            raise VeaError("the onnx backend needs the package onnxruntime: pip install 'vea[faces]'") from None
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads or 0
        settings.log_severity_level = 3
        try:
            providers = onnxruntime.get_available_providers()
            self.session = onnxruntime.InferenceSession(str(weights), settings, providers=providers)
        except Exception as error:  # onnxruntime's own kinds
            reason = " ".join(str(error).split())[:200]
            raise VeaError(f"{weights} is not an ONNX file that onnxruntime runs ({reason})") from None
        (first, *others), (out, *_) = self.session.get_inputs(), self.session.get_outputs()
        shape = list(first.shape)
        self.channels_last = len(shape) == 4 and shape[3] == 3
        sides = shape[1:3] if self.channels_last else shape[2:]
        fits = len(shape) == 4 and 3 in (shape[1], shape[3]) and all(isinstance(side, int) for side in sides)
        if others or not fits or list(out.shape)[-1:] != [6]:
            raise VeaError(
                f"{weights} takes {shape} and gives {out.shape}; a detector with one picture of fixed size as input "
                "and (1, N, 6) boxes as output is needed"
            )
        self.input, self.output = first.name, out.name
        self.height, self.width = sides
        self.dtype = np.uint8 if first.type == "tensor(uint8)" else np.float32

    def prepare(self, image: np.ndarray | None, metadata: dict[str, Any]) -> tuple[np.ndarray, float, int, int]:
        assert image is not None
        height, width = image.shape[:2]
        factor = min(self.height / height, self.width / width)
        small = max(1, round(width * factor)), max(1, round(height * factor))
        padded = np.zeros((self.height, self.width, 3), dtype=np.uint8)
        method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        padded[: small[1], : small[0]] = cv2.resize(image, small, interpolation=method)
        return padded if self.channels_last else padded.transpose(2, 0, 1), factor, width, height

    def rows(self, prepared: list[tuple[np.ndarray, float, int, int]]) -> list[dict[str, Any]]:
        import torch
        from torchvision.ops import nms

        rows = []
        for picture, factor, width, height in prepared:
            (found,) = self.session.run([self.output], {self.input: picture[None].astype(self.dtype)})[0]
            people = found[(found[:, 5] == self.person) & (found[:, 4] >= self.min_score)]
            boxes, scores = torch.from_numpy(people[:, :4].copy()), torch.from_numpy(people[:, 4].copy())
            kept = nms(boxes, scores, NMS_OVERLAP).numpy()
            corners = people[kept, :4] / factor
            rows.append(self.row(corners, people[kept, 4], width=width, height=height, min_score=self.min_score))
        return rows
