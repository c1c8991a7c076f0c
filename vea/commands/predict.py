"""``vea predict FILE|FOLDER|GLOB...``: what every picture evokes, and the expression of every face in it.

Of videos and of cameras (0, 1 ...): the expression of every face over time, each person a track. With ``--text``, of
sentences: which of 28 emotions they speak of.
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
from vea.errors import VeaError, command

if TYPE_CHECKING:
    from vea.inference.results import Attribute, Face, Prediction, Scene
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
            **_readings(face),
            **({"landmarks": face.landmarks.record()} if face.landmarks else {}),
        }
        for face in prediction.faces
    ]
    return {
        "file": path,
        "expression": prediction.expression,
        "emotion": prediction.emotion,
        "probabilities": _rounded(prediction.probabilities),
        "attributes": _labels(prediction.attributes),
        **_readings(prediction),
        "faces": faces,
    }


def _readings(found: Face | Prediction) -> dict[str, dict[str, float]]:
    told = {name: _rounded(getattr(found, name)) for name in ("affect", "intensity", "units")}
    return {name: values for name, values in told.items() if values}


SCENE_COLUMNS = ["valence", "valence_sd", "arousal", "arousal_sd", "quadrant", "brightness", "colorfulness"]


def scene_record(scene: Scene) -> dict:
    """Returns what a picture evokes for JSON."""
    numbers = {name: getattr(scene, name) for name in SCENE_COLUMNS}
    named = {name: round(value, 4) if isinstance(value, float) else value for name, value in numbers.items()}
    return {**named, "quadrants": _rounded(scene.quadrants)}


def scene_line(scene: Scene) -> str:
    """Returns what a picture evokes in words."""
    share = scene.quadrants[scene.quadrant]
    return (
        f"scene valence {scene.valence:.1f} ± {scene.valence_sd:.1f}, arousal {scene.arousal:.1f} ± "
        f"{scene.arousal_sd:.1f} (1 to 7), {scene.quadrant} {share:.0%}, brightness {scene.brightness:.1f}, "
        f"colorfulness {scene.colorfulness:.1f}"
    )


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


def _pose(face: Face) -> str:
    marks = face.landmarks
    return f", yaw {marks.yaw:.0f}, pitch {marks.pitch:.0f}, roll {marks.roll:.0f} degrees" if marks else ""


class Table:
    """Writes one row per face, or per picture, as text or CSV; labels beside the main one have columns of their own.

    ``scenes`` adds columns, and a row a picture whose ``face`` is "scene"; as text each face has then its own line.
    ``readings`` are further columns, of ``vea.inference.readings.flat``.
    """

    def __init__(
        self, stream: TextIO, *, classes: tuple[str, ...], as_csv: bool, target: str = "", others: Sequence[str] = (),
        scenes: bool = False, readings: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.classes, self.target, self.others = classes, target, list(others)
        self.readings = list(readings)
        self.stream, self.scenes = stream, scenes
        self.writer = csv.writer(stream, lineterminator="\n") if as_csv else None
        if self.writer:
            columns = ["file", "face", "x0", "y0", "x1", "y1", "score", "expression", *classes]
            self.writer.writerow([*columns, *self.others, *(SCENE_COLUMNS if scenes else []), *self.readings])

    def _cells(self, name: str | None, found: Face | Prediction) -> list[str]:
        from vea.inference.readings import flat

        shares, attributes, read = found.probabilities, found.attributes, flat(found)
        numbers = [f"{shares[word]:.4f}" if word in shares else "" for word in self.classes]
        cells = [name or "", *numbers, *(_cell(attributes.get(label)) for label in self.others)]
        cells += [""] * len(SCENE_COLUMNS) * self.scenes
        return cells + [f"{read[column]:.4f}" if column in read else "" for column in self.readings]

    def write_scene(self, path: str, scene: Scene) -> None:
        """Writes the row of what a picture evokes."""
        if self.writer:
            described = scene_record(scene)
            blank = [""] * (6 + len(self.classes) + len(self.others))
            cells = [described[name] for name in SCENE_COLUMNS]
            self.writer.writerow([path, "scene", *blank, *cells, *[""] * len(self.readings)])
        else:
            print(f"{path}: {scene_line(scene)}", file=self.stream)

    def write(self, path: str, prediction: Prediction) -> None:
        """Writes a picture's rows; without faces, one row for the picture as a whole."""
        faces, whole = prediction.faces, prediction.expression or prediction.emotion
        if self.writer:
            for number, face in enumerate(faces):
                cells = self._cells(face.expression, face)
                self.writer.writerow([path, number, *face.box, f"{face.score:.2f}", *cells])
            if not faces:
                cells = self._cells(whole, prediction)
                self.writer.writerow([path, *[""] * 6, *cells])
            return
        shown = [
            f"{_said(face.expression, face.probabilities, face.attributes, target=self.target)} at "
            f"{','.join(map(str, face.box))}{_pose(face)}"
            for face in faces
        ]
        if not shown:
            shown = [_said(whole, prediction.probabilities, prediction.attributes, target=self.target)]
        said = (shown if self.scenes else ["; ".join(shown)]) or ["no face found"]
        for words in said:
            print(f"{path}: {words or 'no face found'}", file=self.stream)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vea predict", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="FILE|FOLDER|GLOB")
    parser.add_argument(
        "--text", nargs="+", metavar="TEXT", help="read sentences instead: their emotions of GoEmotions"
    )
    parser.add_argument("--model", help="one model, which ships (expression, expression-nano, expression-pair, scene), "
                                        "or a run or hub folder; without it scene and expression")  # fmt: skip
    parser.add_argument("--only", choices=("faces", "scene"), help="of the two models of the default, this one alone")
    parser.add_argument("--target", help="which label of the model to predict")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-faces", action="store_true", help="the pictures are face crops: do not search for faces")
    parser.add_argument("--landmarks", action="store_true", help="of every face points, blendshapes and pose "
                        "(without --json the pose alone); needs MediaPipe's face_landmarker.task")  # fmt: skip
    parser.add_argument("--urls", action="store_true", help="fetch pictures named by http(s) addresses")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object per picture and line")
    form.add_argument("--csv", action="store_true", help="one line per scene and per face")
    told = "write the pictures with boxes and names here; of a video a folder or a file (out.mp4)"
    parser.add_argument("--annotate", type=Path, metavar="DIR", help=told)
    video = parser.add_argument_group("videos and cameras")
    video.add_argument("--every", type=int, default=1, metavar="N", help="look at each N-th frame only")
    video.add_argument("--no-smoothing", action="store_true", help="each frame alone, without its neighbours")
    video.add_argument("--units", action="store_true", help="action units, intensities, valence, arousal of each face "
                       "as columns; of pictures they always are")  # fmt: skip
    video.add_argument("--out", type=Path, metavar="FILE", help="write the rows here: .csv, .jsonl or .parquet")
    video.add_argument("--report", type=Path, metavar="HTML", help="write a page with a timeline and peaks per person")
    given = parser.parse_args(argv)
    if bool(given.paths) == bool(given.text):
        raise VeaError("give pictures or videos, or --text with sentences: one of the two")
    if given.only and given.model:
        raise VeaError("--only chooses between the two models of the default; leave out --only or --model")
    for name in ("no_faces", "target", "annotate", "landmarks"):
        if given.only == "scene" and getattr(given, name):
            raise VeaError(f"--{name.replace('_', '-')} is about faces, and --only scene looks for none; leave out one")
    if given.no_faces and not given.model:  # a face crop is no scene
        given.only = "faces"
    return given


