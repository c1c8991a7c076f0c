"""Recognise expressions, emotion and attributes: ``load()`` a model, ``predict`` on anything that holds an image.

from vea.predict import load
result, = load().predict("photo.jpg")
print(result.expression, [(face.box, face.expression) for face in result.faces])
result, = load("runs/emotion-oasis").predict("photo.jpg")       # a model of whole pictures: no search for faces
print(result.emotion, result.values, result.attributes)
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from vea.data.faces import Box, face_detector
from vea.data.sample import MAX_PIXELS, MAX_SIDE
from vea.data.transforms import Views
from vea.errors import VeaError
from vea.hub import main_target, open_model
from vea.tasks.expression import ExpressionTask

ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray"

CROP_SCALE = 1.0  # side of the crop over the longer side of the face box; FER2013: 1.005 (median of 296 faces)


@dataclass(frozen=True)
class Attribute:
    """One label: the class name, the names of a label set (0.5 and above), or a number on the raters' scale."""

    value: str | list[str] | float
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Face:
    """One face: box (x0, y0, x1, y1) in pixels of the picture as displayed, expression, the detector's score.

    ``attributes`` holds every label of the model by name; where the model was not trained on expressions, the
    expression is that of its main label.
    """

    box: Box
    expression: str
    probabilities: dict[str, float]
    score: float
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The labels that are numbers, e.g. valence and arousal."""
        return _numbers(self.attributes)


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    Models of faces: ``expression`` is the largest face's, or None where no face was found. Models of whole pictures:
    ``emotion`` is their main label's class, None where it has none, and there are no faces. ``probabilities`` are those
    of the one or the other; ``attributes`` holds every label of the model by name.
    """

    expression: str | None
    probabilities: dict[str, float] = field(default_factory=dict)
    faces: list[Face] = field(default_factory=list)
    emotion: str | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The labels that are numbers, on the raters' scale."""
        return _numbers(self.attributes)

    @property
    def valence(self) -> float | None:
        """How pleasant, on the raters' scale; None where the model has no such label."""
        return self.values.get("valence")

    @property
    def arousal(self) -> float | None:
        """How exciting, on the raters' scale; None where the model has no such label."""
        return self.values.get("arousal")


def _numbers(attributes: dict[str, Attribute]) -> dict[str, float]:
    return {name: found.value for name, found in attributes.items() if isinstance(found.value, float)}


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
            if max(opened.size) >= MAX_SIDE or opened.width * opened.height > MAX_PIXELS:  # as the loaders
                raise ValueError(f"{opened.width} x {opened.height} pixels are refused before decoding")
            return _from_pil(opened)
    except FileNotFoundError:
        raise VeaError(f"no file {name}") from None
    except UnidentifiedImageError:
        raise VeaError(f"{name}: not an image in a format that PIL reads") from None
    except Exception as error:  # Pillow's decoders raise many types, and one file must not end a batch of thousands
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VeaError(f"{name}: cannot be read as an image ({reason})") from None


def _from_pil(image: Image.Image) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, struct.error):  # broken EXIF: the picture may be whole
        upright = image
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


# ------------------------------------------------------------------------------------------------------------ predictor


