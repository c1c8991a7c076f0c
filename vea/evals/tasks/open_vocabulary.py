"""Open-vocabulary emotion labels (OV-MERD's form): words of a reply against words of people, through emotion wheels."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError
from vea.evals import oasis
from vea.evals.backends.base import Backend, open_backend
from vea.evals.question import Answer, Question
from vea.evals.tasks.base import Task
from vea.metrics import hit_rate, wheel_scores
from vea.metrics.open_vocabulary import agree, mean_labels, read_words
from vea.taxonomy.wheels import find_words

OWN_READER = "text"  # of the option ``extract``
PROMPT = "Please infer the emotional state that the image evokes and list the emotions, separated by commas."


# The prompt of AffectGPT's toolkit for reading labels off a description (facts: MER-UniBench, ovlabel_extraction.py).
EXTRACTION = """Please assume the role of an expert in the field of emotions. We provide clues that may be related to \
the emotions of the characters. Based on the provided clues, please identify the emotional states of the main \
character. The main character is the one with the most detailed clues. Please separate different emotional categories \
with commas and output only the clearly identifiable emotional categories in a list format. If none are identified, \
please output an empty list.
Input: We cannot recognize his emotional state; Output: []
Input: His emotional state is happy, sad, and angry; Output: [happy, sad, angry]
Input: {reason}; Output:"""


def extract_labels(texts: Sequence[str], reader: Backend) -> list[list[str]]:
    """Returns the labels that a language model reads off each text, with the published prompt, greedily.

    Published figures sampled at temperature 0.7; this repeats. A text without an answer has no labels.
    """
    questions = [
        Question(str(i), EXTRACTION.format(reason=" ".join(text.split())), max_tokens=64)
        for i, text in enumerate(texts)
    ]
    found: list[list[str]] = [[] for _ in texts]
    for place, answer in reader.ask(questions, ["text"]):
        reply = re.split(r"\bInput:", answer.text or "")[0]
        reply = re.sub(r"^\s*(?:input|output|翻译)?\s*[:：]?", "", reply, flags=re.IGNORECASE)
        bracketed = re.search(r"\[([^\]]*)\]?", reply)
        found[place] = read_words(f"[{bracketed[1] if bracketed else reply.splitlines()[0] if reply.strip() else ''}]")
    return found


def read_labels(texts: Sequence[str]) -> list[list[str]]:
    """Returns the classes that vea's reader of texts names in each text; neutral is no label."""
    from vea.inference.text import load_text

    known = [i for i, text in enumerate(texts) if text.strip()]
    found: list[list[str]] = [[] for _ in texts]
    for i, one in zip(known, load_text().predict([texts[i] for i in known])):
        found[i] = [name for name in one.labels if name != "neutral"]
    return found


def labels_of(text: str | None) -> list[str]:
    """Returns the labels of a reply: the words of the emotion vocabulary that it does not negate."""
    return find_words(text or "")


class OpenVocabulary(Task):
    """``open-vocabulary:FILE.csv`` (columns name, openset; pictures in --data), else OASIS with the word of its norms.

    Labels are read from replies by lexicon, so a score repeats; published figures sampled a language model. With the
    option ``extract`` (a model, ``--extract``) a language model reads them too, by the published prompt, or with
    ``text`` vea's own reader of texts; both scores are there. Set ``tables`` in Python for the published wheel tables.
    """

    name = "open-vocabulary"
    headline = "f"
    readouts = ("text",)

    def questions(self, split: str) -> list[Question]:
        """Returns one question a picture."""
        if not self.source:
            photos = [p for p in oasis.read_photos(self.folder("oasis")) if p.split == split and p.polarity != "mixed"]
            return [self._question(photo.key, photo.file, [photo.emotion]) for photo in photos]
        path = Path(self.source)
        folder = self.data or path.parent
        try:
            with path.open(encoding="utf-8-sig", newline="") as handle:
                rows = [(row["name"], read_words(row["openset"])) for row in csv.DictReader(handle)]
        except (OSError, KeyError) as error:
            raise VeaError(f"{path} is no label file ({error}); it needs the columns name and openset") from None
        made = []
        for name, words in rows:
            files = [folder / name] if (folder / name).is_file() else sorted(folder.glob(f"{name}.*"))
            if not files:
                raise VeaError(f"{path}: no picture {name} in {folder}; give its folder with --data")
            made.append(self._question(name, files[0], words))
        return made if split == "test" else []

    def _question(self, key: str, file: Path, words: list[str]) -> Question:
        row = {"labels": words, "answer": ", ".join(words)}
        return Question(key, PROMPT, file, group=key, row=row, max_tokens=48)

    def points(self, question: Question, answer: Answer, readout: str) -> float | None:
        """Returns 1 where reply and people share a sector on most wheels."""
        return float(agree(question.row["labels"], labels_of(answer.text), self.options.get("tables")))

    def scores(self, questions: Sequence[Question], answers: Sequence[Answer], readout: str) -> dict[str, Any]:
        """Returns F on our wheels, on a user's tables too where given, hit rate of single labels, labels a reply."""
        truths = [question.row["labels"] for question in questions]
        given = [labels_of(answer.text) for answer in answers]
        found: dict[str, Any] = {**wheel_scores(truths, given), "labels_a_reply": mean_labels(given)}
        found["without_a_label"] = float(np.mean([not words for words in given]))
        single = [(t[0], g) for t, g in zip(truths, given) if len(t) == 1]
        if single:
            found["hit_rate"] = float(hit_rate([t for t, _ in single], [g for _, g in single]))
        if reader := self.options.get("extract"):
            replies = [answer.text or "" for answer in answers]
            if reader == OWN_READER:
                read = read_labels(replies)
            else:
                backend = open_backend(reader)
                try:
                    read = extract_labels(replies, backend)
                finally:
                    backend.close()
            found["extracted"] = {**wheel_scores(truths, read), "labels_a_reply": mean_labels(read)}
        tables = self.options.get("tables")
        if tables:
            rules = self.options.get("rules", "mer2026")
            found["published_tables"] = {rules: wheel_scores(truths, given, tables=tables, rules=rules)}
        return found


make = OpenVocabulary
