"""``vea predict FILE|FOLDER|GLOB...``: the expression of every face in every picture, or the emotion of pictures.

Of videos and of cameras (0, 1 ...): the expression of every face over time, each person a track.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vea.data.views.formats import passed_over
from vea.data.views.pictures import picture_name
from vea.errors import RunError, VeaError, command

if TYPE_CHECKING:
    from vea.inference.predict import Predictor
    from vea.inference.results import Attribute, Prediction
from vea.inference.annotate import annotate
from vea.inference.files import find_clips, find_files


def _labels(attributes: dict[str, Attribute]) -> dict[str, dict]:
    return {
        name: {"value": round(found.value, 4) if isinstance(found.value, float) else found.value}
        | ({"probabilities": _rounded(found.probabilities)} if found.probabilities else {})
        for name, found in attributes.items()
    }


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in shares.items()}


def record(path: str, prediction: Prediction) -> dict:
    """Returns one picture's result for JSON."""
    faces = [
        {
            "box": list(face.box),
            "score": round(face.score, 4),
            "expression": face.expression,
            "probabilities": _rounded(face.probabilities),
            "attributes": _labels(face.attributes),
        }
        for face in prediction.faces
    ]
    return {
        "file": path,
        "expression": prediction.expression,
        "emotion": prediction.emotion,
        "probabilities": _rounded(prediction.probabilities),
        "attributes": _labels(prediction.attributes),
        "faces": faces,
    }


def _cell(found: Attribute | None) -> str:
    if found is None:
        return ""
    if isinstance(found.value, float):
        return f"{found.value:.4f}"
    return found.value if isinstance(found.value, str) else "|".join(found.value)


def _said(name: str | None, shares: dict[str, float], attributes: dict[str, Attribute], *, target: str) -> str:
    """Returns one face or picture in words: the main label with its share, then the others."""
    main = [f"{name} {shares[name]:.0%}"] if name else []
    return ", ".join([*main, *(f"{label} {_cell(found)}" for label, found in attributes.items() if label != target or
                               not name)])  # fmt: skip


class Table:
    """Writes one row per face, or per picture, as text or CSV; labels beside the main one have columns of their own."""

    def __init__(
        self, stream: TextIO, *, classes: tuple[str, ...], as_csv: bool, target: str = "", others: Sequence[str] = ()
    ) -> None:
        self.classes, self.target, self.others = classes, target, list(others)
        self.stream = stream
        self.writer = csv.writer(stream, lineterminator="\n") if as_csv else None
        if self.writer:
            columns = ["file", "face", "x0", "y0", "x1", "y1", "score", "expression", *classes]
            self.writer.writerow([*columns, *self.others])

    def _cells(self, name: str | None, shares: dict[str, float], attributes: dict[str, Attribute]) -> list[str]:
        numbers = [f"{shares[word]:.4f}" if word in shares else "" for word in self.classes]
        return [name or "", *numbers, *(_cell(attributes.get(label)) for label in self.others)]

    def write(self, path: str, prediction: Prediction) -> None:
        """Writes a picture's rows; without faces, one row for the picture as a whole."""
        faces, whole = prediction.faces, prediction.expression or prediction.emotion
        if self.writer:
            for number, face in enumerate(faces):
                cells = self._cells(face.expression, face.probabilities, face.attributes)
                self.writer.writerow([path, number, *face.box, f"{face.score:.2f}", *cells])
            if not faces:
                cells = self._cells(whole, prediction.probabilities, prediction.attributes)
                self.writer.writerow([path, *[""] * 6, *cells])
            return
        shown = [
            f"{_said(face.expression, face.probabilities, face.attributes, target=self.target)} at "
            f"{','.join(map(str, face.box))}"
            for face in faces
        ]
        if not shown:
            shown = [_said(whole, prediction.probabilities, prediction.attributes, target=self.target)]
        print(f"{path}: {'; '.join(shown) or 'no face found'}", file=self.stream)


@command
def main(argv: list[str]) -> int:
    """Runs ``vea predict``; returns 1 where a file could not be read, after all others were done."""
    parser = argparse.ArgumentParser(prog="vea predict", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="FILE|FOLDER|GLOB")
    parser.add_argument("--model", default="expression", help="expression or expression-nano (both ship), a run, a hub")
    parser.add_argument("--target", help="which label of the model to predict")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-faces", action="store_true", help="the pictures are face crops: do not search for faces")
    parser.add_argument("--urls", action="store_true", help="fetch pictures named by http(s) addresses")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per picture and line")
    form.add_argument("--csv", action="store_true", help="one line per face")
    parser.add_argument("--annotate", type=Path, metavar="DIR", help="write the pictures with boxes and names here")
    video = parser.add_argument_group("videos and cameras")
    video.add_argument("--every", type=int, default=1, metavar="N", help="look at each N-th frame only")
    video.add_argument("--no-smoothing", action="store_true", help="each frame alone, without its neighbours")
    video.add_argument("--out", type=Path, metavar="FILE", help="write the rows here: .csv, .jsonl or .parquet")
    arguments = parser.parse_args(argv)

    clips, others = find_clips(arguments.paths)
    if clips:
        return _videos(arguments, clips, others)
    return _pictures(arguments)


