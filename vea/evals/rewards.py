"""Rewards for tuning a model on its own answers (GRPO): vea's metrics of one reply, as a number.

Each takes a reply and the lesson that it answers and returns a float; ``finetune/reward.py`` hands their weighted sum
to trl's trainer. The labels are those of training questions (``vea.evals.instructions``), never of a test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from vea.errors import VeaError, did_you_mean
from vea.evals.instructions import Lesson
from vea.evals.question import Answer
from vea.evals.tasks.open_vocabulary import labels_of
from vea.metrics import wheel_scores

Reward = Callable[[str, Lesson], float]
PRICE = 0.05  # of each label beyond the number that people gave
UNREADABLE = -5.0
LEAST = 1e-3  # a stated confidence is held between this and one minus this

_PAIR = re.compile(r"<answer>.*?</answer>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?answer>", re.IGNORECASE)
_CONFIDENCE = re.compile(r"<confidence>\s*(\d*\.?\d+)\s*(%?)\s*</confidence>", re.IGNORECASE)


def accuracy(reply: str, lesson: Lesson) -> float:
    """Returns the points that the lesson's task gives the reply, 0 to 1; an answer that it cannot read has 0."""
    if lesson.task is None:
        return float(reply.strip().lower() == lesson.answer.strip().lower())
    return float(lesson.task.points(lesson.question, Answer(text=reply), "text") or 0.0)


def wheel(reply: str, lesson: Lesson) -> float:
    """Returns the wheel F of the labels in the reply (AffectGPT-R1, arXiv 2508.01318), less a price for length.

    F alone grows with every label that may be right: each label beyond the people's number costs ``PRICE``.
    """
    truth = lesson.question.row.get("labels")
    if not truth:
        return 0.0
    named = labels_of(reply)
    return float(wheel_scores([truth], [named])["f"]) - PRICE * max(0, len(named) - len(truth))


def layout(reply: str, lesson: Lesson) -> float:
    """Returns 1 for one pair of answer tags, half for a loose tag, else 0 (EmObserver's reward of form)."""
    if len(_PAIR.findall(reply)) == 1 and len(_TAG.findall(reply)) == 2:
        return 1.0
    return 0.5 if _TAG.search(reply) else 0.0


def confidence(reply: str, lesson: Lesson) -> float:
    """Returns 1 + 1[right] + 2 (i ln c + (1 - i) ln(1 - c)) of a stated confidence c, -5 without one (EmoCaliber).

    i is whether the answer is right. c may be a share or per cent; it is held in (0, 1), so the logarithm is finite.
    """
    stated = _CONFIDENCE.findall(reply)
    if len(stated) != 1:
        return UNREADABLE
    number, per_cent = float(stated[0][0]), bool(stated[0][1])
    value = number / 100 if per_cent or number > 1 else number
    if value > 1:
        return UNREADABLE
    right = accuracy(_CONFIDENCE.sub("", reply), lesson) >= 1.0
    held = min(max(value, LEAST), 1 - LEAST)
    return 1.0 + right + 2 * math.log(held if right else 1 - held)


REWARDS: dict[str, Reward] = {"accuracy": accuracy, "wheel": wheel, "format": layout, "confidence": confidence}
ASKS = {  # what a question must ask for, so that the reward can be had
    "format": " Put the answer between <answer> and </answer>.",
    "confidence": " Then say how sure you are, from 0 to 1: <confidence>NUMBER</confidence>",
}


def read_weights(words: list[str]) -> dict[str, float]:
    """Returns {reward: weight} of ``["accuracy=1", "format=.5"]``.

    Raises:
        VeaError: a reward does not exist, or a weight is no positive number.
    """
    found = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in REWARDS:
            raise VeaError(f"no reward {name!r}{did_you_mean(name, REWARDS)}; there are {', '.join(REWARDS)}")
        try:
            found[name] = float(value or 1)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise VeaError(f"--rewards {word}: the weight is a positive number, as in {name}=0.5")
    return found
