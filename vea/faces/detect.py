"""Faces in a picture, by libfacedetection (the package yuface) where it has a wheel, else by a YuNet file (OpenCV)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import cv2
import numpy as np

from vea.errors import VeaError

Box: TypeAlias = tuple[int, int, int, int]

DETECTION_SIDE = (320, 960)  # faces are missed in smaller pictures; larger ones are slow and no better
ANSWER_BYTES = 0x9000  # what the library may write: the number of faces (int32), then 32 bytes for each of up to 1,024
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


def face_detector(*, min_score: float = 0.6) -> Callable[[np.ndarray], list[tuple[Box, float]]]:
    """Returns a function from RGB uint8 (H, W, 3) to [(box, score)], largest face first.

    libfacedetection (package yuface) where it is installed; it has wheels for Python 3.11 on x86-64 Linux and Windows
    alone. Elsewhere YuNet, whose file the user brings (``find_yunet``).

    Raises:
        VeaError: neither is there.
    """
    try:
        import yuface

        search = face_search(yuface)
    except ImportError:
        weights = find_yunet()
        if weights is None:
            raise VeaError(
                "finding faces needs the package yuface (pip install 'vea[faces]', Python 3.11 on x86-64 Linux or "
                "Windows), or elsewhere OpenCV's face_detection_yunet_*.onnx in VEA_WEIGHTS/yunet/; or pass face crops "
                "with detect_faces=False (--no-faces)"
            ) from None
        search = yunet_search(weights)

    def detect(image: np.ndarray) -> list[tuple[Box, float]]:
        height, width = image.shape[:2]
        longest = max(height, width)
        factor = min(max(longest, DETECTION_SIDE[0]), DETECTION_SIDE[1]) / longest
        if factor != 1:
            small = max(1, round(width * factor)), max(1, round(height * factor))
            image = cv2.resize(image, small, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        rows = search(np.ascontiguousarray(image[:, :, ::-1]))
        found = []
        for score, x, y, w, h in rows[rows[:, 0] > 100 * min_score, :5].tolist():
            corners = [round(value / factor) for value in (x, y, x + w, y + h)]
            box = (max(0, corners[0]), max(0, corners[1]), min(width, corners[2]), min(height, corners[3]))
            if box[2] > box[0] and box[3] > box[1]:
                found.append((box, score / 100))
        return sorted(found, key=lambda face: (face[0][2] - face[0][0]) * (face[0][3] - face[0][1]), reverse=True)

    return detect
