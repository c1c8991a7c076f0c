"""Choice among named emotions: VECBench's file form, a prepared data set with classes, or a folder of class folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.evals.pictures import from_shards
from vea.evals.question import Answer, Question
from vea.evals.tasks.base import Task, mass_scores, named
from vea.metrics import bootstrap_interval, calibration_scores, choice_scores
from vea.metrics.choice import GROUPS, PROTOCOLS, parse_choice

PROMPT = (  # EmoVIT's question form
    "Please select the emotion closest to the image from the following options: {options}. (Do not provide answers "
    "outside of the candidates options.) Please answer in the following format: Predict emotion:"
)
ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def _vecbench(path: Path, pictures: Path | None) -> list[dict[str, Any]]:
    """Reads {id: {image_path, prompt, ground_truth, other_info: {candidates, task}}}."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        rows = [
            {
                "key": str(key),
                "file": (pictures or path.parent) / entry["image_path"],
                "prompt": entry.get("prompt"),
                "label": str(entry["ground_truth"]),
                "candidates": [str(name) for name in entry["other_info"]["candidates"]],
                "task": str(entry["other_info"]["task"]),
            }
            for key, entry in entries.items()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise VeaError(
            f"{path} is not a choice file ({type(error).__name__}: {error}); the form is id: image_path, ground_truth "
            "and other_info with candidates and task"
        ) from None
    lost = next((row for row in rows if not row["file"].is_file()), None)
    if lost is not None:
        raise VeaError(f"{path}: no picture {lost['file']}; give its folder with --data")
    return rows


def _class_folders(folder: Path, split: str) -> list[dict[str, Any]]:
    top = folder / split if (folder / split).is_dir() else folder
    classes = sorted(p.name for p in top.iterdir() if p.is_dir()) if top.is_dir() else []
    files = [(c, f) for c in classes for f in sorted((top / c).iterdir()) if f.suffix.lower() in ENDINGS]
    if not files or (top is folder and split != "test"):
        return []
    return [
        {"key": f"{c}/{f.name}", "file": f, "label": c, "candidates": classes, "task": folder.name} for c, f in files
    ]


def _prepared(folder: Path, split: str, wanted: str) -> list[dict[str, Any]]:
    from vea.data.shards.index import read_index

    index = read_index(folder)
    fields = {name: list(field.classes) for name, field in index.fields.items() if field.classes}
    if not fields:
        raise VeaError(f"{folder} has no label with classes; choice needs one")
    if wanted and wanted not in fields:
        raise VeaError(f"{folder} has no label with classes named {wanted!r}{did_you_mean(wanted, fields)}")
    name = wanted or next(iter(fields))
    if split not in index.splits and split != "test":
        return []
    rows = []
    for key, file, metadata in from_shards(folder, split):
        value = metadata["labels"].get(name)
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            label = fields[name][value] if isinstance(value, int) else value
            rows.append({"key": key, "file": file, "label": label, "candidates": fields[name], "task": index.name})
    return rows


class Choice(Task):
    """Which of these emotions; ``choice:FILE.json``, ``choice:FOLDER`` or ``choice:PREPARED@FIELD``."""

    name = "choice"
    validation = "val"

    def _rows(self, split: str) -> list[dict[str, Any]]:
        place, _, wanted = self.source.partition("@")
        if not place:
            raise VeaError("choice needs data: choice:FILE.json, choice:FOLDER or choice:PREPARED@FIELD")
        path = Path(place).expanduser()
        if path.is_file():
            return _vecbench(path, self.data) if split == "test" else []
        if (path / "index.json").is_file():
            return _prepared(path, split, wanted)
        return _class_folders(path, split)

    def questions(self, split: str) -> list[Question]:
        """Returns one question a picture."""
        made = []
        for row in self._rows(split):
            options = ", ".join(row["candidates"])
            made.append(
                Question(
                    key=row["key"],
                    prompt=row.get("prompt") or PROMPT.format(options=options),
                    picture=row["file"],
                    choices=tuple(row["candidates"]),
                    group=row["key"],
                    row={k: row[k] for k in ("task", "candidates", "label")} | {"answer": row["label"]},
                )
            )
        return made

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns 1 where the strict parser finds the right class."""
        said = parse_choice(named(answer, readout), question.choices, protocol="strict")
        return float(said.lower() == str(question.row["label"]).lower())

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns accuracy of the strict parser, and every protocol's task and group scores."""
        rows = [{**q.row, "predict": named(a, readout)} for q, a in zip(questions, answers)]
        points = np.array([self.points(q, a, readout) for q, a in zip(questions, answers)])
        protocols = {name: choice_scores(rows, protocol=name) for name in PROTOCOLS}
        if not {row["task"] for row in rows} & {task for tasks in GROUPS.values() for task in tasks}:
            ours = {f"{row['task']}_acc" for row in rows}
            protocols = {name: {k: v for k, v in held.items() if k in ours} for name, held in protocols.items()}
        found: dict[str, Any] = {
            "accuracy": float(points.mean()),
            "protocols": protocols,
            "intervals": {"overall": bootstrap_interval(points)},
        }
        if readout == "probability":
            sure = [max(a.probabilities.values()) for a in answers if a.probabilities]
            right = [p for p, a in zip(points, answers) if a.probabilities]
            found |= {"calibration": calibration_scores(sure, right), **mass_scores(answers)}
        return found


make = Choice
