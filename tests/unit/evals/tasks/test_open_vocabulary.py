"""Open labels read off replies: by lexicon, and by a language model with the published prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from vea.evals.backends.base import Backend
from vea.evals.question import Answer, Question
from vea.evals.tasks.open_vocabulary import EXTRACTION, extract_labels, labels_of


class Says(Backend):
    """Replies with the same words to everything, and remembers what it was asked."""

    def __init__(self, words: str | None) -> None:
        super().__init__()
        self.words, self.asked = words, []

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        self.asked += [question.prompt for question in questions]
        for place in reversed(range(len(questions))):
            yield place, Answer(text=self.words) if self.words is not None else Answer(error="no")


@pytest.mark.parametrize(
    ("reply", "labels"),
    [
        ("[happy, very sad]", ["happy", "very sad"]),
        ("Output: [happy]", ["happy"]),
        ("output：[angry, tense]\nInput: another; Output: [x]", ["angry", "tense"]),
        ("happy, sad", ["happy", "sad"]),
        ("['joyful', \"calm\"]", ["joyful", "calm"]),
        ("[happy, sad", ["happy", "sad"]),
        ("[]", []),
        ("", []),
        (None, []),
        ("\n\n", []),
    ],
)
def test_replies_in_every_form_are_read(reply: str | None, labels: list[str]):
    judge = Says(reply)
    assert extract_labels(["It is a\nfunny place.", "b"], judge) == [labels, labels]
    assert judge.asked[0] == EXTRACTION.format(reason="It is a funny place.") and "\\\n" not in EXTRACTION


@pytest.mark.parametrize(
    ("text", "labels"), [("He is not happy.", []), ("She is happy", ["happy"]), (None, []), ("", [])]
)
def test_a_lexicon_hears_negation(text: str | None, labels: list[str]):
    assert labels_of(text) == labels
