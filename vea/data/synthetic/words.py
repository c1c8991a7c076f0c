"""Captions of drawn scenes."""

from __future__ import annotations

import numpy as np

from vea.data.prompts import listed
from vea.data.synthetic.plan import _Plan

_FACE_WORDS = {
    "angry": ("angry", "furious"),
    "disgust": ("disgusted", "repelled"),
    "fear": ("frightened", "scared"),
    "happy": ("happy", "smiling"),
    "sad": ("sad", "unhappy"),
    "surprise": ("surprised", "astonished"),
    "neutral": ("calm", "neutral"),
}
_ACTION_WORDS = {
    "applauding": "clapping hands",
    "celebrating": "celebrating with both arms up",
    "drinking": "drinking",
    "reading book": "reading a book",
    "stretching arm": "stretching an arm",
    "texting": "texting on a phone",
}
_SCENE_WORDS = {
    "beach": "on a beach",
    "forest": "in a forest",
    "street": "on a street",
    "bedroom": "in a bedroom",
    "mountain_snowy": "in snowy mountains",
    "desert": "in a desert",
    "cemetery": "in a cemetery",
    "amusement_park": "in an amusement park",
}


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _captions(plan: _Plan, brightness: float, colorfulness: float, rng: np.random.Generator) -> list[str]:
    """Returns two captions of what is drawn. Neither names the emotion of the scene."""
    names = [f"{_article(name.lower())} {name.lower()}" for name in plan.objects]
    light = "dark" if brightness < 0.35 else "bright" if brightness > 0.65 else "softly lit"
    color = "grey" if colorfulness < 0.15 else "colorful" if colorfulness > 0.45 else "pale"
    place = _SCENE_WORDS[plan.scene]
    things = f" with {listed(names)}" if names else ""
    if plan.expression is None:
        return [
            f"{place.capitalize()}{things}, nobody is there.",
            f"A {light}, {color} drawing {place}{things} and no people.",
        ]
    words = _FACE_WORDS[plan.expression]
    first, second = (words[i] for i in rng.permutation(2))
    action = f" {_ACTION_WORDS[plan.action]}" if plan.action else ""
    return [
        f"{_article(first).capitalize()} {first} person{action} {place}{things}.",
        f"A {light}, {color} drawing of someone with {_article(second)} {second} face{action} {place}{things}.",
    ]
