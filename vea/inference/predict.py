"""Recognise expressions, emotion and attributes: ``load()`` a model, ``predict`` on anything that holds an image.

from vea.inference.predict import load
result, = load().predict("photo.jpg")
print(result.expression, [(face.box, face.expression) for face in result.faces])
result, = load("runs/emotion-oasis").predict("photo.jpg")       # a model of whole pictures: no search for faces
print(result.emotion, result.values, result.attributes)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vea.data.views.decode import Encoded, at_scale, say_once
from vea.data.views.pictures import ImageLike, is_single, read_picture, read_view
from vea.data.views.views import Views
from vea.distributed.runtime import compute_device
from vea.errors import RunError, VeaError
from vea.faces.detect import Box, Detection, face_detector, faces_in
from vea.faces.landmarks import Landmarker, Landmarks
from vea.faces.video import is_video
from vea.inference.readings import Readings
from vea.inference.results import Attribute, Face, Prediction
from vea.models.onednn import quick
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import main_target, open_model


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
        task: RecogniseTask,
        *,
        target: str,
        device: torch.device,
        description: str = "",
        reads_faces: bool | None = None,
        readings: Readings | None = None,
    ) -> None:
        self.task = task.to(device).eval()
        self.target = target
        self.fields = task.fields
        self.classes = task.fields[target].classes
        self.device = device
        self.description = description
        self.image_size = task.config.augment.image_size
        self.reads_faces = task.config.reads_faces if reads_faces is None else reads_faces
        self._view = Views(task.config.augment, seed=0, channels=task.config.model.channels, train=False)
        if task.config.augment.region == "head":
            say_once("the model was trained on heads, found by boxes of persons; here it looks at whole pictures")
        self._detect: Callable[[np.ndarray], list[Detection]] | None = None
        self.readings = (readings or Readings()).to(device)
        self.landmarker: Landmarker | None = None  # where set, every face that is found gets its landmarks

    @torch.inference_mode()
    def outputs(self, crops: Sequence[np.ndarray], *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """Returns {label: probabilities (N, C), or values (N,)} of crops (S, S, 3 or 1) of the model's image size.

        Beside the labels, what ``readings`` read: "units", "intensity" and "affect", (N, K) each, where there are any.
        """
        widths = {name: len(label.classes) for name, label in self.fields.items()}
        widths |= {name: len(columns) for name, columns in self.readings.names.items()}
        parts = {name: [np.zeros((0, width) if width else 0, np.float32)] for name, width in widths.items()}
        start = 0
        for size in batch_sizes(len(crops), largest=batch_size):
            stacked = torch.from_numpy(np.stack(crops[start : start + size])).permute(0, 3, 1, 2)
            start += size
            found = self.task.features(self.task.normalise(stacked.to(self.device)))
            answers = self.task.answers(self.task.heads(found))
            answers |= self.readings(found, answers)
            for name, value in answers.items():
                if not torch.isfinite(value).all():
                    raise RunError(f"{self.description}: its {name} is not a number: the weights are broken")
                parts[name].append(value.float().cpu().numpy())
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def probabilities(self, crops: Sequence[np.ndarray], *, batch_size: int = 64) -> np.ndarray:
        """Returns (N, C) class probabilities of square RGB crops of the model's image size; (N,) of a number."""
        return self.outputs(crops, batch_size=batch_size)[self.target]

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, detect_faces: bool = True, urls: bool = False
    ) -> list[Prediction]:
        """Returns one ``Prediction`` per image.

        Args:
            images: one image or several, of anything that ``vea.data.views.pictures.read_image`` reads: paths, bytes,
                open files, PIL images, arrays (H, W, C), tensors (C, H, W).
            detect_faces: True finds the faces and classifies each; a picture without one gets no expression. False
                takes each image as one face crop, as evaluation does. Models of whole pictures look at the picture
                either way.
            urls: True fetches ``http(s)://`` addresses.

        Raises:
            VeaError: an image cannot be read (``stream`` goes on past it), or the face detector is not installed.
        """
        several = cast("Iterable[ImageLike]", [images] if is_single(images) else images)
        results = []
        for result in self._pictures(several, detect_faces=detect_faces, urls=urls):
            if isinstance(result, VeaError):
                raise result
            results.append(result)
        return results

    def stream(
        self,
        source: ImageLike | Iterable[ImageLike],
        *,
        every: int = 1,
        smoothing: bool = True,
        thumbnails: bool = False,
        detect_faces: bool = True,
        batch_size: int = 32,
        urls: bool = False,
        units: bool = False,
    ) -> Iterator[Any]:
        """Yields what is found in pictures, or over time in a video; memory does not grow with their number or length.

        One image is decoded at a time and only its crops are kept, until ``batch_size`` images or crops are classified
        together.

        Args:
            source: images: yields, in order, a ``Prediction`` per image, or the ``VeaError`` that says why it cannot be
                read. The path of a video, or the number of a camera: yields a ``vea.inference.video.Row`` per face and
                frame.
            every: of a video, look at each ``every``-th frame only.
            smoothing: of a video, let the neighbouring frames decide with; False: each frame alone.
            thumbnails: of a video, give each row a small picture of its face.
            detect_faces: of images, see ``predict``.
            batch_size: images or crops that are classified together.
            urls: of images, True fetches ``http(s)://`` addresses.
            units: of a video, give each row its readings (``vea.inference.readings``); images always have them.

        Raises:
            VeaError: the face detector is not installed; a video cannot be read, or breaks off.
        """
        if is_video(source):
            from vea.inference.video import track

            return track(
                cast("str | Path | int", source),
                predictor=self,
                every=every,
                smoothing=smoothing,
                thumbnails=thumbnails,
                units=units,
            )
        several = cast("Iterable[ImageLike]", [source] if is_single(source) else source)
        return self._pictures(several, detect_faces=detect_faces, batch_size=batch_size, urls=urls)

    def _pictures(
        self, images: Iterable[ImageLike], *, detect_faces: bool = True, batch_size: int = 32, urls: bool = False
    ) -> Iterator[Prediction | VeaError]:
        waiting: list[list[Detection] | VeaError | None] = []  # None: the image as a whole
        marks: list[Landmarks] = []  # of the faces that wait
        crops: list[np.ndarray] = []
        for image in images:
            try:
                if detect_faces and self.reads_faces:
                    picture = read_picture(image, urls=urls)
                    faces = self._faces(picture)
                    marks += self.landmarker(at_scale(picture, least=1.0), faces) if self.landmarker else []
                    crops += [self._crop(picture, face) for face in faces]
                    waiting.append(faces)
                    del picture  # not kept while the caller works on what is yielded
                else:  # as in evaluation
                    crops.append(read_view(image, self._view.scene, urls=urls))
                    waiting.append(None)
            except VeaError as error:
                waiting.append(error)
            if max(len(waiting), len(crops)) >= batch_size:
                yield from self._classified(waiting, crops, marks)
                waiting, crops, marks = [], [], []
        yield from self._classified(waiting, crops, marks)

    def _faces(self, picture: np.ndarray | Encoded) -> list[Detection]:
        if self._detect is None:
            self._detect = face_detector()
        return faces_in(picture, self._detect)

    def _crop(self, array: np.ndarray | Encoded, face: tuple[Box, float]) -> np.ndarray:
        if isinstance(face, Detection):
            return self._view.face(array, face.upright, turn=face.turn)
        return self._view.face(array, face[0])

    def _classified(
        self, waiting: list[list[Detection] | VeaError | None], crops: list[np.ndarray], marks: list[Landmarks]
    ) -> Iterator[Prediction | VeaError]:
        outputs = self.outputs(crops)
        marked = iter(marks)
        rows = iter([{name: values[number] for name, values in outputs.items()} for number in range(len(crops))])
        for found in waiting:
            if isinstance(found, VeaError):
                yield found
            elif found is None:
                row = next(rows)
                name, shares, attributes = self._named(row)
                emotion, expression = (None, name) if self.reads_faces else (name, None)
                yield Prediction(expression, shares, [], emotion, attributes, **self._readings(row))
            else:
                faces = []
                for face in found:
                    row = next(rows)
                    name, shares, attributes = self._named(row)
                    turned = (face.turn, face.upright) if isinstance(face, Detection) else ()
                    told = self._readings(row)
                    mark = next(marked, None)
                    faces.append(
                        Face(face[0], name or "", shares, face[1], attributes, *turned, landmarks=mark, **told)  # type: ignore[arg-type]
                    )
                if faces:
                    largest = faces[0]
                    read = {"units": largest.units, "intensity": largest.intensity, "affect": largest.affect}
                    expression = largest.expression or None
                    yield Prediction(expression, largest.probabilities, faces, None, largest.attributes, **read)
                else:
                    yield Prediction(None)

    def _readings(self, row: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        return {what: dict(zip(names, row[what].tolist())) for what, names in self.readings.names.items()}

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
    name_or_dir: str | os.PathLike[str] = "expression",
    *,
    target: str | None = None,
    device: str = "cpu",
    landmarks: bool = False,
) -> Predictor:
    """Returns the predictor of a model that ships with vea, a fine-tuned run, or a hub folder.

    Args:
        name_or_dir: ``"expression"``, ``"expression-nano"`` (less exact, a third of the time a face),
            ``"expression-pair"`` (both of them: more exact), a run folder of any recipe of finetune/, ``"scene"``
            (valence and arousal of whole pictures), or a folder that ``vea export`` wrote.
        target: which label is the expression or emotion; by default the first of kind class in the run's ``targets``.
        device: where to compute, e.g. ``"cuda"``.
        landmarks: give every face that is found its points, blendshapes and pose (``vea.faces.landmarks``).

    Raises:
        VeaError: there are no such weights, they are no recogniser's, there is no such device, or landmarks are asked
            for and their file or package is not there.
    """
    where = compute_device(device)
    landmarker = Landmarker() if landmarks else None
    model = open_model(name_or_dir)
    kinds = {name: label.kind for name, label in model.task.fields.items()}
    if target is not None and target not in kinds:
        raise VeaError(f"the model has no label {target!r}; it has {', '.join(kinds)}")
    if not model.reads_faces:
        model.task.encoder = quick(model.task.encoder)
    predictor = Predictor(
        model.task,
        target=target or main_target(kinds),  # type: ignore[arg-type]
        device=where,
        description=f"{model.name}, step {model.state.get('step', '?')}",
        reads_faces=model.reads_faces,
        readings=Readings.of(model),
    )
    if landmarker and not predictor.reads_faces:
        raise VeaError(f"{model.name} reads whole pictures; landmarks are of faces: load an expression model")
    predictor.landmarker = landmarker
    return predictor
