"""Recognise expressions in pictures: ``load()`` a model, ``predict`` on anything that holds an image.

from vea.predict import load
result, = load().predict("photo.jpg")
print(result.expression, [(face.box, face.expression) for face in result.faces])
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from vea.config import ExpressionConfig
from vea.data.sample import LabelField
from vea.errors import VeaError
from vea.tasks.expression import ExpressionTask
from vea.training.checkpoint import find_weights, load_weights

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"
Box: TypeAlias = tuple[int, int, int, int]

ASSETS = Path(__file__).parent / "assets"
DETECTION_SIDE = (320, 960)  # faces are missed in smaller pictures; larger ones are slow and no better
CROP_SCALE = 1.0  # side of the crop over the longer side of the face box; FER2013: 1.005 (median of 296 faces)


@dataclass(frozen=True)
class Face:
    """One face: box (x0, y0, x1, y1) in pixels of the picture as displayed, expression, the detector's score."""

    box: Box
    expression: str
    probabilities: dict[str, float]
    score: float


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture; ``expression`` is the largest face's, or None where no face was found."""

    expression: str | None
    probabilities: dict[str, float] = field(default_factory=dict)
    faces: list[Face] = field(default_factory=list)


# --------------------------------------------------------------------------------------------------------------- images


def read_image(image: ImageLike) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3) of a path, encoded bytes, a PIL image or an array (H, W), (H, W, 1), (H, W, 3 RGB).

    Raises:
        VeaError: the file cannot be read, or the array has another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
            raise VeaError(f"an image array is uint8 (H, W, 3) in RGB order or (H, W); got {image.dtype} {image.shape}")
        if image.size == 0:
            raise VeaError(f"the image array is empty: {image.shape}")
        grey = image[..., None] if image.ndim == 2 else image
        return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    name = "the image bytes" if isinstance(image, bytes) else os.fspath(image)
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return _from_pil(opened)
    except FileNotFoundError:
        raise VeaError(f"no file {name}") from None
    except UnidentifiedImageError:
        raise VeaError(f"{name}: not an image in a format that PIL reads") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # PIL raises all of them
        raise VeaError(f"{name}: cannot be read as an image ({error})") from None


def _from_pil(image: Image.Image) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))


def crop_square(image: np.ndarray, box: Box, *, size: int, scale: float = CROP_SCALE) -> np.ndarray:
    """Returns (size, size, 3): the square around a box; beyond the border the picture's edge is repeated."""
    x0, y0, x1, y1 = box
    side = max(1, round(max(x1 - x0, y1 - y0) * scale))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    height, width = image.shape[:2]
    rows = np.clip(np.arange(top, top + side), 0, height - 1)
    columns = np.clip(np.arange(left, left + side), 0, width - 1)
    crop = image[rows[:, None], columns]
    shrink = side > size
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)


def face_detector(*, min_score: float = 0.6) -> Callable[[np.ndarray], list[tuple[Box, float]]]:
    """Returns a function from RGB uint8 (H, W, 3) to [(box, score)], largest face first (libfacedetection, by yuface).

    Raises:
        VeaError: the extra is not installed.
    """
    try:
        import yuface
    except ImportError:
        raise VeaError(
            "finding faces needs the package yuface: pip install 'vea[faces]', or pass face crops with "
            "detect_faces=False (--no-faces)"
        ) from None

    def detect(image: np.ndarray) -> list[tuple[Box, float]]:
        height, width = image.shape[:2]
        longest = max(height, width)
        factor = min(max(longest, DETECTION_SIDE[0]), DETECTION_SIDE[1]) / longest
        if factor != 1:
            small = max(1, round(width * factor)), max(1, round(height * factor))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        scores, boxes, _ = yuface.detect(np.ascontiguousarray(image[:, :, ::-1]), conf=min_score)
        found = []
        for score, (x, y, w, h) in zip(scores.tolist(), boxes.tolist(), strict=True):
            corners = [round(value / factor) for value in (x, y, x + w, y + h)]
            box = (max(0, corners[0]), max(0, corners[1]), min(width, corners[2]), min(height, corners[3]))
            if box[2] > box[0] and box[3] > box[1]:
                found.append((box, score / 100))
        return sorted(found, key=lambda face: (face[0][2] - face[0][0]) * (face[0][3] - face[0][1]), reverse=True)

    return detect


# ------------------------------------------------------------------------------------------------------------ predictor


