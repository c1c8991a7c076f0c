"""``vea predict FILE|FOLDER...``: the expression of every face in every picture."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from vea.errors import VeaError, command

if TYPE_CHECKING:
    from vea.predict import Prediction

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def find_files(paths: list[Path]) -> list[Path]:
    """Returns the files named and the pictures in the folders named (searched through), sorted, each once.

    Raises:
        VeaError: nothing is at a path, or a folder holds no picture.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise VeaError(f"{path} holds no pictures ({' '.join(sorted(SUFFIXES))})")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise VeaError(f"no file or folder {path}")
    return list(dict.fromkeys(found))


def record(path: Path, prediction: Prediction) -> dict:
    """Returns one picture's result for JSON."""
    faces = [
        {
            "box": list(face.box),
            "score": round(face.score, 4),
            "expression": face.expression,
            "probabilities": {name: round(value, 4) for name, value in face.probabilities.items()},
        }
        for face in prediction.faces
    ]
    return {
        "file": str(path),
        "expression": prediction.expression,
        "probabilities": {name: round(value, 4) for name, value in prediction.probabilities.items()},
        "faces": faces,
    }


class Table:
    """Writes one row per face, as aligned text or CSV."""

    def __init__(self, stream: TextIO, *, classes: tuple[str, ...], as_csv: bool) -> None:
        self.classes = classes
        self.stream = stream
        self.writer = csv.writer(stream, lineterminator="\n") if as_csv else None
        if self.writer:
            self.writer.writerow(["file", "face", "x0", "y0", "x1", "y1", "score", "expression", *classes])

    def write(self, path: Path, prediction: Prediction) -> None:
        """Writes a picture's rows; without faces, one row for the picture as a whole."""
        rows = [(face.box, face.score, face.expression, face.probabilities) for face in prediction.faces]
        if self.writer:
            for number, (box, score, expression, shares) in enumerate(rows):
                numbers = [f"{shares[name]:.4f}" for name in self.classes]
                self.writer.writerow([path, number, *box, f"{score:.2f}", expression, *numbers])
            if not rows:
                numbers = [f"{prediction.probabilities.get(name, float('nan')):.4f}" for name in self.classes]
                whole = prediction.expression
                self.writer.writerow([path, *[""] * 6, whole or "", *(numbers if whole else [""] * len(numbers))])
            return
        shown = [f"{name} {shares[name]:.0%} at {','.join(map(str, box))}" for box, _, name, shares in rows]
        if not shown:
            whole = prediction.expression
            shown = [f"{whole} {prediction.probabilities[whole]:.0%}" if whole else "no face found"]
        print(f"{path}: {'; '.join(shown)}", file=self.stream)


def annotated(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3): the picture with a box and a name on every face."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(12, max(picture.size) // 45))
    width = max(2, max(picture.size) // 300)
    for face in prediction.faces:
        draw.rectangle(face.box, outline="#ffb000", width=width)
        text = f"{face.expression} {face.probabilities[face.expression]:.0%}"
        place = draw.textbbox((face.box[0], face.box[3]), text, font=font)
        below = place[3] <= picture.height
        corner = (face.box[0], face.box[3] if below else face.box[1] - (place[3] - face.box[3]))
        draw.rectangle(draw.textbbox(corner, text, font=font), fill="#ffb000")
        draw.text(corner, text, fill="black", font=font)
    return np.asarray(picture)


def annotate(path: Path, prediction: Prediction, *, folder: Path) -> Path:
    """Returns the picture written under ``folder`` with a box and a name on every face."""
    from PIL import Image

    from vea.predict import read_image

    picture = Image.fromarray(annotated(read_image(path), prediction))
    target = folder / f"{path.stem}.png"
    number = 1
    while target.exists():  # pictures of the same name in two folders, or of an earlier call: nothing is overwritten
        number += 1
        target = folder / f"{path.stem}_{number}.png"
    picture.save(target)
    return target


@command
def main(argv: list[str]) -> int:
    """Runs ``vea predict``; returns 1 where a file could not be read, after all others were done."""
    parser = argparse.ArgumentParser(prog="vea predict", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER")
    parser.add_argument("--model", default="expression", help="the model that ships with vea, or a run folder")
    parser.add_argument("--target", help="which label of the model to predict")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-faces", action="store_true", help="the pictures are face crops: do not search for faces")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per picture and line")
    form.add_argument("--csv", action="store_true", help="one line per face")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write the pictures with boxes and names here")
    arguments = parser.parse_args(argv)

    files = find_files(arguments.paths)
    from vea.predict import load, read_image  # torch: only once the arguments are known to be good

    predictor = load(arguments.model, target=arguments.target, device=arguments.device)
    if arguments.annotate:
        arguments.annotate.mkdir(parents=True, exist_ok=True)
    table = None if arguments.json else Table(sys.stdout, classes=predictor.classes, as_csv=arguments.csv)
    unreadable = 0
    for path in files:
        try:
            image = read_image(path)
        except VeaError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable += 1
            continue
        (prediction,) = predictor.predict(image, detect_faces=not arguments.no_faces)
        if table is None:
            print(json.dumps(record(path, prediction), ensure_ascii=False), flush=True)
        else:
            table.write(path, prediction)
        if arguments.annotate:
            annotate(path, prediction, folder=arguments.annotate)
    if unreadable:
        print(f"{unreadable} of {len(files)} files could not be read", file=sys.stderr)
    return 1 if unreadable else 0
