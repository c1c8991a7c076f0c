"""Landmarks, blendshapes and the pose of the head, by MediaPipe's Face Landmarker: a file that the user brings.

    reader = Landmarker()                                  # VEA_WEIGHTS/face-landmarker/face_landmarker.task
    for face in reader(image, face_detector()(image)):
        print(face.points.shape, face.blendshapes["jawOpen"], face.yaw)

The bundle (Apache-2.0) is a zip of networks for LiteRT (package ai-edge-litert). As in MediaPipe: a square of 1.5 times
the face, level, at 256 pixels; 478 points; 146 of them give 52 blendshapes in the words of ARKit, 0 to 1. The square is
cut twice, the second time around the points of the first. Faces are read one after another: in batches of 2 and 8 a
face took no less time on one thread, and the network of blendshapes takes one face.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vea.data.views.geometry import cut_turned, square_around
from vea.errors import VeaError
from vea.faces.align import eyes_tell
from vea.faces.detect import Box

FILE, FOLDER = "face_landmarker.task", "face-landmarker"
SOURCE = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
SIDE, SCALE, PASSES = 256, 1.5, 2  # pixels of the square; its side over that of the face; how often it is cut
RIGHT_EYE, LEFT_EYE = 33, 263  # points: the outer corners, by whose line the second square is level
PARTS = {
    "points": "face_landmarks_detector.tflite",
    "blendshapes": "face_blendshapes.tflite",
    "mesh": "geometry_pipeline_metadata_landmarks.binarypb",
}
_NAMES = (
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft "
    "eyeWideRight jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft "
    "mouthFrownRight mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight "
    "mouthPucker mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft "
    "mouthSmileRight mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft "
    "noseSneerRight "
)
_SUBSET = (
    "0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 "
    "103 105 107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 "
    "173 176 178 181 185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 "
    "300 308 310 311 312 314 317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 "
    "382 384 385 386 387 388 389 390 397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477 "
)
BLENDSHAPES = tuple(_NAMES.split())  # in the order of the network's answer
SUBSET = [int(number) for number in _SUBSET.split()]  # the points that the network of blendshapes sees


def find_landmarker() -> Path | None:
    """Returns face_landmarker.task below VEA_WEIGHTS or VEA_DATA/weights, None where there is none."""
    folders = [Path(os.environ["VEA_WEIGHTS"])] if os.environ.get("VEA_WEIGHTS") else []
    folders += [Path(os.environ["VEA_DATA"]) / "weights"] if os.environ.get("VEA_DATA") else []
    places = [place for folder in folders for place in (folder / FOLDER / FILE, folder / FILE)]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class Landmarks:
    """One face: points, blendshapes, and how the head is held.

    Attributes:
        points: float32 (478, 3): x, y in pixels of the picture, z in the same unit, smaller is nearer.
        blendshapes: 52 names of ARKit, 0 to 1.
        yaw: degrees, positive where the face looks to the right of the picture.
        pitch: degrees, positive where it looks up.
        roll: degrees, clockwise as ``vea.faces.align`` counts turns.
        presence: 0 to 1, whether the square holds a face at all.
    """

    points: np.ndarray
    blendshapes: dict[str, float]
    yaw: float
    pitch: float
    roll: float
    presence: float

    def record(self, *, points: bool = True) -> dict[str, Any]:
        """Returns plain values for JSON; points to a tenth of a pixel."""
        told: dict[str, Any] = {
            "presence": round(self.presence, 4),
            "pose": {name: round(getattr(self, name), 1) for name in ("yaw", "pitch", "roll")},
            "blendshapes": {name: round(value, 4) for name, value in self.blendshapes.items()},
        }
        return told | ({"points": np.round(self.points.astype(float), 1).tolist()} if points else {})


class Landmarker:
    """The bundle, opened; called with RGB uint8 (H, W, 3) and its faces, returns their ``Landmarks`` in order.

    Args:
        path: of the bundle; by default what ``find_landmarker`` finds.
        threads: of the CPU.

    Raises:
        VeaError: there is no such file, it is another one, or ai-edge-litert is not installed.
    """

    def __init__(self, path: Path | None = None, *, threads: int = 1) -> None:
        self.path = path or find_landmarker()
        if self.path is None:
            raise VeaError(f"landmarks need MediaPipe's {FILE} (Apache-2.0); fetch {SOURCE} and put it into "
                           f"VEA_WEIGHTS/{FOLDER}/")  # fmt: skip
        parts = _parts(self.path)
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise VeaError("landmarks need the package ai-edge-litert: pip install 'vea[landmarks]'") from None
        try:
            self._points, self._shapes = (
                Interpreter(model_content=parts[name], num_threads=threads) for name in ("points", "blendshapes")
            )
            for network in (self._points, self._shapes):
                network.allocate_tensors()
            self._mesh = Mesh.read(parts["mesh"])
            self._run(self._points, np.zeros((1, SIDE, SIDE, 3), np.float32))
        except (ValueError, RuntimeError, IndexError) as error:
            raise VeaError(f"{self.path} cannot be read ({' '.join(str(error).split())[:200]})") from None

    def __call__(self, image: np.ndarray, faces: Sequence[tuple[Box, float]]) -> list[Landmarks]:
        return [self._face(image, face) for face in faces]

    def _face(self, image: np.ndarray, face: tuple[Box, float]) -> Landmarks:
        window, turn = square_around(getattr(face, "upright", face[0]), scale=SCALE), _lean(face)
        for again in reversed(range(PASSES)):
            crop, presence = self._look(image, window, turn)
            points = placed(crop, window, turn)
            if again:
                window, turn = around(points)
        x, y = points[:, 0], points[:, 1]
        yaw, pitch, roll = self._mesh.pose(np.stack([x, -y, -points[:, 2]], 1))
        # level, as they were seen, so that the answer does not depend on which way up the picture is
        scores = self._run(self._shapes, crop[None, SUBSET, :2].astype(np.float32))[0].ravel().tolist()
        return Landmarks(points.astype(np.float32), dict(zip(BLENDSHAPES, scores)), yaw, pitch, roll, presence)

    def _look(self, image: np.ndarray, window: Box, turn: float) -> tuple[np.ndarray, float]:
        """Returns (points (478, 3) in pixels of the square at SIDE, presence)."""
        seen = cut_turned(image, window, turn)
        method = cv2.INTER_AREA if len(seen) > SIDE else cv2.INTER_LINEAR
        square = cv2.resize(seen, (SIDE, SIDE), interpolation=method)
        answers = self._run(self._points, square[None].astype(np.float32) / 255)
        logit = float(answers[1].item())
        return answers[0].reshape(-1, 3).astype(np.float64), 1 / (1 + math.exp(-max(-50.0, min(50.0, logit))))

    @staticmethod
    def _run(network: Any, given: np.ndarray) -> list[np.ndarray]:
        network.set_tensor(network.get_input_details()[0]["index"], given)
        network.invoke()
        return [network.get_tensor(answer["index"]) for answer in network.get_output_details()]


def _lean(face: tuple[Box, float]) -> float:
    """Returns by how many degrees a detected face leans: by its eyes, else its turn, else 0."""
    points = getattr(face, "points", None)
    if points is None or not eyes_tell(points, face[0]):
        return float(getattr(face, "turn", 0.0))
    across, down = (points[1] - points[0]).tolist()
    return math.degrees(math.atan2(down, across))


def placed(crop: np.ndarray, window: Box, turn: float) -> np.ndarray:
    """Returns points (N, 3) of the square at SIDE where they lie in the picture that it was cut from."""
    side = window[2] - window[0]
    middle = np.array([window[0] + side / 2, window[1] + side / 2])
    scaled = crop * (side / SIDE)
    return np.concatenate([middle + (scaled[:, :2] - side / 2) @ _turning(turn).T, scaled[:, 2:]], 1)


def around(points: np.ndarray) -> tuple[Box, float]:
    """Returns (square, turn) around points (478, 3) in pixels, level by the outer corners of the eyes."""
    across, down = (points[LEFT_EYE, :2] - points[RIGHT_EYE, :2]).tolist()
    turn = math.degrees(math.atan2(down, across))
    level = points[:, :2] @ _turning(turn)
    low, high = level.min(0), level.max(0)
    x, y = (_turning(turn) @ ((low + high) / 2)).tolist()
    half = float((high - low).max()) / 2
    return square_around((x - half, y - half, x + half, y + half), scale=SCALE), turn


def _turning(turn: float) -> np.ndarray:
    """Returns the matrix that turns (x, y), y downwards, by ``turn`` degrees clockwise."""
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return np.array([[cos, -sin], [sin, cos]])


@dataclass(frozen=True)
class Mesh:
    """The face that the bundle calls canonical: a head that looks straight at the viewer.

    Attributes:
        vertices: (V, 3) in cm, x to the viewer's right, y up, z to the viewer.
        places: (K,) the vertices by which a head is laid upon it.
        weights: (K,) of them.
    """

    vertices: np.ndarray
    places: np.ndarray
    weights: np.ndarray

    @classmethod
    def read(cls, data: bytes) -> Mesh:
        """Returns the mesh of a ``GeometryPipelineMetadata`` (MediaPipe's face_geometry protos) in its wire form."""
        top = list(_fields(data))
        floats = b"".join(value for number, value in _fields(next(v for n, v in top if n == 1)) if number == 3)
        vertices = np.frombuffer(floats, "<f4").reshape(-1, 5)[:, :3].astype(np.float64)
        basis = [dict(_fields(value)) for number, value in top if number == 2]
        weights = np.frombuffer(b"".join(row[2] for row in basis), "<f4").astype(np.float64)
        return cls(vertices, np.array([row.get(1, 0) for row in basis]), weights)

    def pose(self, points: np.ndarray) -> tuple[float, float, float]:
        """Returns (yaw, pitch, roll) in degrees, see ``Landmarks``.

        The rotation of least weighted squares between the mesh and points (478, 3) on its axes (Kabsch 1976), the
        picture taken as drawn without perspective; R = Rz(-roll) Ry(yaw) Rx(-pitch).
        """
        share = (self.weights / self.weights.sum())[:, None]
        head, seen = self.vertices[self.places], points[self.places]
        cross = ((head - (share * head).sum(0)) * share).T @ (seen - (share * seen).sum(0))
        u, _, v = np.linalg.svd(cross)
        mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(v.T @ u.T))])
        rotation = v.T @ mirror @ u.T
        yaw = math.asin(float(np.clip(-rotation[2, 0], -1, 1)))
        pitch, roll = math.atan2(rotation[2, 1], rotation[2, 2]), math.atan2(rotation[1, 0], rotation[0, 0])
        return math.degrees(yaw), -math.degrees(pitch), -math.degrees(roll)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yields (field number, value) of a protocol buffer: int of a varint, bytes of the rest."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError("its mesh is no protocol buffer")
            size, place = _varint(data, place)
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
        if byte < 128:
            return value, place


def _parts(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as bundle:
            return {name: bundle.read(file) for name, file in PARTS.items()}
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise VeaError(f"{path} is no {FILE} ({' '.join(str(error).split())[:200]}); fetch {SOURCE}") from None
