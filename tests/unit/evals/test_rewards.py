"""Rewards of one reply."""

import math

import pytest

from vea.errors import VeaError
from vea.evals.instructions import Lesson
from vea.evals.question import Question
from vea.evals.rewards import LEAST, PRICE, REWARDS, UNREADABLE, read_weights
from vea.evals.tasks.open_vocabulary import OpenVocabulary
from vea.evals.tasks.statements import Statements

TRUE = Lesson(
    Question("a", "Is it joy?", row={"label": "Correct"}), "Correct", "statements", "x", "train", Statements()
)
OPEN = Lesson(Question("b", "Which?", row={"labels": ["joy", "awe"]}), "joy, awe", "open-vocabulary", "x", "train",
              OpenVocabulary())  # fmt: skip
TEXT = Lesson(Question("c", "0 to 9?"), "7", "V-reg", "texts:emobank", "train")


@pytest.mark.parametrize(
    ("lesson", "reply", "expected"),
    [(TRUE, "Correct", 1), (TRUE, "<answer>correct</answer>", 1), (TRUE, "Incorrect", 0), (TRUE, "", 0),
     (TEXT, " 7", 1), (TEXT, "77", 0), (TEXT, "", 0)],
)  # fmt: skip
def test_accuracy(lesson, reply, expected):
    assert REWARDS["accuracy"](reply, lesson) == expected


def test_wheel_f_pays_for_labels_that_people_gave_and_takes_for_more():
    wheel = REWARDS["wheel"]
    whole = wheel("joy and awe", OPEN)
    assert whole == 1.0 and wheel("", OPEN) == 0.0 and wheel("anger", OPEN) == 0.0
    assert wheel("joy, awe, delight, wonder", OPEN) == pytest.approx(whole - 2 * PRICE)
    assert 0 < wheel("joy", OPEN) < whole
    assert wheel("joy", TRUE) == 0.0, "a lesson without labels"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("<answer>Correct</answer>", 1), ("I think <ANSWER> a </ANSWER>", 1), ("<answer>Correct", 0.5), ("Correct", 0),
     ("</answer>", 0.5), ("<answer>a</answer><answer>b</answer>", 0.5), ("", 0)],
)  # fmt: skip
def test_format(reply, expected):
    assert REWARDS["format"](reply, TRUE) == expected


@pytest.mark.parametrize("said", ["0", "0.0", "0.2", "0.5", "0.9", "1", "1.0", "90%", "90"])
@pytest.mark.parametrize("verdict", ["Correct", "Incorrect"])
def test_confidence_is_the_published_log_score(said, verdict):
    c = float(said.rstrip("%"))
    c = min(max(c / 100 if c > 1 or said.endswith("%") else c, LEAST), 1 - LEAST)
    i = float(verdict == "Correct")
    expected = 1 + i + 2 * (i * math.log(c) + (1 - i) * math.log(1 - c))
    assert REWARDS["confidence"](f"{verdict} <confidence>{said}</confidence>", TRUE) == pytest.approx(expected)


@pytest.mark.parametrize("stated", ["", "high", "900", "-1", ".4</confidence><confidence>.9"])
def test_no_confidence_costs(stated):
    reply = f"Correct <confidence>{stated}</confidence>" if stated else "Correct"
    assert REWARDS["confidence"](reply, TRUE) == UNREADABLE


def test_the_best_stated_confidence_is_the_true_share():
    """A proper score: over replies of which a share is right, no other c earns more than that share."""
    for share in (0.2, 0.7):
        earned = {c: share * REWARDS["confidence"](f"Correct <confidence>{c}</confidence>", TRUE)
                  + (1 - share) * REWARDS["confidence"](f"Incorrect <confidence>{c}</confidence>", TRUE)
                  for c in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)}  # fmt: skip
        assert max(earned, key=lambda c: earned[c]) == share


def test_weights():
    assert read_weights(["accuracy=2", "format"]) == {"accuracy": 2.0, "format": 1.0}
    for words, sentence in ((["acuracy=1"], "did you mean"), (["format=-1"], "positive"), (["format=x"], "positive"),
                            (["format=nan"], "positive"), (["wheel=inf"], "positive")):  # fmt: skip
        with pytest.raises(VeaError, match=sentence):
            read_weights(words)
