"""Scenes and faces for training the detector: photographs labelled by YuNet, FER2013's training faces, drawn faces.

    VEA_DATA=RAW python datasets/face_scenes.py --out data/face_scenes

Writes ``scenes.jsonl`` (file below VEA_DATA, split, faces with box, five points and score), ``faces.npz`` (48x48 grey
faces of FER2013's official training split and 96x96 drawn ones, each with its box and points) and ``index.json``.
No picture is copied. YuNet sees each scene as it is, enlarged, and mirrored both ways; a face's score is the mean
over the four looks, so that a face found once in four is left for the training to ignore.

Splits: train is OASIS train, coco_mini train, flickr8k_1k and WikiArt; val is OASIS valid. OASIS test, coco_mini val,
people_samples and LFW are not read.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vea.data.synthetic.face import draw_portrait
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.storage.atomic import write_text

LOOKS = ((1.0, False), (1.0, True), (2.0, False), (2.0, True))  # (enlarged by, mirrored)
LONGEST = 1000  # of a look, in pixels
SAME = 0.4  # overlap (IoU) from which two boxes are one face
MIRRORED_POINTS = [1, 0, 2, 4, 3]
BEAST = re.compile(
    r"\b(dogs?|pupp(?:y|ies)|cats?|kittens?|horses?|birds?|cows?|sheep|bears?|zebras?|giraffes?|elephants?)\b"
)
PERSON = re.compile(
    r"\b(he|she|his|her|him|hers|their|someone|owner|(?:wo)?m[ae]n|boys?|girls?|child(?:ren)?|kids?|bab(?:y|ies)"
    r"|toddlers?|infants?|lad(?:y|ies)|guys?|people|persons?|humans?|hands?|arms?|couples?|famil(?:y|ies)|crowd"
    r"|\w*(?:riders?|players?|skiers?|jockeys?|trainers?|cowboys?|walkers?|handlers?|catchers?))\b"
)
FER_MARGIN = 16  # grey border around a 48-pixel face while YuNet looks, in pixels of the face
FER_ENLARGED = 3


class Labeller:
    """YuNet through OpenCV: faces as rows x0, y0, x1, y1, five points (10), score."""

    def __init__(self, weights: Path, *, min_score: float = 0.25) -> None:
        if not weights.is_file():
            raise VeaError(f"no YuNet at {weights}; give face_detection_yunet_*.onnx by --yunet")
        self.network = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), min_score, 0.3, 500)

    def look(self, image: np.ndarray, *, factor: float = 1.0, mirror: bool = False) -> np.ndarray:
        """Returns (N, 15) faces of one look, in pixels of the picture."""
        height, width = image.shape[:2]
        factor = min(factor, LONGEST / max(height, width))
        size = max(16, round(width * factor)), max(16, round(height * factor))
        seen = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        seen = np.ascontiguousarray(seen[:, ::-1] if mirror else seen)[:, :, ::-1]
        self.network.setInputSize(size)
        rows = self.network.detect(np.ascontiguousarray(seen))[1]
        if rows is None:
            return np.zeros((0, 15))
        rows = rows.astype(np.float64)
        rows[:, 2:4] += rows[:, :2]
        if mirror:
            rows[:, [0, 2]] = size[0] - rows[:, [2, 0]]
            points = rows[:, 4:14].reshape(-1, 5, 2)[:, MIRRORED_POINTS]
            points[:, :, 0] = size[0] - points[:, :, 0]
            rows[:, 4:14] = points.reshape(-1, 10)
        rows[:, :14] *= np.tile([width / size[0], height / size[1]], 7)
        return rows

    def faces(self, image: np.ndarray) -> np.ndarray:
        """Returns (N, 15): boxes of all looks, those of one face averaged by score; a look without it counts as 0."""
        rows = np.concatenate([self.look(image, factor=factor, mirror=mirror) for factor, mirror in LOOKS])
        found, left = [], rows[np.argsort(-rows[:, 14])]
        while len(left):
            same = overlap(left[0, :4], left[:, :4]) >= SAME
            group = left[same]
            mean = np.average(group, axis=0, weights=group[:, 14])
            mean[14] = min(1.0, group[:, 14].sum() / len(LOOKS))
            found.append(mean)
            left = left[~same]
        return np.array(found).reshape(-1, 15)


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (N,) of one box with others."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)


def kind_of(captions: list[str]) -> str:
    """Returns "animal" where the captions of a photograph name an animal and none of them a person, else "scene"."""
    text = " ".join(captions).lower()
    return "animal" if BEAST.search(text) and not PERSON.search(text) else "scene"


def scenes(data: Path, *, paintings: int) -> list[dict[str, str]]:
    """Returns the scenes to label: file below ``data``, split, source, kind."""
    rows = []
    with open(data / "oasis/oasis.csv", encoding="utf-8", newline="") as table:
        for row in csv.DictReader(table):
            if row["split"] in ("train", "valid"):
                split = "train" if row["split"] == "train" else "val"
                file, kind = f"oasis/images/{row['file']}", row["category"].lower()
                rows.append({"file": file, "split": split, "source": "oasis", "kind": kind})
    for name, source, limit in (
        ("coco_mini/train.jsonl", "coco", None),
        ("flickr8k_1k/captions.jsonl", "flickr8k", None),
        ("wikiart_pd_224/index.jsonl", "wikiart", paintings),
    ):
        lines = [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
        step = max(1, len(lines) // limit) if limit else 1  # spread over the styles, which follow one another
        folder = name.partition("/")[0]
        rows += [{"file": f"{folder}/images/{line['file']}", "split": "train", "source": source,
                  "kind": kind_of(line.get("captions", []))}
                 for line in lines[::step]]  # fmt: skip
    return rows


def fer_faces(data: Path, labeller: Labeller, *, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns faces (N, 48, 48) of FER2013's official training split that YuNet finds, and their rows (N, 14)."""
    faces, rows = [], []
    with zipfile.ZipFile(data / "fer2013plus/train.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        for name in names[:: max(1, len(names) // limit)]:
            face = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L"))
            framed = cv2.copyMakeBorder(face, *[FER_MARGIN] * 4, cv2.BORDER_REPLICATE)
            side = len(framed) * FER_ENLARGED
            large = cv2.resize(framed, (side, side), interpolation=cv2.INTER_CUBIC)
            found = labeller.look(np.repeat(large[:, :, None], 3, axis=2))
            if len(found) and found[0, 14] >= 0.6:
                faces.append(face)
                rows.append(found[0, :14] / FER_ENLARGED - FER_MARGIN)
    return np.stack(faces), np.stack(rows)


def drawn_faces(number: int, *, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Returns drawn faces (N, size, size, 3) and their rows (N, 14)."""
    drawn = [draw_portrait(np.random.default_rng([7, index]), size=size) for index in range(number)]
    rows = [[*face.box, *face.points.ravel()] for face in drawn]
    return np.stack([face.image for face in drawn]), np.array(rows)


@command
def main(argv: list[str]) -> None:
    """Labels the scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("VEA_DATA"), help="folder of the raw sets")
    parser.add_argument("--yunet", type=Path, help="ONNX file (DATA/weights/yunet/*.onnx)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=14000, help="FER2013 faces, at most")
    parser.add_argument("--drawn", type=int, default=600)
    parser.add_argument("--paintings", type=int, default=600)
    given = parser.parse_args(argv)
    if given.data is None:
        raise VeaError("which data? set VEA_DATA or give --data")
    cv2.setNumThreads(1)
    yunet = given.yunet or next(iter(sorted(Path(given.data).glob("weights/yunet/*.onnx"))), Path("yunet.onnx"))
    labeller = Labeller(yunet)
    given.out.mkdir(parents=True, exist_ok=True)

    lines: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes(Path(given.data), paintings=given.paintings), start=1):
        image = read_image(Path(given.data) / scene["file"])
        faces = labeller.faces(image)
        lines.append({**scene, "width": image.shape[1], "height": image.shape[0],
                      "faces": [[round(value, 3) for value in face] for face in faces.tolist()]})  # fmt: skip
        if number % 200 == 0:
            print(f"{number} scenes", file=sys.stderr, flush=True)
    write_text(given.out / "scenes.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    faces, rows = fer_faces(Path(given.data), labeller, limit=given.faces)
    drawn, drawn_rows = drawn_faces(given.drawn)
    np.savez(given.out / "faces.npz", faces=faces, rows=rows, drawn=drawn, drawn_rows=drawn_rows)
    sure = sum(face[14] >= 0.65 for line in lines for face in line["faces"])
    summary = {"format": 1, "scenes": len(lines), "faces_sure": sure, "fer_faces": len(faces), "drawn": len(drawn),
               "teacher": yunet.name}  # fmt: skip
    write_text(given.out / "index.json", json.dumps(summary, indent=1))
    print(json.dumps(summary))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
