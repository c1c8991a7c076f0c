"""Emotion statement judgment: a published file (MVEI's form), or statements built from OASIS."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.evals import oasis
from vea.evals.question import Answer, Question
from vea.evals.tasks.base import Task, mass_scores, named
from vea.metrics import bootstrap_interval, calibration_scores, pair_score, statement_scores
from vea.metrics.statements import PARSERS, parse_statement

CHOICES = ("Correct", "Incorrect")


def read_file(path: Path, pictures: Path | None) -> list[dict[str, Any]]:
    """Returns the statements of a file in the published form, each with the path of its picture.

    The form: a list of {image_id, statement_list: [{statement, label, class}]}; ``image_id`` is a file below
    ``pictures`` (default: the folder of the file), with or without its ending.

    Raises:
        VeaError: the file is not of that form, or a picture is missing.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        rows = [{**row, "image_id": entry["image_id"]} for entry in entries for row in entry["statement_list"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VeaError(
            f"{path} is not a statement file ({type(error).__name__}: {error}); the form is a list of image_id and "
            "statement_list with statement, label and class"
        ) from None
    folder = pictures or path.parent
    found: dict[str, Path] = {}
    for row in rows:
        missing = [name for name in ("statement", "label", "class") if not isinstance(row.get(name), str)]
        if missing:
            raise VeaError(f"{path}: a statement of {row['image_id']} has no {missing[0]}")
        name = str(row["image_id"])
        if name not in found:
            exact = folder / name
            like = [exact] if exact.is_file() else sorted(p for p in folder.glob(f"{name}.*") if p.suffix != ".json")
            if not like:
                raise VeaError(f"{path}: no picture {name} in {folder}; give its folder with --data")
            found[name] = like[0]
        row["file"] = found[name]
    return rows


class Statements(Task):
    """Is a statement about a picture right; three parsers, pairs, and P(Correct)."""

    name = "statements"

    def _rows(self, split: str) -> list[dict[str, Any]]:
        if self.source:
            return read_file(Path(self.source), self.data) if split == "test" else []
        photos = [photo for photo in oasis.read_photos(self.folder("oasis")) if photo.split == split]
        files = {photo.key: photo.file for photo in photos}
        rows = oasis.build_statements(
            photos, seed=self.seed, features=self.options.get("features"),
            matchings=self.options.get("matchings", 1),
        )  # fmt: skip
        return [{**row, "file": files[row["image_id"]]} for row in rows]

    def questions(self, split: str) -> list[Question]:
        """Returns one question a statement."""
        return [
            Question(
                key=f"{number}/{row['image_id']}",
                prompt=oasis.PROMPT.format(statement=row["statement"]),
                picture=row.pop("file"),
                choices=CHOICES,
                group=str(row["image_id"]),
                row={**row, "answer": row["label"].strip().capitalize()},
            )
            for number, row in enumerate(self._rows(split))
        ]

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns 1 for a right verdict of the conference parser."""
        return float(parse_statement(named(answer, readout)) == question.row["label"].strip().lower())

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns accuracy per parser and class, pairs, intervals and calibration."""
        rows = [{**q.row, "predict": named(a, readout)} for q, a in zip(questions, answers)]
        parsers = {name: statement_scores(rows, parser=name) for name in PARSERS}
        found: dict[str, Any] = {
            "accuracy": parsers["conference"]["overall"]["accuracy"],
            "pair_accuracy": pair_score(rows)["accuracy"],
            "parsers": parsers,
            "intervals": self._intervals(questions, answers, readout),
        }
        if readout == "probability":
            right = [self.points(q, a, readout) for q, a in zip(questions, answers) if a.probabilities]
            sure = [max(a.probabilities.values()) for a in answers if a.probabilities]
            found |= {"calibration": calibration_scores(sure, right), **mass_scores(answers)}
        return found

    def _intervals(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns 95 % intervals of accuracy, pictures drawn with replacement, overall and by class."""
        found = {}
        for name in ("overall", *sorted({q.row["class"] for q in questions})):
            picked = [(q, a) for q, a in zip(questions, answers) if name in ("overall", q.row["class"])]
            groups: dict[str, list[float]] = {}
            for question, answer in picked:
                groups.setdefault(question.group, []).append(self.points(question, answer, readout) or 0.0)
            sums = np.array([[sum(points), len(points)] for points in groups.values()])
            found[name] = bootstrap_interval(sums, lambda drawn: drawn[..., 0].sum(1) / drawn[..., 1].sum(1))
        return found

    def context(self, split: str) -> dict[str, Any]:
        """Returns the human ceiling of MVEI, or the bias of the gender statements of OASIS."""
        if self.source:
            return {"humans": 0.916, "humans_source": "MVEI (arXiv 2509.21950), on its own statements"}
        photos = [photo for photo in oasis.read_photos(self.folder("oasis")) if photo.split == split]
        bias = oasis.gender_bias(photos)
        return {"perception subjectivity, rule 'women rate further from the midpoint'": bias}


make = Statements
