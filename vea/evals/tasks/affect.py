"""EmoLLMs' affective evaluation benchmark for pictures: V-reg, A-reg, V-oc, EI-reg, E-c (arXiv 2401.08508).

``affect:oasis`` (default), ``affect:bass``, ``affect:emoji``, ``affect:fer``. The intensity questions ask for a digit
from 0 to 9 where EmoLLMs ask for a number from 0 to 1: a digit is one token, so that an expected value can be read.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError, did_you_mean
from vea.evals import oasis
from vea.evals.pictures import from_zip
from vea.evals.question import Answer, Question
from vea.evals.tasks.base import Task, mass_scores
from vea.metrics import quadratic_kappa
from vea.taxonomy.wheels import families, find_words

DIGITS = tuple("0123456789")
VALENCE = ("Task: Evaluate the valence intensity of the viewer's mental state based on the image, from 0 (most "
           "negative) to 9 (most positive). Answer with one digit. Intensity Score:")  # fmt: skip
AROUSAL = ("Task: Evaluate the arousal intensity of the viewer's mental state based on the image, from 0 (most calm) "
           "to 9 (most aroused). Answer with one digit. Intensity Score:")  # fmt: skip
ORDINAL = ("Task: Categorize the image into an ordinal class that best characterizes the viewer's mental state: 3: "
           "very positive, 2: moderately positive, 1: slightly positive, 0: neutral or mixed, -1: slightly negative, "
           "-2: moderately negative, -3: very negative. Intensity Class:")  # fmt: skip
INTENSITY = ("Task: Assign a digit between 0 (least {emotion}) and 9 (most {emotion}) to represent the intensity of "
             "{emotion} expressed in the image. Answer with one digit. Intensity Score:")  # fmt: skip
LABELS = ("Task: Categorize the image's emotional tone as either 'neutral or no emotion' or identify the presence of "
          "one or more of the given emotions ({names}). This image contains emotions:")  # fmt: skip
FER = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
SOURCES = ("oasis", "bass", "emoji", "fer")


def _number(key: str, picture: Path, measure: str, prompt: str, truth: float) -> Question:
    """Returns a question for a digit; ``truth`` is 0 to 1."""
    row = {"measure": measure, "truth": truth, "answer": str(round(9 * truth)), "class": measure}
    return Question(f"{key}/{measure}", prompt, picture, DIGITS, tuple(i / 9 for i in range(10)), key, row, 8)


def _ordinal(key: str, picture: Path, valence: float) -> Question:
    """Returns the question for V-oc: cuts at 0.5, 1.5 and 2.5 around the midpoint 4 of the 1 to 7 scale."""
    level = int(np.sign(valence - 4) * np.searchsorted([0.5, 1.5, 2.5], abs(valence - 4)))
    row = {"measure": "V-oc", "truth": level, "answer": str(level), "class": "V-oc"}
    return Question(f"{key}/V-oc", ORDINAL, picture, group=key, row=row, max_tokens=12)


def _labels(key: str, picture: Path, names: Sequence[str], truth: Sequence[str]) -> Question:
    row = {"measure": "E-c", "truth": list(truth), "answer": ", ".join(truth) or "neutral", "class": "E-c"}
    return Question(f"{key}/E-c", LABELS.format(names=", ".join(names)), picture, group=key, row=row, max_tokens=32)


def _from_oasis(folder: Path, split: str) -> list[Question]:
    made = []
    for photo in (p for p in oasis.read_photos(folder) if p.split == split):
        made.append(_number(photo.key, photo.file, "V-reg", VALENCE, (photo.valence - 1) / 6))
        made.append(_number(photo.key, photo.file, "A-reg", AROUSAL, (photo.arousal - 1) / 6))
        made.append(_ordinal(photo.key, photo.file, photo.valence))
    return made


def _from_bass(folder: Path, split: str) -> list[Question]:
    made = []
    with (folder / "BASS_data.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            file = folder / "images" / row["file_name"]
            made.append(_number(row["file_name"], file, "V-reg", VALENCE, (float(row["val_mean_us"]) - 1) / 8))
            made.append(_number(row["file_name"], file, "A-reg", AROUSAL, (float(row["aro_mean_us"]) - 1) / 8))
    return made if split == "test" else []


def _from_emoji(folder: Path, split: str) -> list[Question]:
    made = []
    for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("emotag"):
            key, file = row["codepoints"], folder / row["images"]["twitter"]
            for emotion, value in row["emotag"].items():
                made.append(
                    _number(f"{key}/{emotion}", file, f"EI-reg {emotion}", INTENSITY.format(emotion=emotion), value)
                )
            made.append(_labels(key, file, list(row["emotag"]), [e for e, v in row["emotag"].items() if v >= 0.4]))
    return made if split == "test" else []


def _from_fer(folder: Path, split: str) -> list[Question]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == split]
    files = from_zip(folder / f"{split}.zip", [row["file"] for row in rows])
    made = []
    for row in rows:
        votes = {name: int(row[f"v_{name}"]) for name in FER}
        total = sum(votes.values())
        if row["file"] in files and total:
            key, file = row["file"], files[row["file"]]
            for emotion in FER:
                prompt = INTENSITY.format(emotion=emotion)
                made.append(_number(f"{key}/{emotion}", file, f"EI-reg {emotion}", prompt, votes[emotion] / total))
            made.append(_labels(key, file, FER, [name for name, count in votes.items() if count >= 2]))
    return made


def read_number(text: str | None) -> float | None:
    """Returns the first number of a reply, None without one."""
    found = re.search(r"-?\d+(?:\.\d+)?", text or "")
    return float(found.group()) if found else None


def pearson_or_zero(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns Pearson's r, 0 for a constant: it knows nothing."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


class Affect(Task):
    """Intensities, ordinal classes and label sets; replies without a number count as the middle, and are counted."""

    name = "affect"
    headline = "mean"

    def questions(self, split: str) -> list[Question]:
        """Returns the questions of the source."""
        source = self.source or "oasis"
        if source not in SOURCES:
            raise VeaError(f"affect has no source {source!r}{did_you_mean(source, SOURCES)}")
        folder = {"bass": "bass", "emoji": "emoji_affect", "fer": "fer2013plus", "oasis": "oasis"}[source]
        read = {"oasis": _from_oasis, "bass": _from_bass, "emoji": _from_emoji, "fer": _from_fer}[source]
        try:
            return read(self.folder(folder), split)
        except (OSError, KeyError, ValueError) as error:
            raise VeaError(
                f"{self.folder(folder)} is not {folder} as expected ({error}); give it with --data"
            ) from None

    def value(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns what was answered on the scale of the truth: 0 to 1, or -3 to 3; None where nothing was."""
        if readout == "probability":
            shares = answer.probabilities
            return sum(shares[c] * v for c, v in zip(question.choices, question.values)) if shares else None
        found = read_number(answer.text)
        if found is None:
            return None
        return found if question.row["measure"] == "V-oc" else min(max(found / 9, 0.0), 1.0)

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns the Jaccard overlap of label sets; single numbers have no score of their own."""
        if question.row["measure"] != "E-c" or readout != "text":
            return None
        held = families()
        wanted = {held.get(word, word) for word in question.row["truth"]} - {"neutral"}
        given = {held[word] for word in find_words(answer.text or "")} - {"neutral"}
        return len(wanted & given) / len(wanted | given) if wanted | given else 1.0

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns Pearson, quadratic kappa or Jaccard by measure, their mean, and how many replies held no answer."""
        by_measure: dict[str, list[tuple[Question, Answer]]] = {}
        for question, answer in zip(questions, answers):
            if readout == "text" or question.choices:
                by_measure.setdefault(question.row["measure"], []).append((question, answer))
        measures, silent = {}, 0
        for measure, pairs in by_measure.items():
            if measure == "E-c":
                measures[measure] = float(np.mean([self.points(q, a, readout) or 0.0 for q, a in pairs]))
                continue
            given = [self.value(q, a, readout) for q, a in pairs]
            silent += sum(value is None for value in given)
            middle = 0.0 if measure == "V-oc" else 0.5
            filled = [middle if value is None else value for value in given]
            truth = [float(q.row["truth"]) for q, _ in pairs]
            if measure == "V-oc":
                kappa = quadratic_kappa(np.clip(filled, -3, 3) + 3, np.array(truth) + 3, levels=7)
                measures[measure] = 0.0 if np.isnan(kappa) else kappa
            else:
                measures[measure] = pearson_or_zero(filled, truth)
        found = {"mean": float(np.mean(list(measures.values()))), "measures": measures, "without_an_answer": silent}
        return found | (mass_scores(answers) if readout == "probability" else {})

    def context(self, split: str) -> dict[str, Any]:
        """Returns the reliability of OASIS's norms: the ceiling of any Pearson is its square root."""
        if self.source not in ("", "oasis"):
            return {}
        from vea.metrics import norm_reliability

        photos = [photo for photo in oasis.read_photos(self.folder("oasis")) if photo.split == split]
        means, spread = np.array([p.valence for p in photos]), np.array([p.valence_sd for p in photos])
        return {
            "reliability of the valence norms": norm_reliability(means, spread, np.array([p.raters for p in photos]))
        }


make = Affect