class Predictor:
    """An expression model with its class names; made by ``load``."""

    def __init__(self, task: ExpressionTask, *, target: str, device: torch.device, description: str = "") -> None:
        self.task = task.to(device).eval()
        self.target = target
        self.classes = task.fields[target].classes
        self.device = device
        self.description = description
        self.image_size = task.config.augment.image_size
        self._detect: Callable[[np.ndarray], list[tuple[Box, float]]] | None = None

    @torch.inference_mode()
    def probabilities(self, crops: Sequence[np.ndarray], *, batch_size: int = 64) -> np.ndarray:
        """Returns (N, C) class probabilities of square RGB crops of the model's image size."""
        rows = [np.zeros((0, len(self.classes)), dtype=np.float32)]
        for start in range(0, len(crops), batch_size):
            stacked = torch.from_numpy(np.stack(crops[start : start + batch_size])).permute(0, 3, 1, 2)
            logits = self.task.predict({"image": stacked.to(self.device)})[self.target]
            rows.append(logits.softmax(1).cpu().numpy())
        return np.concatenate(rows)

    def predict(self, images: ImageLike | Iterable[ImageLike], *, detect_faces: bool = True) -> list[Prediction]:
        """Returns one ``Prediction`` per image.

        Args:
            images: one image or several: path, encoded bytes, PIL image, or numpy RGB uint8 (H, W, 3).
            detect_faces: True finds the faces and classifies each; a picture without one gets no expression. False
                takes each image as one face crop.

        Raises:
            VeaError: an image cannot be read, or the face detector is not installed.
        """
        single = isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray))
        several = cast("Iterable[ImageLike]", [images] if single else images)
        arrays = [read_image(image) for image in several]
        if not detect_faces:
            whole: list[Box] = [(0, 0, array.shape[1], array.shape[0]) for array in arrays]
            crops = [crop_square(array, box, size=self.image_size) for array, box in zip(arrays, whole)]
            return [Prediction(*self._named(row)) for row in self.probabilities(crops)]

        if self._detect is None:
            self._detect = face_detector()
        found = [self._detect(array) for array in arrays]
        pairs = [(array, box) for array, faces in zip(arrays, found) for box, _ in faces]
        crops = [crop_square(array, box, size=self.image_size) for array, box in pairs]
        rows = iter(self.probabilities(crops))
        results = []
        for faces in found:
            named = [Face(box, *self._named(next(rows)), score) for box, score in faces]
            largest = named[0] if named else None
            results.append(
                Prediction(largest.expression, largest.probabilities, named) if largest else Prediction(None)
            )
        return results

    def _named(self, row: np.ndarray) -> tuple[str, dict[str, float]]:
        return self.classes[int(row.argmax())], {name: float(value) for name, value in zip(self.classes, row)}


def load(
    name_or_dir: str | os.PathLike[str] = "expression", *, target: str | None = None, device: str = "cpu"
) -> Predictor:
    """Returns the predictor of the model that ships with vea (``"expression"``) or of a fine-tuned run folder.

    Args:
        name_or_dir: ``"expression"``, a run folder of ``finetune/expression.py``, or a folder with model.safetensors.
        target: which label to predict; by default the first of kind class in the run's ``targets``.
        device: where to compute, e.g. ``"cuda"``.

    Raises:
        VeaError: there are no such weights, or they are no expression model.
    """
    shipped = {path.parent.name: path.parent for path in ASSETS.glob("*/model.safetensors")}
    name = os.fspath(name_or_dir)
    folder = shipped.get(name, Path(name))
    if not folder.exists():
        if name == "expression":
            raise VeaError(
                "this installation carries no expression model (vea/assets/expression is not there); train one with "
                "finetune/expression.py configs/finetune/expression_ship.yaml and give its run folder"
            )
        raise VeaError(f"no model at {name}; give 'expression' or the run folder of finetune/expression.py")
    weights, state = load_weights(find_weights(folder))
    if state.get("recipe") != "expression" or "classes" not in state.get("task", {}):
        raise VeaError(f"{folder} is no expression model (its state.json says recipe {state.get('recipe')!r})")
    return Predictor(
        _rebuild(weights, state),
        target=_choose_target(state["task"], target),
        device=torch.device(device),
        description=f"{state['config'].get('name', folder.name)}, step {state.get('step', '?')}",
    )


def _rebuild(weights: dict[str, torch.Tensor], state: dict[str, Any]) -> ExpressionTask:
    """Returns the task of a checkpoint from what the checkpoint says about itself."""
    described = state["task"]
    fields = {
        name: LabelField(described["kinds"][name], tuple(classes)) for name, classes in described["classes"].items()
    }
    config = ExpressionConfig.model_validate(state["config"])
    config.model.encoder.pretrained = None  # where the weights came from once; they are all in the checkpoint
    task = ExpressionTask(config, fields=fields)
    task.load_state_dict(weights)
    return task


def _choose_target(described: dict[str, Any], target: str | None) -> str:
    kinds = described["kinds"]
    if target is None:
        return next((name for name, kind in kinds.items() if kind == "class"), next(iter(kinds)))
    if target not in kinds:
        raise VeaError(f"the model has no label {target!r}; it has {', '.join(kinds)}")
    return target