@command
def main(argv: list[str]) -> int:
    """Runs ``vea predict``; returns 1 where a file could not be read, after all others were done."""
    given = _arguments(argv)
    if given.text:
        return _texts(given)
    clips, others = find_clips(given.paths)
    return _videos(given, clips, others) if clips else _pictures(given)


def _texts(given: argparse.Namespace) -> int:
    from vea.inference.text import load_text, record

    if given.csv:
        raise VeaError("--csv is of pictures and videos; of sentences: --json")
    for text, found in zip(given.text, load_text().predict(given.text)):
        shares = [f"{name} {found.probabilities[name]:.0%}" for name in found.labels]
        print(record(text, found) if given.json else f"{text}: {', '.join(shares)}")
    return 0


def _videos(given: argparse.Namespace, clips: list[Path | int], others: Sequence[str | Path]) -> int:
    """Runs over videos; returns 1 where one could not be read to its end, after all others were done."""
    if others:
        raise VeaError(f"pictures and videos have different tables: give {clips[0]} and {others[0]} in two calls")
    for name in (name for name in ("no_faces", "urls", "landmarks") if getattr(given, name)):
        raise VeaError(f"--{name.replace('_', '-')} is of pictures, and {clips[0]} is a video or a camera")
    if given.only == "scene":
        raise VeaError(f"--only scene is of pictures, and {clips[0]} is a video or a camera")
    if given.every < 1:
        raise VeaError(f"--every {given.every} is not a number of frames from 1 on")
    from vea.faces.video import require_av
    from vea.inference.clips import Outputs, Reading, read_clips
    from vea.inference.tables import form_of, table, text_table

    outputs = Outputs(given.annotate, given.report)
    outputs.check(clips)
    if given.out:
        form_of(given.out)
    if any(isinstance(clip, Path) for clip in clips):
        require_av()
    from vea.inference.predict import load
    from vea.inference.video import columns

    predictor = load(given.model or "expression", target=given.target, device=given.device)
    names = {"file": str, **columns(predictor, units=given.units)}

    def run(write: Callable[[dict[str, Any]], None]) -> Reading:
        smoothing = not given.no_smoothing
        return read_clips(
            clips, predictor, write, every=given.every, smoothing=smoothing, units=given.units, outputs=outputs
        )

    if given.out:
        with table(given.out, names) as write:
            result = run(write)
    elif given.json or given.csv:
        result = run(text_table(sys.stdout, "csv" if given.csv else "json", names))
    else:
        result = run(_say)
    for sentence in result.errors:
        print(f"error: {sentence}", file=sys.stderr)
    if len(clips) > 1 and result.errors:
        print(f"{len(result.errors)} of {len(clips)} videos could not be read to their end", file=sys.stderr)
    if not result.rows and not result.errors:
        print("no face found", file=sys.stderr)
    return 1 if result.errors else 0


