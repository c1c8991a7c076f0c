"""Faces in a picture, by the network that ships, or by libfacedetection (package yuface) or a YuNet file (OpenCV)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import cv2
import numpy as np

from vea.data.views.decode import SEARCHED, Encoded, searched, size_of
from vea.data.views.geometry import cut, square_around
from vea.errors import VeaError
from vea.faces.align import cut_turned, eyes_tell, turn_of, turned_back
from vea.faces.net import net_search
from vea.faces.tiles import distinct, windows

Box: TypeAlias = tuple[int, int, int, int]
Search: TypeAlias = Callable[[np.ndarray], np.ndarray]  # BGR uint8 (H, W, 3) to rows (N, 16), see ``face_search``

DETECTION_SIDE = (320, SEARCHED)  # faces are missed in smaller pictures; larger ones are slow and no better
ANSWER_BYTES = 0x9000  # what the library may write: the number of faces (int32), then 32 bytes for each of up to 1,024
SURER = 0.15  # what the score of a face must have beyond ``min_score`` where only a turned picture shows it
LOOK_AGAIN = 128  # pixels to which the square is brought, twice a face's side, in which it is looked for once more
ASKED = 3  # so many faces, the largest, say which way up the picture is
UPRIGHT = 0.895  # score in that square that no lying portrait had (at most .89) and every upright one (.90 and more)
OWN_UPRIGHT = 0.88  # the same for the network that ships: 2 of 843 looks at lying faces reach it, 64 % of upright ones
SURE = 0.85  # score from which a face is not looked at a second time
MAYBE = 0.15  # so far below ``min_score`` a second look is worth it
CLEARLY = 0.03  # by so much a turned face must have the better score than the face as it is
CLOSE_UP, FRAME = 256, 0.25  # pixels of the longest side with a border of that share, where a face may fill the picture
FUNCTION = "_Z14facedetect_cnnPhS_iii"  # int* facedetect_cnn(unsigned char* answer, unsigned char* bgr, int, int, int)


def face_search(yuface: ModuleType) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from BGR uint8 (H, W, 3), contiguous, to int16 (N, 16): score in %, x, y, width, height, five
    points; the last number is unused.

    yuface's binding allocates ANSWER_BYTES at every call and never frees them: 37 MB over 1,000 pictures. So the
    function it binds is called here, with memory that is freed. Where it has another name (Windows), the binding is.
    """
    try:
        # The binding's handle finds the very library that it is linked to. PyDLL: one call at a time, as the binding.
        search = getattr(ctypes.PyDLL(yuface.yuface.__file__), FUNCTION)
    except (AttributeError, OSError):
        return yuface.c_detect
    search.restype = None  # the address of the answer, which is known
    search.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]

    def rows(image: np.ndarray) -> np.ndarray:
        answer = np.zeros(ANSWER_BYTES // 2, np.int16)
        height, width = image.shape[:2]
        search(answer.ctypes.data, image.ctypes.data, width, height, 3 * width)
        return answer[2:][: 16 * int(answer[:2].view(np.int32)[0])].reshape(-1, 16)

    return rows


def find_yunet() -> Path | None:
    """Returns the YuNet file below VEA_WEIGHTS or VEA_DATA/weights (``yunet/*.onnx``), None where there is none."""
    folders = [Path(os.environ["VEA_WEIGHTS"])] if os.environ.get("VEA_WEIGHTS") else []
    folders += [Path(os.environ["VEA_DATA"]) / "weights"] if os.environ.get("VEA_DATA") else []
    return next((path for folder in folders for path in sorted(folder.glob("yunet/*.onnx"))), None)


def yunet_search(weights: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the same function as ``face_search``, by YuNet through OpenCV: runs wherever OpenCV does.

    Raises:
        VeaError: OpenCV cannot read the file.
    """
    try:
        network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), 0.1, 0.3, 1000)
    except cv2.error as error:
        raise VeaError(f"{weights} is no YuNet that OpenCV reads ({' '.join(str(error).split())[:200]})") from None

    def rows(image: np.ndarray) -> np.ndarray:
        network.setInputSize((image.shape[1], image.shape[0]))
        found = network.detect(image)[1]
        answer = np.zeros((0 if found is None else len(found), 16), np.int16)
        if found is not None:
            answer[:, 0], answer[:, 1:15] = (100 * found[:, 14]).round(), found[:, :14].round()
        return answer

    return rows


_Row: TypeAlias = tuple[float, np.ndarray, np.ndarray]  # score, corners (2, 2), points (5, 2)


class Detection(tuple[Box, float]):
    """A face: (box, score), and beside them ``points``, ``turn`` and ``upright``.

    ``points`` (5, 2) in pixels: the face's right eye, left eye, nose, right and left corner of the mouth. ``turn``: by
    how many degrees it is turned, clockwise; 0 for tilts (``vea.faces.align.TILT``). ``upright``: the box that it has
    once it is turned back about that box's middle; ``box`` itself where ``turn`` is 0.
    """

    points: np.ndarray | None
    turn: float
    upright: Box

    def __new__(
        cls, box: Box, score: float, points: np.ndarray | None = None, *, turn: float = 0.0, upright: Box | None = None
    ) -> Detection:
        """Returns the pair with what else is known."""
        face = super().__new__(cls, (box, score))
        face.points, face.turn, face.upright = points, turn, upright or box
        return face

    def moved(self, x: int, y: int) -> Detection:
        """Returns the face where it is in a picture of which this one begins at (x, y)."""

        def there(box: Box) -> Box:
            return box[0] + x, box[1] + y, box[2] + x, box[3] + y

        points = None if self.points is None else self.points + np.array([x, y])
        return Detection(there(self[0]), self[1], points, turn=self.turn, upright=there(self.upright))


class FaceDetector:
    """A search with everything around it: scale, panoramas, which way up; where nothing is found, close-ups and quarter
    turns.

    Called with RGB uint8 (H, W, 3), it returns [``Detection``], largest face first. The searches find lying faces and
    put the points where those of an upright face would be; so the largest faces are looked at from four sides.

    Args:
        search: see ``face_search``.
        min_score: 0 to 1; of faces that are returned.
        upright: the score that says that a face is not lying, see ``UPRIGHT``.
        second_look: what is not ``SURE`` is looked at again by itself; the mean of both looks is its score.
        close_up: where nothing is found, the picture is looked at once more, small and with a border, for a face that
            fills it: a crop of a face, say.
    """

    def __init__(
        self,
        search: Search,
        *,
        min_score: float,
        upright: float = UPRIGHT,
        second_look: bool = False,
        close_up: bool = False,
    ) -> None:
        self.search, self.min_score = search, min_score
        self.upright, self.second_look, self.close_up = upright, second_look, close_up

    def __call__(self, image: np.ndarray) -> list[Detection]:
        height, width = image.shape[:2]
        tiles = windows(width, height)
        if len(tiles) > 1:
            seen = [
                face.moved(x0, y0) for x0, y0, x1, y1 in tiles for face in self._faces(image[y0:y1, x0:x1], turns=False)
            ]
            if seen:
                return [seen[place] for place in distinct([face[0] for face in seen])]
        return self._faces(image)

    def _faces(self, image: np.ndarray, *, turns: bool = True) -> list[Detection]:
        height, width = image.shape[:2]
        small, factor = self._scaled(image)
        least = self.min_score - MAYBE if self.second_look else self.min_score
        found = self._seconded(image, self._found(small, factor, least))
        if not found and turns and self.close_up:
            found = self._filling(image)
        if not found and turns:
            surer = min(1.0, self.min_score + SURER)
            tries = [self._quarter(small, turns, factor, surer) for turns in (1, 3, 2)]
            found = self._seconded(image, max(tries, key=lambda faces: sum(face[0] for face in faces)))
        elif quarters := self._way_up(image, found):
            found = self._seconded(image, self._quarter(small, quarters, factor, least)) or found
        faces = []
        for score, corners, points in found:
            low, high = np.maximum(corners.round(), 0), np.minimum(corners.round(), [width, height])
            box: Box = (int(low[0, 0]), int(low[0, 1]), int(high[1, 0]), int(high[1, 1]))
            if box[2] > box[0] and box[3] > box[1]:
                faces.append(self._upright(image, Detection(box, score, points)))
        return sorted(faces, key=lambda face: (face[0][2] - face[0][0]) * (face[0][3] - face[0][1]), reverse=True)

    @staticmethod
    def _scaled(image: np.ndarray, sides: tuple[int, int] = DETECTION_SIDE) -> tuple[np.ndarray, float]:
        height, width = image.shape[:2]
        longest = max(height, width)
        factor = min(max(longest, sides[0]), sides[1]) / longest
        if factor == 1:
            return image, factor
        small = max(1, round(width * factor)), max(1, round(height * factor))
        return cv2.resize(image, small, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR), factor

    def _found(self, small: np.ndarray, factor: float, least: float) -> list[_Row]:
        """Returns [(score, corners (2, 2), points (5, 2))] in pixels of the picture that was scaled by ``factor``."""
        rows = self.search(np.ascontiguousarray(small[:, :, ::-1]))
        found = []
        for row in rows[rows[:, 0] > 100 * least].astype(np.float64):
            corners = np.stack([row[1:3], row[1:3] + row[3:5]]) / factor
            found.append((float(row[0]) / 100, corners, row[5:15].reshape(5, 2) / factor))
        return found

    def _filling(self, image: np.ndarray) -> list[_Row]:
        """Returns the faces that have a quarter of the picture or more, seen with a border around it."""
        border = int(FRAME * max(image.shape[:2]))
        framed = np.pad(image, ((border, border), (border, border), (0, 0)), constant_values=127)
        small, factor = self._scaled(framed, (CLOSE_UP, CLOSE_UP))
        found = [
            (score, corners - border, points - border)
            for score, corners, points in self._found(small, factor, self.min_score)
        ]
        least = image.shape[0] * image.shape[1] / 4
        return [face for face in found if (face[1][1] - face[1][0]).prod() >= least]

    def _quarter(self, small: np.ndarray, turns: int, factor: float, least: float) -> list[_Row]:
        """Returns what ``_found`` finds in the picture turned by quarters, where it lies in the picture as it is."""
        height, width = small.shape[0] / factor, small.shape[1] / factor
        faces = []
        for score, corners, points in self._found(np.rot90(small, turns), factor, least):
            ends = turned_back(corners, turns, width=width, height=height)
            points = turned_back(points, turns, width=width, height=height)
            faces.append((score, np.stack([ends.min(0), ends.max(0)]), points))
        return faces

    def _way_up(self, image: np.ndarray, found: list[_Row]) -> int:
        """Returns by how many quarters ``np.rot90`` brings the largest faces upright, by the scores they then have."""
        scores = np.zeros(4)
        told = [face for face in found if eyes_tell(face[2], face[1].ravel().tolist())]
        largest = sorted(told, key=lambda face: float((face[1][1] - face[1][0]).prod()), reverse=True)[:ASKED]
        for _, corners, _ in largest:
            for turns, score in enumerate(self._looks(image, corners)):
                if turns == 0 and score >= self.upright:
                    return 0
                scores[turns] += score
        best = int(scores.argmax())
        return best if scores[best] > scores[0] + CLEARLY * len(largest) else 0

    def _looks(self, image: np.ndarray, corners: np.ndarray) -> Iterator[float]:
        """Yields the scores that a face has by itself, in a square twice its side, by quarter turns of ``np.rot90``."""
        window = square_around(corners.ravel().tolist(), scale=2)
        patch, factor = self._scaled(cut(image, window), (LOOK_AGAIN, LOOK_AGAIN))
        for turns in range(4):
            near = [score for score, seen, _ in self._found(np.rot90(patch, turns), factor, 0.3)
                    if np.abs(seen.mean(0) * factor / LOOK_AGAIN - 0.5).max() < 0.15]  # fmt: skip
            yield max(near, default=0.0)

    def _seconded(self, image: np.ndarray, found: list[_Row]) -> list[_Row]:
        """Returns the faces that are ``SURE``, or whose score in both looks is enough on average."""
        if not self.second_look:
            return found
        kept = []
        for first, corners, points in found:
            enough = 2 * self.min_score - first
            second = first if first >= SURE else next((s for s in self._looks(image, corners) if s >= enough), None)
            if second is not None:
                kept.append(((first + second) / 2, corners, points))
        return kept

    def _upright(self, image: np.ndarray, face: Detection) -> Detection:
        """Returns the face with its turn; a leaning one is looked for once more, upright, and has that box."""
        (box, score), points = face, face.points
        assert points is not None
        turn = turn_of(points, box)
        if turn % 90 == 0:  # the square around the box is that of the upright face
            return Detection(box, score, points, turn=turn)
        middle, side = np.array([box[0] + box[2], box[1] + box[3]]) / 2, max(box[2] - box[0], box[3] - box[1])
        window = square_around(box, scale=2)
        patch, factor = self._scaled(cut_turned(image, window, turn), (LOOK_AGAIN, LOOK_AGAIN))
        half = (window[2] - window[0]) / 2
        again = [
            (corners.mean(0) - half, (corners[1] - corners[0]) / 2)
            for _, corners, seen in self._found(patch, factor, self.min_score)
            if np.abs(corners.mean(0) - half).max() < side / 4 and not turn_of(seen, corners.ravel().tolist())
        ]
        if not again:
            reach = np.full(2, side / 2)
        else:
            shift, reach = min(again, key=lambda entry: float(np.abs(entry[0]).max()))
            angle = np.deg2rad(turn)
            middle = middle + np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ shift
        low, high = (middle - reach).round(), (middle + reach).round()
        upright = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        return Detection(box, score, points, turn=turn, upright=upright)


def faces_in(picture: np.ndarray | Encoded, detect: Callable[[np.ndarray], list[Detection]]) -> list[Detection]:
    """Returns the faces of a picture in its own pixels, searched for at the scale that serves (``searched``)."""
    seen, size = searched(picture), size_of(picture)
    found = detect(seen)
    factor = round(size[0] / seen.shape[1])  # a whole number
    if factor == 1:
        return found

    def times(box: Box) -> Box:
        return box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor

    faces = []
    for (box, score), face in zip(found, found):
        (x0, y0, x1, y1), points = times(box), getattr(face, "points", None)
        inside = (x0, y0, min(x1, size[0]), min(y1, size[1]))  # the last pixel may stand for fewer
        upright, turn = times(getattr(face, "upright", box)), getattr(face, "turn", 0.0)
        faces.append(
            Detection(
                inside, score, None if points is None else points * factor, turn=turn, upright=upright if turn else None
            )
        )
    return faces


BACKENDS = ("vea", "yuface", "yunet")
OWN = Path(__file__).parents[1] / "assets" / "faces"  # weights of finetune/face_net.py


def chosen_backend() -> str:
    """Returns which of ``BACKENDS`` finds faces: what VEA_FACE_DETECTOR says, by default the network that ships.

    Raises:
        VeaError: VEA_FACE_DETECTOR names none.
    """
    name = os.environ.get("VEA_FACE_DETECTOR") or BACKENDS[0]
    if name not in BACKENDS:
        raise VeaError(f"VEA_FACE_DETECTOR: no finder of faces is called {name!r}; there are {', '.join(BACKENDS)}")
    return name


def face_detector(*, min_score: float = 0.6, backend: str | None = None) -> Callable[[np.ndarray], list[Detection]]:
    """Returns a function from RGB uint8 (H, W, 3) to [``Detection``], pairs (box, score), largest face first.

    Args:
        min_score: 0 to 1; of faces that are returned.
        backend: one of ``BACKENDS``; by default ``chosen_backend``. yuface has wheels for Python 3.11 on x86-64 Linux
            and Windows alone; YuNet's file is brought by the user (``find_yunet``).

    Raises:
        VeaError: the backend is unknown or not there, or its file cannot be read.
    """
    if backend not in (None, *BACKENDS):
        raise VeaError(f"no finder of faces is called {backend!r}; there are {', '.join(BACKENDS)}")
    backend = backend or chosen_backend()
    if backend == "vea":
        return FaceDetector(net_search(OWN), min_score=min_score, upright=OWN_UPRIGHT, second_look=True, close_up=True)
    if backend == "yuface":
        try:
            import yuface
        except ImportError:
            raise VeaError("yuface is not installed: pip install 'vea[faces]' (Python 3.11 on x86-64 Linux or "
                           "Windows)") from None  # fmt: skip
        return FaceDetector(face_search(yuface), min_score=min_score)
    weights = find_yunet()
    if weights is None:
        raise VeaError("no YuNet: put OpenCV's face_detection_yunet_*.onnx into VEA_WEIGHTS/yunet/")
    return FaceDetector(yunet_search(weights), min_score=min_score)