def batch_sizes(number: int, *, largest: int) -> list[int]:
    """Returns sizes that sum to ``number``: the largest, as often as it fits, then falling powers of two.

    Faces come in any number, and torch keeps what it prepared for each batch size it has met (the shipped model:
    0.7 MB a size, 42 MB for all up to 64). Of these sizes there are few; nothing is padded.
    """
    rest = number % largest
    return [largest] * (number // largest) + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]


class Predictor:
    """A recogniser with its class names; made by ``load``.

    ``target`` is the label whose class is the ``expression`` or ``emotion``, ``classes`` are its names (none for a
    number). ``reads_faces`` is False for models of whole pictures, which never search for faces.
    """

    def __init__(
        self,
        task: ExpressionTask,
        *,
        target: str,
        device: torch.device,
        description: str = "",
        reads_faces: bool | None = None,
    ) -> None:
        self.task = task.to(device).eval()
        self.target = target
        self.fields = task.fields
        self.classes = task.fields[target].classes
        self.device = device
        self.description = description
        self.image_size = task.config.augment.image_size
        self.reads_faces = task.config.recipe == "expression" if reads_faces is None else reads_faces
        self._view = Views(task.config.augment, seed=0, channels=task.config.model.channels, train=False)
        self._detect: Callable[[np.ndarray], list[tuple[Box, float]]] | None = None

    @torch.inference_mode()
    def outputs(self, crops: Sequence[np.ndarray], *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """Returns {label: probabilities (N, C), or values (N,)} of crops (S, S, 3 or 1) of the model's image size."""
        parts: dict[str, list[np.ndarray]] = {
            name: [np.zeros((0, len(label.classes)) if label.classes else 0, np.float32)]
            for name, label in self.fields.items()
        }
        start = 0
        for size in batch_sizes(len(crops), largest=batch_size):
            stacked = torch.from_numpy(np.stack(crops[start : start + size])).permute(0, 3, 1, 2)
            start += size
            answers = self.task.answers(self.task.predict({"image": stacked.to(self.device)}))
            for name, value in answers.items():
                parts[name].append(value.float().cpu().numpy())
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def probabilities(self, crops: Sequence[np.ndarray], *, batch_size: int = 64) -> np.ndarray:
        """Returns (N, C) class probabilities of square RGB crops of the model's image size; (N,) of a number."""
        return self.outputs(crops, batch_size=batch_size)[self.target]

    def predict(self, images: ImageLike | Iterable[ImageLike], *, detect_faces: bool = True) -> list[Prediction]:
        """Returns one ``Prediction`` per image.

        Args:
            images: one image or several: path, encoded bytes, PIL image, or numpy RGB uint8 (H, W, 3).
            detect_faces: True finds the faces and classifies each; a picture without one gets no expression. False
                takes each image as one face crop. Models of whole pictures look at the picture either way.

        Raises:
            VeaError: an image cannot be read, or the face detector is not installed.
        """
        single = isinstance(images, (str, bytes, os.PathLike, Image.Image, np.ndarray))
        several = cast("Iterable[ImageLike]", [images] if single else images)
        results = []
        for result in self.stream(several, detect_faces=detect_faces):
            if isinstance(result, VeaError):
                raise result
            results.append(result)
        return results

    def stream(
        self, images: Iterable[ImageLike], *, detect_faces: bool = True, batch_size: int = 32
    ) -> Iterator[Prediction | VeaError]:
        """Yields, in order, a ``Prediction`` per image, or the ``VeaError`` that says why it cannot be read.

        One image is decoded at a time and only its crops are kept, until ``batch_size`` images or crops are classified
        together: memory does not grow with the number of images.

        Raises:
            VeaError: the face detector is not installed.
        """
        waiting: list[list[tuple[Box, float]] | VeaError | None] = []  # None: the image as a whole
        crops: list[np.ndarray] = []
        for image in images:
            try:
                array = read_image(image)
            except VeaError as error:
                waiting.append(error)
            else:
                faces = self._faces(array) if detect_faces and self.reads_faces else None
                boxes = [(0, 0, array.shape[1], array.shape[0])] if faces is None else [box for box, _ in faces]
                crops += [self._crop(array, box) for box in boxes]
                waiting.append(faces)
                del array  # not kept while the caller works on what is yielded
            if max(len(waiting), len(crops)) >= batch_size:
                yield from self._classified(waiting, crops)
                waiting, crops = [], []
        yield from self._classified(waiting, crops)

    def _faces(self, array: np.ndarray) -> list[tuple[Box, float]]:
        if self._detect is None:
            self._detect = face_detector()
        return self._detect(array)

    def _crop(self, array: np.ndarray, box: Box) -> np.ndarray:
        if self.reads_faces:
            return crop_square(array, box, size=self.image_size)
        return self._view.one(array, key="")  # as in evaluation

    def _classified(
        self, waiting: list[list[tuple[Box, float]] | VeaError | None], crops: list[np.ndarray]
    ) -> Iterator[Prediction | VeaError]:
        outputs = self.outputs(crops)
        rows = iter([{name: values[number] for name, values in outputs.items()} for number in range(len(crops))])
        for found in waiting:
            if isinstance(found, VeaError):
                yield found
            elif found is None:
                name, shares, attributes = self._named(next(rows))
                emotion, expression = (None, name) if self.reads_faces else (name, None)
                yield Prediction(expression, shares, [], emotion, attributes)
            else:
                faces = []
                for box, score in found:
                    name, shares, attributes = self._named(next(rows))
                    faces.append(Face(box, name or "", shares, score, attributes))
                if faces:
                    largest = faces[0]
                    expression = largest.expression or None
                    yield Prediction(expression, largest.probabilities, faces, None, largest.attributes)
                else:
                    yield Prediction(None)

    def _named(self, row: dict[str, np.ndarray]) -> tuple[str | None, dict[str, float], dict[str, Attribute]]:
        """Returns (class of the main label, its probabilities, every label) of one row of ``outputs``."""
        attributes = {}
        for name, label in self.fields.items():
            if label.kind == "value":
                attributes[name] = Attribute(float(row[name]))
                continue
            shares = {word: float(share) for word, share in zip(label.classes, row[name])}
            best = max(shares, key=shares.__getitem__)
            there = [word for word, share in shares.items() if share >= 0.5]
            attributes[name] = Attribute(there if label.kind == "multilabel" else best, shares)
        shares = attributes[self.target].probabilities
        return max(shares, key=shares.__getitem__) if shares else None, shares, attributes


def load(
    name_or_dir: str | os.PathLike[str] = "expression", *, target: str | None = None, device: str = "cpu"
) -> Predictor:
    """Returns the predictor of a model that ships with vea, a fine-tuned run, or a hub folder.

    Args:
        name_or_dir: ``"expression"``, ``"expression-nano"`` (less exact, a third of the time a face), a run folder of
            any recipe of finetune/, or a folder that ``vea export`` wrote.
        target: which label is the expression or emotion; by default the first of kind class in the run's ``targets``.
        device: where to compute, e.g. ``"cuda"``.

    Raises:
        VeaError: there are no such weights, or they are no recogniser's.
    """
    model = open_model(name_or_dir)
    kinds = {name: label.kind for name, label in model.task.fields.items()}
    if target is not None and target not in kinds:
        raise VeaError(f"the model has no label {target!r}; it has {', '.join(kinds)}")
    return Predictor(
        model.task,
        target=target or main_target(kinds),  # type: ignore[arg-type]
        device=torch.device(device),
        description=f"{model.name}, step {model.state.get('step', '?')}",
        reads_faces=model.reads_faces,
    )