def _videos(arguments: argparse.Namespace, clips: list[Path | int], others: Sequence[str | Path]) -> int:
    """Runs over videos; returns 1 where one could not be read to its end, after all others were done."""
    if others:
        raise VeaError(f"pictures and videos have different tables: give {clips[0]} and {others[0]} in two calls")
    refused = {"--no-faces": arguments.no_faces, "--urls": arguments.urls, "--annotate": arguments.annotate}
    for name in (name for name, given in refused.items() if given):
        raise VeaError(f"{name} is of pictures, and {clips[0]} is a {'camera' if clips[0] == 0 else 'video'}")
    if arguments.every < 1:
        raise VeaError(f"--every {arguments.every} is not a number of frames from 1 on")
    from vea.faces.video import require_av
    from vea.inference.tables import form_of, table, text_table

    if arguments.out:
        form_of(arguments.out)
    if any(isinstance(clip, Path) for clip in clips):
        require_av()
    from vea.inference.predict import load
    from vea.inference.video import columns

    predictor = load(arguments.model, target=arguments.target, device=arguments.device)
    names = {"file": str, **columns(predictor)}
    if arguments.out:
        with table(arguments.out, names) as write:
            return _tracked(arguments, clips, predictor, write)
    if arguments.json or arguments.csv:
        return _tracked(arguments, clips, predictor, text_table(sys.stdout, "csv" if arguments.csv else "json", names))
    return _tracked(arguments, clips, predictor, _say)


def _say(row: Mapping[str, Any]) -> None:
    box = ",".join(str(row[name]) for name in ("x0", "y0", "x1", "y1"))
    said = f"{row['expression']} {row.get('p_' + row['expression'], 0.0):.0%} at {box}"
    print(f"{row['file']}: {row['time']:.2f} s, person {row['track']}: {said}", flush=True)


def _tracked(
    arguments: argparse.Namespace, clips: list[Path | int], predictor: Predictor, write: Callable[[dict], None]
) -> int:
    broken, count = 0, 0
    for clip in clips:
        try:
            for row in predictor.stream(clip, every=arguments.every, smoothing=not arguments.no_smoothing):
                write({"file": str(clip), **row.record()})
                count += 1
        except RunError:
            raise
        except VeaError as error:
            if len(clips) == 1 and not count:
                raise
            print(f"skipped: {error}" if len(clips) > 1 else f"error: {error}", file=sys.stderr)
            broken += 1
    if broken == len(clips) and not count:
        raise RunError(f"none of the {len(clips)} videos could be read")
    if broken and len(clips) > 1:
        print(f"{broken} of {len(clips)} videos could not be read to their end", file=sys.stderr)
    if not count and not broken:
        print("no face found", file=sys.stderr)
    return 1 if broken else 0


def _pictures(arguments: argparse.Namespace) -> int:
    passed: Counter[str] = Counter()
    files = find_files(arguments.paths, passed=passed)
    if arguments.out:
        raise VeaError("--out is of videos; of pictures: --csv or --json, and > FILE")
    if passed:
        print(passed_over(passed), file=sys.stderr)
    from vea.inference.predict import load  # torch: only once the arguments are known to be good

    predictor = load(arguments.model, target=arguments.target, device=arguments.device)
    if arguments.annotate:
        arguments.annotate.mkdir(parents=True, exist_ok=True)
    others = [name for name in predictor.fields if name != predictor.target or not predictor.classes]
    table = None
    if not arguments.json:
        columns, target = predictor.classes, predictor.target
        table = Table(sys.stdout, classes=columns, as_csv=arguments.csv, target=target, others=others)
    unreadable = 0
    results = predictor.stream(files, detect_faces=not arguments.no_faces, urls=arguments.urls)
    for number, (file, result) in enumerate(zip(files, results), start=1):
        path = picture_name(file)
        if sys.stderr.isatty() and not sys.stdout.isatty():  # never between lines that a person reads
            print(f"\r{number} of {len(files)}", end="\n" if number == len(files) else "", file=sys.stderr)
        if isinstance(result, VeaError):
            print(f"skipped: {result}", file=sys.stderr)
            unreadable += 1
        elif table is None:
            print(json.dumps(record(path, result), ensure_ascii=False), flush=True)
        else:
            table.write(path, result)
        if arguments.annotate and not isinstance(result, VeaError):
            annotate(file, result, folder=arguments.annotate)
    if unreadable:
        print(f"{unreadable} of {len(files)} files could not be read", file=sys.stderr)
    return 1 if unreadable else 0
