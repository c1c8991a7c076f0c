"""Graded ratings of faces (EmoNet-Face's question, arXiv 2505.20033): how much of an emotion does a face show.

``ratings`` asks about FER+ faces, whose ten votes a face are the raters. The human side of EmoNet-Face's own 40
categories is computed from its 65,686 yes/no judgements, whose pictures are not at hand: ``human_agreement``.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.evals.pictures import from_zip
from vea.evals.question import Answer, Question
from vea.evals.tasks.affect import FER, read_number
from vea.evals.tasks.base import Task, mass_scores
from vea.metrics import human_scores, krippendorff_alpha, rating_scores

MIN_ALPHA = 0.3  # people who agree less than this set no standard: flagged, and out of the headline
YES_NO = "Does the face in the image show {emotion}? Answer with Yes or No."
RATERS = 10


def human_agreement(folder: Path) -> dict[str, Any]:
    """Returns the raters' agreement on EmoNet-Face's emotions from ``binary.csv``.

    ``unanimous`` is the share of pictures with two or three judgements on which all agree; ``alpha`` is nominal, by
    emotion. Who was judged again was not drawn at random (a first yes led to more looks), so alpha, which takes it
    to be, comes out below 0: quote the unanimous share.

    Raises:
        VeaError: there is no such file.
    """
    path = folder / "binary.csv"
    if not path.exists():
        raise VeaError(f"no {path}; it is data/binary.csv of EmoNet-Face")
    held: dict[str, dict[str, dict[str, float]]] = {}
    raters: set[str] = set()
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            raters.add(row["annotator"])
            held.setdefault(row["emotion"], {}).setdefault(row["path"], {})[row["annotator"]] = float(
                row["value"] == "True"
            )
    alphas = {}
    for emotion, pictures in sorted(held.items()):
        table = np.array([[votes.get(name, np.nan) for votes in pictures.values()] for name in sorted(raters)])
        alphas[emotion] = krippendorff_alpha(table, level="nominal")
    votes_of = [list(votes.values()) for pictures in held.values() for votes in pictures.values()]
    several = [votes for votes in votes_of if len(votes) > 1]
    known = [value for value in alphas.values() if not np.isnan(value)]
    return {
        "alpha": alphas,
        "mean_alpha": float(np.mean(known)),
        "unanimous": float(np.mean([len(set(votes)) == 1 for votes in several])),
        "judgements": sum(map(len, votes_of)),
        "raters": len(raters),
    }


def _raters(votes: Sequence[int]) -> np.ndarray:
    """Returns (RATERS, E) ratings 0 or 7 from vote counts; who voted what is not known and does not matter."""
    ratings = np.full((RATERS, len(votes)), np.nan)
    named = [e for e, count in enumerate(votes) for _ in range(count)][:RATERS]
    for rater, emotion in enumerate(named):
        ratings[rater] = 0
        ratings[rater, emotion] = 7
    return ratings


class Ratings(Task):
    """P(yes) by emotion, or a yes or a number in the text, against the votes of ten people."""

    name = "ratings"
    headline = "spearman"

    def questions(self, split: str) -> list[Question]:
        """Returns one question a face and emotion."""
        folder = self.folder("fer2013plus")
        if not (folder / "labels.csv").exists():
            raise VeaError(f"no {folder / 'labels.csv'}; give the folder of FER+ with --data")
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.DictReader(handle) if row["split"] == split]
        files = from_zip(folder / f"{split}.zip", [row["file"] for row in rows])
        made = []
        for row in (row for row in rows if row["file"] in files):
            votes = [int(row[f"v_{name}"]) for name in FER]
            for emotion, count in zip(FER, votes):
                about = {"votes": votes, "emotion": emotion, "class": emotion, "answer": "Yes" if count >= 5 else "No"}
                made.append(
                    Question(
                        f"{row['file']}/{emotion}",
                        YES_NO.format(emotion=emotion),
                        files[row["file"]],
                        ("Yes", "No"),
                        group=row["file"],
                        row=about,
                        max_tokens=6,
                    )
                )
        return made

    def value(self, answer: Answer, readout: str) -> float:
        """Returns the rating, 0 to 7: P(yes), or a yes, no or number of the text; NaN without one."""
        if readout == "probability":
            return 7 * answer.probabilities["Yes"] if answer.probabilities else float("nan")
        text = (answer.text or "").strip().lower()
        if text.startswith(("yes", "no")):
            return 7.0 if text.startswith("yes") else 0.0
        number = read_number(text)
        return float("nan") if number is None else min(max(number, 0.0), 7.0)

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns Spearman over the emotions that people agree on, kappa, alpha, and the people's own scores."""
        faces = list(dict.fromkeys(question.group for question in questions))
        place = {face: row for row, face in enumerate(faces)}
        model = np.full((len(faces), len(FER)), np.nan)
        humans = np.full((RATERS, len(faces), len(FER)), np.nan)
        for question, answer in zip(questions, answers):
            row = place[question.group]
            model[row, FER.index(question.row["emotion"])] = self.value(answer, readout)
            humans[:, row] = _raters(question.row["votes"])
        found, people = rating_scores(model, humans), human_scores(humans)
        kept = [e for e, alpha in enumerate(found["alpha"]) if alpha >= MIN_ALPHA]
        values = [found["per_emotion"][e] for e in kept if not np.isnan(found["per_emotion"][e])]
        named = {name: dict(zip(FER, found[key])) for name, key in (("by_emotion", "per_emotion"), ("alpha", "alpha"))}
        return {
            "spearman": float(np.mean(values)) if values else float("nan"),
            "spearman_all": found["spearman"],
            "kappa": found["kappa"],
            "humans": {"spearman": people["spearman"], "kappa": people["kappa"]},
            "flagged": [FER[e] for e in range(len(FER)) if e not in kept],
            **named,
            **(mass_scores(answers) if readout == "probability" else {}),
        }

    def context(self, split: str) -> dict[str, Any]:
        """Returns the agreement of EmoNet-Face's raters where its judgements are at hand."""
        try:
            found = human_agreement(self.folder("fer2013plus").parent / "emonet_face_binary")
        except VeaError:
            return {}
        return {"EmoNet-Face, 40 emotions": {k: found[k] for k in ("judgements", "raters", "unanimous", "mean_alpha")}}


make = Ratings