def _say(row: Mapping[str, Any]) -> None:
    box = ",".join(str(row[name]) for name in ("x0", "y0", "x1", "y1"))
    said = f"{row['expression']} {row.get('p_' + row['expression'], 0.0):.0%} at {box}"
    print(f"{row['file']}: {row['time']:.2f} s, person {row['track']}: {said}", flush=True)


def _pictures(given: argparse.Namespace) -> int:
    passed: Counter[str] = Counter()
    files = find_files(given.paths, passed=passed)
    for name in (name for name in ("out", "report") if getattr(given, name)):
        raise VeaError(f"--{name} is of videos; of pictures: --csv or --json, and > FILE")
    if given.landmarks and given.no_faces:
        raise VeaError("--landmarks are of faces that are found, and --no-faces looks for none; leave out one")
    if passed:
        print(passed_over(passed), file=sys.stderr)
    from vea.inference.predict import load  # torch: only once the arguments are known to be good
    from vea.inference.readings import columns
    from vea.inference.scene import load_scene, look

    scene = None if given.model or given.only == "faces" else load_scene(device=given.device)
    faces = None if given.only == "scene" else load(given.model or "expression", target=given.target,
                                                    device=given.device, landmarks=given.landmarks)  # fmt: skip
    if given.annotate:
        given.annotate.mkdir(parents=True, exist_ok=True)
    table = None
    if not given.json:
        classes, target = (faces.classes, faces.target) if faces else ((), "")
        others = [name for name in faces.fields if name != target or not classes] if faces else []
        table = Table(sys.stdout, classes=classes, as_csv=given.csv, target=target, others=others, scenes=bool(scene),
                      readings=columns(faces.readings, landmarks=given.landmarks) if faces else ())  # fmt: skip
    unreadable = 0
    results = look(files, scene=scene, faces=faces, detect_faces=not given.no_faces, urls=given.urls)
    for number, (file, result) in enumerate(zip(files, results), start=1):
        path = picture_name(file)
        if sys.stderr.isatty() and not sys.stdout.isatty():  # never between lines that a person reads
            print(f"\r{number} of {len(files)}", end="\n" if number == len(files) else "", file=sys.stderr)
        if isinstance(result, VeaError):
            print(f"skipped: {result}", file=sys.stderr)
            unreadable += 1
            continue
        if table is None:
            whole = {"scene": scene_record(result.scene)} if result.scene else {}
            told = record(path, result.faces) if result.faces else {"file": path}
            print(json.dumps(told | whole, ensure_ascii=False), flush=True)
        else:
            if result.scene:
                table.write_scene(path, result.scene)
            if result.faces:
                table.write(path, result.faces)
        if given.annotate and result.faces:
            annotate(file, result.faces, folder=given.annotate)
    if unreadable:
        print(f"{unreadable} of {len(files)} files could not be read", file=sys.stderr)
    return 1 if unreadable else 0
