"""Explanations: what a picture evokes and why, against OASIS's human captions and norms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vea.evals import oasis
from vea.evals.question import Answer, Question
from vea.evals.tasks.base import Task
from vea.metrics import caption_scores
from vea.taxonomy.wheels import find_words, word_polarity

PROMPT = "Which emotion does this image evoke, and why? Answer in one sentence: name the emotion, then what you see."


def polarity_of(text: str | None) -> float:
    """Returns 1 or -1, the polarity of the first polar emotion word of a text; 0 without one."""
    return float(next((p for p in map(word_polarity, find_words(text or "")) if p), 0))


class Explanations(Task):
    """Caption metrics, the polarity of the named emotion (EA), and how far mentioned content is what people saw."""

    name = "explanations"
    headline = "polarity_accuracy"
    readouts = ("text",)

    def questions(self, split: str) -> list[Question]:
        """Returns one question a picture on which a sentiment prevails and which has a caption."""
        photos = [p for p in oasis.read_photos(self.folder("oasis")) if p.split == split and p.caption]
        return [
            Question(
                p.key, PROMPT, p.file, group=p.key, max_tokens=60,
                row={"caption": p.caption, "side": 1 if p.polarity == "positive" else -1,
                     "answer": f"It evokes {p.emotion}. {p.caption}"},
            )
            for p in photos if p.polarity != "mixed"
        ]  # fmt: skip

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns 1 where the emotion words of the reply have the polarity of the norms."""
        return float(polarity_of(answer.text) == question.row["side"])

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns the caption metrics, EA, and faithfulness: precision, recall and F of mentioned content words."""
        texts = [answer.text or "" for answer in answers]
        points = [self.points(q, a, readout) or 0.0 for q, a in zip(questions, answers)]
        pairs = [(_content(text), _content(q.row["caption"])) for text, q in zip(texts, questions)]
        precision = float(np.mean([len(a & b) / len(a) if a else 0.0 for a, b in pairs]))
        recall = float(np.mean([len(a & b) / len(b) if b else 0.0 for a, b in pairs]))
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return {
            "polarity_accuracy": float(np.mean(points)),
            "captions": caption_scores(
                {q.key: [q.row["caption"]] for q in questions}, {q.key: text for q, text in zip(questions, texts)}
            ),
            "faithfulness": {"precision": precision, "recall": recall, "f": f},
        }


_STOP = """
    the and with are for that this there has have its his her their from into evokes image because
"""
_STOP_WORDS = frozenset(_STOP.split())


def _content(text: str) -> set[str]:
    emotions = set(find_words(text))
    return {word for word in re.findall(r"[a-z]{3,}", text.lower()) if word not in _STOP_WORDS and word not in emotions}


make = Explanations
