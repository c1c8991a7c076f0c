"""Small drawn scenes with every label the suite knows: the embedded data of the demo, the tests and CI.

Nothing here is a photograph and no figure measured on it says anything about real images; the data set is called
synthetic wherever it appears. A scene is a pure function of (seed, index): a drawn face whose FACS action units decide
its expression (EMFACS-style prototypes with noise), a body in one of a few poses, a background of a known scene type,
drawn objects, measured brightness and colorfulness, the captions that follow from these, and an emotion, valence and
arousal that depend on all of them with noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np

from vea.data.prompts import listed
from vea.data.sample import LabelField, Sample
from vea.errors import VeaError, did_you_mean
from vea.labels import EMOSET_FACE_6, FER2013_7, FERPLUS_8, MIKELS_8, map_expressions

ACTION_UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU12", "AU15", "AU20", "AU23", "AU25", "AU26")
TENTHS = tuple(f"{tenth / 10:.1f}" for tenth in range(11))  # EmoSet's names of brightness and colorfulness

# Action units of each expression and their usual share of the full intensity (EMFACS prototypes, Ekman and Friesen).
PROTOTYPES: dict[str, dict[str, float]] = {
    "angry": {"AU4": 1.0, "AU5": 0.5, "AU7": 0.8, "AU23": 1.0},
    "disgust": {"AU4": 0.3, "AU9": 1.0, "AU15": 0.7, "AU25": 0.3},
    "fear": {"AU1": 0.9, "AU2": 0.4, "AU4": 0.6, "AU5": 0.9, "AU7": 0.4, "AU20": 1.0, "AU25": 0.6},
    "happy": {"AU6": 0.9, "AU12": 1.0, "AU25": 0.5},
    "sad": {"AU1": 0.9, "AU4": 0.6, "AU15": 1.0},
    "surprise": {"AU1": 0.9, "AU2": 0.9, "AU5": 0.8, "AU25": 0.6, "AU26": 1.0},
}

# How much each cue speaks for each emotion. The emotion is drawn from the softmax of the sums (see ``_emotion``).
_CUES: dict[str, dict[str, float]] = {
    "happy": {"amusement": 2.0, "contentment": 2.0, "excitement": 2.0},
    "sad": {"sadness": 3.2},
    "angry": {"anger": 3.4},
    "fear": {"fear": 3.2},
    "disgust": {"disgust": 3.4},
    "surprise": {"awe": 2.2, "excitement": 1.2, "fear": 0.5},
    "neutral": {"contentment": 1.2, "awe": 0.8, "sadness": 0.4, "anger": 0.4},
    "nobody": {"awe": 1.2, "contentment": 0.6, "fear": 0.6, "sadness": 0.4, "disgust": 0.4},
    "beach": {"contentment": 1.6, "excitement": 0.6},
    "forest": {"contentment": 0.8, "awe": 0.8, "fear": 0.4},
    "street": {"anger": 0.8, "excitement": 0.4},
    "bedroom": {"contentment": 0.8, "sadness": 0.6},
    "mountain_snowy": {"awe": 2.4},
    "desert": {"awe": 1.4, "sadness": 0.4},
    "cemetery": {"sadness": 1.6, "fear": 1.4},
    "amusement_park": {"amusement": 2.0, "excitement": 1.4},
    "Balloon": {"amusement": 1.2, "excitement": 0.4},
    "Bird": {"awe": 0.6, "contentment": 0.4},
    "Car": {"excitement": 0.6, "anger": 0.4},
    "Dog": {"amusement": 0.8, "contentment": 0.4},
    "Flower": {"contentment": 1.0},
    "House": {"contentment": 0.4},
    "Skull": {"fear": 1.4, "disgust": 1.2},
    "Tree": {"contentment": 0.4, "awe": 0.2},
    "Umbrella": {"sadness": 0.8},
    "Waste container": {"disgust": 1.6, "anger": 0.6},
    "applauding": {"amusement": 1.0, "excitement": 0.4},
    "celebrating": {"excitement": 2.0, "amusement": 0.4},
    "drinking": {"contentment": 0.8},
    "reading book": {"contentment": 1.4},
    "stretching arm": {"excitement": 0.6},
    "texting": {"anger": 0.6, "sadness": 0.4},
}
_BALANCE = {"anger": 0.3, "disgust": 0.6, "fear": 0.1, "awe": 0.2}  # keeps the eight classes of comparable size

SCENES = ("beach", "forest", "street", "bedroom", "mountain_snowy", "desert", "cemetery", "amusement_park")
OBJECTS = ("Balloon", "Bird", "Car", "Dog", "Flower", "House", "Skull", "Tree", "Umbrella", "Waste container")
_FLYING = ("Balloon", "Bird", "Umbrella")  # drawn in the upper corners
ACTIONS = ("applauding", "celebrating", "drinking", "reading book", "stretching arm", "texting")

FIELDS: dict[str, LabelField] = {
    "emotion": LabelField("class", MIKELS_8.classes),
    "valence": LabelField("value", low=1.0, high=7.0),
    "arousal": LabelField("value", low=1.0, high=7.0),
    "expression": LabelField("class", FER2013_7.classes),
    "votes": LabelField("distribution", FERPLUS_8.classes),
    "action_units": LabelField("multilabel", ACTION_UNITS),
    **{f"{unit.lower()}_intensity": LabelField("value", low=0.0, high=5.0) for unit in ACTION_UNITS},
    "brightness": LabelField("class", TENTHS),
    "colorfulness": LabelField("class", TENTHS),
    "scene": LabelField("class", SCENES),
    "object": LabelField("multilabel", OBJECTS),
    "facial_expression": LabelField("class", EMOSET_FACE_6.classes),
    "human_action": LabelField("class", ACTIONS),
}

# Splits are ranges of the index, so that no scene is in two of them.
_SPLIT_START = {"train": 0, "val": 10_000_000, "test": 20_000_000}

# -------------------------------------------------------------------------------------------------- what is in a scene


@dataclass
class _Plan:
    """Everything drawn at random about one scene, before a pixel is."""

    scene: str
    objects: list[str]
    light: float  # gain of the background
    saturation: float  # 0 grey .. 1 as painted
    person: bool
    action: str | None = None
    expression: str | None = None
    units: dict[str, int] = field(default_factory=dict)


def expression_of(units: dict[str, int]) -> str:
    """Returns the FER2013 class that action unit intensities (0 to 5) stand for: the best of ``expression_scores``."""
    scores = expression_scores(units)
    return max(scores, key=lambda name: scores[name])


def expression_scores(units: dict[str, int]) -> dict[str, float]:
    """Returns, by FER2013 class, the cosine of the intensities with each prototype; neutral is high on a still face."""
    vector = np.array([units.get(unit, 0) for unit in ACTION_UNITS], dtype=float)
    length = float(np.linalg.norm(vector))
    scores = {"neutral": max(0.0, 1 - length / 6)}
    for name, prototype in PROTOTYPES.items():
        target = np.array([prototype.get(unit, 0.0) for unit in ACTION_UNITS])
        cosine = float(vector @ target) / (length * float(np.linalg.norm(target))) if length else 0.0
        scores[name] = cosine * min(1.0, length / 3)
    return {name: scores[name] for name in FER2013_7.classes}


def _draw_units(rng: np.random.Generator) -> dict[str, int]:
    intended = FER2013_7.classes[rng.integers(len(FER2013_7))]
    prototype = PROTOTYPES.get(intended, {})
    strength = rng.uniform(2.5, 5.0)
    units = {}
    for unit in ACTION_UNITS:
        level = strength * prototype.get(unit, 0.0) + rng.normal(0, 0.5)
        if unit in prototype and rng.random() < 0.06:
            level = 0.0  # people leave a part of the prototype out
        elif unit not in prototype:
            level = float(rng.integers(1, 3)) if rng.random() < 0.05 else 0.0
        if round(level) > 0:
            units[unit] = int(min(5, round(level)))
    return units


def _votes(units: dict[str, int], rng: np.random.Generator) -> list[int]:
    """Returns ten raters' votes over the FER+ classes; more of them disagree the closer two expressions score."""
    scores = expression_scores(units)
    share = np.full(len(FERPLUS_8), 0.004)
    to_ferplus = map_expressions(FER2013_7.classes, FERPLUS_8.classes)
    for name, index in zip(FER2013_7.classes, to_ferplus, strict=True):
        assert index is not None
        share[index] += math.exp(9 * (scores[name] - 1))
    share[FERPLUS_8.index("contempt")] += 0.05 * (units.get("AU12", 0) == 1 or units.get("AU23", 0) == 1)
    return [int(count) for count in rng.multinomial(10, share / share.sum())]


def _plan(rng: np.random.Generator) -> _Plan:
    person = rng.random() < 0.88
    count = int(rng.choice(4, p=(0.2, 0.4, 0.3, 0.1) if person else (0.05, 0.35, 0.4, 0.2)))
    drawn = [OBJECTS[i] for i in sorted(rng.choice(len(OBJECTS), size=count, replace=False))]
    flying, standing = ([name for name in drawn if (name in _FLYING) is flies][:2] for flies in (True, False))
    objects = sorted(flying + standing)  # at most two above and two below: one corner each
    plan = _Plan(
        scene=SCENES[rng.integers(len(SCENES))],
        objects=objects,
        light=float(rng.uniform(0.15, 1.3)),
        saturation=float(rng.uniform(0.0, 1.2)),
        person=bool(person),
    )
    if person:
        plan.units = _draw_units(rng)
        plan.expression = expression_of(plan.units)
        plan.action = ACTIONS[rng.integers(len(ACTIONS))] if rng.random() < 0.7 else None
    return plan


def _emotion(plan: _Plan, brightness: float, colorfulness: float, rng: np.random.Generator) -> tuple[str, float, float]:
    """Returns (emotion, valence, arousal): a noisy function of every cue; valence and arousal on 1 to 7."""
    logits = dict.fromkeys(MIKELS_8.classes, 0.0)
    for cue in [plan.expression or "nobody", plan.scene, *plan.objects, *([plan.action] if plan.action else [])]:
        for name, weight in _CUES[cue].items():
            logits[name] += weight
    for name, weight in {"fear": 3.0, "sadness": 2.0, "disgust": 1.0, "contentment": -1.0}.items():
        logits[name] += weight * (0.45 - brightness)
    for name, weight in {"amusement": 2.0, "excitement": 2.0, "sadness": -2.0, "disgust": -1.0}.items():
        logits[name] += weight * (colorfulness - 0.4)
    scaled = np.array([1.2 * (logits[name] + _BALANCE.get(name, 0.0)) for name in MIKELS_8.classes])
    share = np.exp(scaled - scaled.max())
    share /= share.sum()
    emotion = MIKELS_8.classes[int(rng.choice(len(MIKELS_8), p=share))]
    places = np.array(MIKELS_8.vad())  # (8, 3)
    felt = 0.6 * places[MIKELS_8.index(emotion), :2] + 0.4 * share @ places[:, :2]
    strength = sum(plan.units.values()) / 20
    valence = 4 + 3 * felt[0] + rng.normal(0, 0.3)
    arousal = 4 + 2.4 * felt[1] + 0.5 * (strength - 0.4) + rng.normal(0, 0.3)
    return emotion, round(float(np.clip(valence, 1, 7)), 2), round(float(np.clip(arousal, 1, 7)), 2)


# ------------------------------------------------------------------------------------------------------------ captions

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


# ------------------------------------------------------------------------------------------------------------- drawing

Color = tuple[int, int, int]
_SHIFT = 4  # cv2 draws at 1/16 of a pixel


class _Canvas:
    """An RGB image (size, size, 3) that is drawn on in units of its side; remembers the box of what is tracked."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.pixels = np.zeros((size, size, 3), np.uint8)
        self.tracked: list[float] | None = None

    def track(self) -> None:
        """Starts the box of everything drawn from here on."""
        self.tracked = [1.0, 1.0, 0.0, 0.0]

    def stop_tracking(self) -> list[float]:
        """Returns the box [x0, y0, x1, y1] in pixels, clipped to the image."""
        assert self.tracked is not None
        box, self.tracked = self.tracked, None
        return [round(min(max(edge, 0.0), 1.0) * self.size, 1) for edge in box]

    def _points(self, points: Any, margin: float) -> np.ndarray:
        array = np.asarray(points, dtype=float)
        if self.tracked is not None:
            low, high = array.min(0) - margin, array.max(0) + margin
            self.tracked = [
                min(self.tracked[0], low[0]),
                min(self.tracked[1], low[1]),
                max(self.tracked[2], high[0]),
                max(self.tracked[3], high[1]),
            ]
        return np.round(array * self.size * 2**_SHIFT).astype(np.int32)

    def polygon(self, points: Any, color: Color) -> None:
        cv2.fillPoly(self.pixels, [self._points(points, 0.0)], color, cv2.LINE_AA, _SHIFT)

    def line(self, points: Any, color: Color, width: float) -> None:
        thick = max(1, round(width * self.size))
        cv2.polylines(self.pixels, [self._points(points, width / 2)], False, color, thick, cv2.LINE_AA, _SHIFT)

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x: float, y: float, a: float, b: float, color: Color, *, angle: float = 0.0) -> None:
        turn = np.linspace(0, 2 * np.pi, 25)[:-1]
        u, v = a * np.cos(turn), b * np.sin(turn)
        cos, sin = math.cos(angle), math.sin(angle)
        self.polygon(np.stack([x + u * cos - v * sin, y + u * sin + v * cos], 1), color)


def _vary(color: Color, rng: np.random.Generator, spread: float = 18) -> Color:
    shifted = np.clip(np.array(color) + rng.normal(0, spread, 3), 0, 255)
    return int(shifted[0]), int(shifted[1]), int(shifted[2])


def _beach(c: _Canvas, rng: np.random.Generator) -> None:
    sea, sand = rng.uniform(0.35, 0.45), rng.uniform(0.6, 0.7)
    c.rectangle(0, 0, 1, 1, _vary((130, 200, 250), rng))
    c.rectangle(0, sea, 1, 1, _vary((20, 110, 190), rng))
    for y in np.arange(sea + 0.05, sand, 0.07):
        x = np.linspace(0, 1, 17)
        c.line(np.stack([x, y + 0.008 * np.sin(30 * x + 40 * y)], 1), (170, 215, 240), 0.008)
    c.rectangle(0, sand, 1, 1, _vary((235, 205, 140), rng))
    c.ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.2), 0.07, 0.07, (255, 235, 90))


def _forest(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((120, 165, 110), rng))
    c.rectangle(0, 0.75, 1, 1, _vary((70, 90, 40), rng))
    for x in np.sort(rng.uniform(0, 1, 7)):
        width = rng.uniform(0.02, 0.05)
        c.rectangle(x - width, 0, x + width, rng.uniform(0.75, 0.9), _vary((85, 60, 35), rng, 10))
    for _ in range(9):
        c.ellipse(rng.uniform(0, 1), rng.uniform(-0.05, 0.2), 0.13, 0.1, _vary((35, 110, 40), rng))


def _street(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((170, 190, 215), rng))
    x = -0.05
    while x < 1:
        width, top = rng.uniform(0.14, 0.24), rng.uniform(0.05, 0.35)
        c.rectangle(x, top, x + width, 0.75, _vary((150, 120, 105), rng, 25))
        for wx in np.arange(x + 0.03, x + width - 0.03, 0.06):
            for wy in np.arange(top + 0.04, 0.7, 0.1):
                c.rectangle(wx, wy, wx + 0.03, wy + 0.05, (235, 220, 140))
        x += width + 0.01
    c.rectangle(0, 0.75, 1, 1, _vary((85, 85, 92), rng, 8))
    for x in np.arange(0.02, 1, 0.2):
        c.rectangle(x, 0.86, x + 0.1, 0.88, (240, 240, 230))


def _bedroom(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((225, 200, 185), rng))
    c.rectangle(0, 0.72, 1, 1, _vary((150, 105, 70), rng))
    side = rng.random() < 0.5
    x = 0.06 if side else 0.66
    c.rectangle(x, 0.08, x + 0.28, 0.38, (250, 250, 245))
    c.rectangle(x + 0.02, 0.1, x + 0.26, 0.36, _vary((120, 170, 220), rng))
    c.line([(x + 0.14, 0.1), (x + 0.14, 0.36)], (250, 250, 245), 0.016)
    bed = 0.45 if side else -0.02
    c.rectangle(bed, 0.5, bed + 0.57, 0.64, _vary((110, 70, 50), rng))
    c.rectangle(bed, 0.6, bed + 0.57, 0.9, _vary((160, 60, 90), rng, 35))
    c.ellipse(bed + (0.45 if side else 0.12), 0.6, 0.1, 0.05, (250, 250, 250))


def _mountain_snowy(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((110, 165, 225), rng))
    for x in (rng.uniform(0, 0.3), rng.uniform(0.7, 1), rng.uniform(0.35, 0.65)):
        top, half = rng.uniform(0.05, 0.25), rng.uniform(0.35, 0.5)
        c.polygon([(x, top), (x + half, 0.8), (x - half, 0.8)], _vary((95, 100, 120), rng, 10))
        cap = 0.35
        c.polygon(
            [
                (x, top),
                (x + half * cap, top + (0.8 - top) * cap),
                (x + 0.05, top + 0.15),
                (x - 0.04, top + 0.22),
                (x - half * cap, top + (0.8 - top) * cap),
            ],
            (248, 250, 255),
        )
    c.rectangle(0, 0.72, 1, 1, (235, 242, 250))


def _desert(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((250, 205, 140), rng))
    c.ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.25), 0.08, 0.08, (255, 245, 190))
    for level, color in ((0.45, (215, 150, 80)), (0.58, (200, 130, 65)), (0.72, (225, 165, 95))):
        across, phase = np.linspace(0, 1, 17), rng.uniform(0, 6)
        wave = np.stack([across, level + 0.05 * np.sin(5 * across + phase)], 1)
        c.polygon(np.concatenate([wave, [(1, 1), (0, 1)]]), _vary(color, rng, 8))
    x = 0.1 if rng.random() < 0.5 else 0.9
    c.line([(x, 0.45), (x, 0.75)], (50, 120, 60), 0.035)
    c.line([(x - 0.06, 0.5), (x - 0.06, 0.6), (x + 0.06, 0.6), (x + 0.06, 0.53)], (50, 120, 60), 0.025)


def _cemetery(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((135, 140, 160), rng))
    c.rectangle(0, 0.6, 1, 1, _vary((70, 95, 65), rng))
    for x in np.arange(0.08, 1, 0.21) + rng.uniform(-0.03, 0.03):
        y = rng.uniform(0.5, 0.62)
        if rng.random() < 0.5:
            c.rectangle(x - 0.02, y - 0.17, x + 0.02, y + 0.15, (175, 175, 175))
            c.rectangle(x - 0.07, y - 0.1, x + 0.07, y - 0.06, (175, 175, 175))
        else:
            c.ellipse(x, y, 0.07, 0.1, (165, 165, 170))
            c.rectangle(x - 0.07, y, x + 0.07, y + 0.18, (165, 165, 170))


def _amusement_park(c: _Canvas, rng: np.random.Generator) -> None:
    c.rectangle(0, 0, 1, 1, _vary((150, 205, 245), rng))
    c.rectangle(0, 0.78, 1, 1, _vary((120, 180, 90), rng))
    x, y, radius = (0.2 if rng.random() < 0.5 else 0.8), 0.32, 0.25
    turn = np.linspace(0, 2 * np.pi, 25)
    c.line(np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1), (200, 40, 60), 0.02)
    cars = ((250, 200, 40), (230, 60, 60), (60, 120, 230), (60, 190, 90))
    for step, angle in enumerate(np.arange(0, 2 * np.pi, np.pi / 4) + rng.uniform(0, 0.8)):
        tip = (x + radius * math.cos(angle), y + radius * math.sin(angle))
        c.line([(x, y), tip], (150, 150, 160), 0.008)
        c.ellipse(*tip, 0.035, 0.035, cars[step % 4])
    c.line([(x - 0.12, 0.8), (x, y), (x + 0.12, 0.8)], (110, 110, 120), 0.018)
    left = 0.62 - x * 0.6
    for stripe in range(6):
        c.polygon(
            [(left + 0.2, 0.45), (left + stripe / 15, 0.6), (left + (stripe + 1) / 15, 0.6)],
            (230, 50, 60) if stripe % 2 else (250, 245, 240),
        )
    c.rectangle(left, 0.6, left + 0.4, 0.8, _vary((245, 215, 120), rng))


_BACKGROUNDS: dict[str, Callable[[_Canvas, np.random.Generator], None]] = {
    "beach": _beach,
    "forest": _forest,
    "street": _street,
    "bedroom": _bedroom,
    "mountain_snowy": _mountain_snowy,
    "desert": _desert,
    "cemetery": _cemetery,
    "amusement_park": _amusement_park,
}


def _tree(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.rectangle(x - 0.12 * s, y - 0.1 * s, x + 0.12 * s, y + s, (95, 65, 35))
    for dx, dy in ((-0.35, -0.2), (0.35, -0.2), (0, -0.6)):
        c.ellipse(x + dx * s, y + dy * s, 0.5 * s, 0.45 * s, (40, 130, 50))


def _balloon(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.line([(x, y + 0.4 * s), (x + 0.1 * s, y + 0.8 * s), (x - 0.05 * s, y + 1.3 * s)], (90, 90, 90), 0.008)
    c.polygon([(x, y + 0.4 * s), (x - 0.12 * s, y + 0.65 * s), (x + 0.12 * s, y + 0.65 * s)], color)
    c.ellipse(x, y - 0.1 * s, 0.55 * s, 0.65 * s, color)
    c.ellipse(x - 0.2 * s, y - 0.35 * s, 0.1 * s, 0.16 * s, (255, 255, 255), angle=0.5)


def _car(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.polygon([(x - 0.5 * s, y), (x - 0.3 * s, y - 0.4 * s), (x + 0.35 * s, y - 0.4 * s), (x + 0.6 * s, y)], color)
    c.polygon(
        [(x - 0.35 * s, y), (x - 0.22 * s, y - 0.3 * s), (x + 0.28 * s, y - 0.3 * s), (x + 0.42 * s, y)],
        (200, 230, 245),
    )
    c.rectangle(x - s, y, x + s, y + 0.4 * s, color)
    for dx in (-0.55, 0.55):
        c.ellipse(x + dx * s, y + 0.45 * s, 0.25 * s, 0.25 * s, (30, 30, 30))
        c.ellipse(x + dx * s, y + 0.45 * s, 0.1 * s, 0.1 * s, (190, 190, 190))


def _flower(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.line([(x, y), (x, y + s)], (40, 140, 50), 0.02)
    c.ellipse(x + 0.25 * s, y + 0.65 * s, 0.3 * s, 0.12 * s, (40, 140, 50), angle=-0.6)
    for angle in np.arange(0, 2 * np.pi, np.pi / 3):
        c.ellipse(
            x + 0.38 * s * math.cos(angle),
            y - 0.2 * s + 0.38 * s * math.sin(angle),
            0.26 * s,
            0.2 * s,
            color,
            angle=angle,
        )
    c.ellipse(x, y - 0.2 * s, 0.22 * s, 0.22 * s, (250, 215, 50))


def _umbrella(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.line([(x, y - 0.3 * s), (x, y + 0.8 * s), (x + 0.2 * s, y + 0.9 * s)], (70, 50, 40), 0.018)
    turn = np.linspace(np.pi, 2 * np.pi, 13)
    c.polygon(np.stack([x + s * np.cos(turn), y + 0.8 * s * np.sin(turn)], 1), color)
    darker: Color = (color[0] // 2, color[1] // 2, color[2] // 2)
    for dx in (-0.5, 0.0, 0.5):
        c.line([(x, y - 0.8 * s), (x + dx * s, y)], darker, 0.008)


def _dog(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    brown, dark = (165, 110, 60), (95, 60, 35)
    c.line([(x - 0.7 * s, y), (x - s, y - 0.4 * s)], brown, 0.02)
    c.ellipse(x, y + 0.1 * s, 0.75 * s, 0.35 * s, brown)
    for dx in (-0.5, -0.2, 0.2, 0.5):
        c.rectangle(x + (dx - 0.08) * s, y + 0.2 * s, x + (dx + 0.08) * s, y + 0.9 * s, brown)
    c.ellipse(x + 0.7 * s, y - 0.4 * s, 0.35 * s, 0.3 * s, brown)
    c.ellipse(x + 0.95 * s, y - 0.3 * s, 0.2 * s, 0.14 * s, brown)
    c.ellipse(x + 1.1 * s, y - 0.36 * s, 0.07 * s, 0.07 * s, (20, 20, 20))
    c.ellipse(x + 0.5 * s, y - 0.35 * s, 0.12 * s, 0.28 * s, dark)
    c.ellipse(x + 0.8 * s, y - 0.48 * s, 0.05 * s, 0.05 * s, (20, 20, 20))


def _skull(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    bone, dark = (235, 228, 210), (25, 20, 20)
    c.rectangle(x - 0.35 * s, y + 0.2 * s, x + 0.35 * s, y + 0.8 * s, bone)
    c.ellipse(x, y - 0.1 * s, 0.7 * s, 0.65 * s, bone)
    for dx in (-0.28, 0.28):
        c.ellipse(x + dx * s, y, 0.19 * s, 0.21 * s, dark)
    c.polygon([(x, y + 0.2 * s), (x - 0.1 * s, y + 0.4 * s), (x + 0.1 * s, y + 0.4 * s)], dark)
    for dx in (-0.18, 0.0, 0.18):
        c.line([(x + dx * s, y + 0.55 * s), (x + dx * s, y + 0.8 * s)], dark, 0.008)


def _house(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.rectangle(x - 0.7 * s, y - 0.1 * s, x + 0.7 * s, y + 0.9 * s, (240, 225, 195))
    c.polygon([(x, y - 0.9 * s), (x - 0.95 * s, y - 0.05 * s), (x + 0.95 * s, y - 0.05 * s)], color)
    c.rectangle(x - 0.15 * s, y + 0.35 * s, x + 0.2 * s, y + 0.9 * s, (110, 65, 35))
    c.rectangle(x - 0.55 * s, y + 0.15 * s, x - 0.25 * s, y + 0.45 * s, (130, 190, 235))


def _bird(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.ellipse(x, y, 0.6 * s, 0.3 * s, color)
    c.polygon([(x - 0.4 * s, y), (x - s, y - 0.25 * s), (x - s, y + 0.15 * s)], color)
    c.ellipse(x + 0.55 * s, y - 0.25 * s, 0.26 * s, 0.24 * s, color)
    c.polygon([(x + 0.78 * s, y - 0.35 * s), (x + 1.1 * s, y - 0.2 * s), (x + 0.78 * s, y - 0.12 * s)], (250, 170, 30))
    c.polygon(
        [(x + 0.2 * s, y - 0.1 * s), (x - 0.4 * s, y - 0.8 * s), (x - 0.3 * s, y)],
        (color[0] // 2, color[1] // 2, color[2] // 2),
    )
    c.ellipse(x + 0.62 * s, y - 0.3 * s, 0.05 * s, 0.05 * s, (10, 10, 10))


def _waste_container(c: _Canvas, x: float, y: float, s: float, color: Color) -> None:
    c.polygon(
        [
            (x - 0.5 * s, y - 0.3 * s),
            (x + 0.5 * s, y - 0.3 * s),
            (x + 0.4 * s, y + 0.9 * s),
            (x - 0.4 * s, y + 0.9 * s),
        ],
        (75, 95, 80),
    )
    c.rectangle(x - 0.6 * s, y - 0.5 * s, x + 0.6 * s, y - 0.3 * s, (50, 65, 55))
    for dx in (-0.2, 0.0, 0.2):
        c.line([(x + dx * s, y - 0.1 * s), (x + dx * s, y + 0.7 * s)], (40, 50, 45), 0.01)
    c.ellipse(x + 0.55 * s, y + 0.85 * s, 0.25 * s, 0.12 * s, (120, 130, 40))


_Draw = Callable[[_Canvas, float, float, float, Color], None]
_DRAW_OBJECT: dict[str, _Draw] = {
    "Balloon": _balloon,
    "Bird": _bird,
    "Car": _car,
    "Dog": _dog,
    "Flower": _flower,
    "House": _house,
    "Skull": _skull,
    "Tree": _tree,
    "Umbrella": _umbrella,
    "Waste container": _waste_container,
}
_PAINTS: tuple[Color, ...] = (
    (220, 40, 50),
    (40, 90, 220),
    (240, 190, 30),
    (150, 60, 180),
    (240, 120, 40),
    (30, 160, 160),
)


def _draw_objects(c: _Canvas, names: list[str], *, large: bool, rng: np.random.Generator) -> None:
    """Draws each object in its own corner: what flies above, the rest below, left or right at random."""
    sides = {True: list(rng.permutation(2)), False: list(rng.permutation(2))}
    for name in names:
        high = name in _FLYING
        x = (0.13 if sides[high].pop() == 0 else 0.87) + rng.uniform(-0.02, 0.02)
        y = rng.uniform(0.14, 0.22) if high else rng.uniform(0.78, 0.84)
        paint = _PAINTS[rng.integers(len(_PAINTS))]
        _DRAW_OBJECT[name](c, x, y, rng.uniform(0.12, 0.15) * (1.25 if large else 1.0), paint)


def _light(pixels: np.ndarray, *, saturation: float, gain: float) -> np.ndarray:
    """Returns the picture with its colours pulled from grey by ``saturation`` and its light multiplied by ``gain``."""
    r, g, b = 0.299, 0.587, 0.114
    keep = saturation * gain
    grey = (1 - saturation) * gain * np.array([r, g, b])
    matrix = np.tile(grey, (3, 1)) + np.eye(3) * keep
    return cv2.transform(pixels, matrix)  # saturates to 0..255


# ---------------------------------------------------------------------------------------------------------- the person

_SKINS: tuple[Color, ...] = ((250, 220, 190), (235, 190, 150), (205, 150, 110), (160, 105, 70), (110, 70, 45))
_HAIRS: tuple[Color, ...] = ((40, 30, 25), (95, 60, 30), (200, 160, 80), (150, 70, 40), (150, 150, 155))
_INK: Color = (35, 25, 30)


@dataclass
class _Head:
    """Where a face is: ``at`` turns face coordinates (half height 1, chin at v = 1) into canvas units."""

    x: float
    y: float
    half: float  # half of the face's height
    tilt: float

    def at(self, points: Any) -> np.ndarray:
        array = np.asarray(points, dtype=float)
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        return np.stack(
            [
                self.x + self.half * (array[:, 0] * cos - array[:, 1] * sin),
                self.y + self.half * (array[:, 0] * sin + array[:, 1] * cos),
            ],
            1,
        )

    def upright(self, points: Any) -> np.ndarray:
        """Returns canvas points of body coordinates: as ``at`` without the tilt of the head."""
        return np.array([self.x, self.y]) + self.half * np.asarray(points, dtype=float)


def _oval(u: float, v: float, a: float, b: float, *, steps: int = 24) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, steps, endpoint=False)
    return np.stack([u + a * np.cos(turn), v + b * np.sin(turn)], 1)


def _draw_brow(c: _Canvas, head: _Head, side: int, au: Callable[[str], float]) -> None:
    inner_u = 0.14 - 0.06 * au("AU4")
    down = au("AU4") * (1 - 0.9 * min(1.0, 1.5 * au("AU1")))  # AU1 wins at the inner end: the oblique brow of sadness
    inner_v = -0.46 - 0.24 * au("AU1") + 0.20 * down + 0.05 * au("AU9")
    middle_v = -0.52 - 0.10 * au("AU1") - 0.12 * au("AU2") + 0.10 * down
    outer_v = -0.44 - 0.22 * au("AU2") + 0.03 * au("AU4")
    points = [(side * inner_u, inner_v), (side * 0.36, middle_v), (side * 0.58, outer_v)]
    c.line(head.at(points), _INK, 0.09 * head.half)


def _draw_eye(c: _Canvas, head: _Head, side: int, au: Callable[[str], float], iris: Color, skin: Color) -> None:
    squeeze = 0.055 * au("AU7") + 0.03 * au("AU9")
    upper = max(0.03, 0.10 + 0.10 * au("AU5") - squeeze)
    lower = max(0.015, 0.085 - 0.06 * au("AU6") - squeeze)
    u, v = side * 0.33, -0.2
    turn = np.linspace(0, np.pi, 9)
    top = np.stack([u - 0.17 * np.cos(turn), v - upper * np.sin(turn)], 1)
    bottom = np.stack([u + 0.17 * np.cos(turn), v + lower * np.sin(turn)], 1)
    c.polygon(head.at(np.concatenate([top, bottom])), (252, 252, 250))
    reach = min(0.085, upper + 0.02, lower + 0.05)
    c.polygon(head.at(_oval(u, v - 0.01, 0.085, reach)), iris)
    c.polygon(head.at(_oval(u, v - 0.01, 0.04, min(0.04, reach))), (15, 12, 12))
    c.line(head.at(top), _INK, 0.03 * head.half)
    shade: Color = (skin[0] * 3 // 4, skin[1] * 2 // 3, skin[2] * 2 // 3)
    if au("AU6") > 0:  # the cheek pushes a fold under the eye and crow's feet beside it
        c.line(head.at(bottom + np.array([0, 0.07])), shade, 0.05 * head.half * (0.5 + au("AU6")))
        for dv in (-0.06, 0.06):
            c.line(head.at([(side * 0.54, v + dv / 2), (side * 0.64, v + dv * 1.8)]), shade, 0.03 * head.half)
    if au("AU7") > 0:
        c.line(head.at(bottom + np.array([0, 0.025])), shade, 0.035 * head.half)


def _draw_nose(c: _Canvas, head: _Head, au: Callable[[str], float], skin: Color) -> None:
    shade: Color = (skin[0] * 3 // 4, skin[1] * 2 // 3, skin[2] * 2 // 3)
    lift = 0.05 * au("AU9")
    c.line(head.at([(0.02, -0.15), (0.11, 0.17 - lift), (-0.06, 0.2 - lift)]), shade, 0.06 * head.half)
    if au("AU9") > 0:
        width = 0.045 * head.half * (0.6 + au("AU9"))
        for v in (-0.3, -0.2, -0.1):
            c.line(head.at([(-0.1, v - 0.02), (0, v + 0.03), (0.1, v - 0.02)]), shade, width)
        for side in (-1, 1):  # the furrow from the nostril
            c.line(head.at([(side * 0.14, 0.08), (side * 0.3, 0.3)]), shade, width)
    if au("AU4") > 0.3:
        for side in (-1, 1):
            c.line(head.at([(side * 0.05, -0.5), (side * 0.045, -0.36)]), shade, 0.035 * head.half)


def _draw_mouth(c: _Canvas, head: _Head, au: Callable[[str], float]) -> None:
    jaw = au("AU26")
    half_width = max(0.12, 0.27 + 0.10 * au("AU12") + 0.16 * au("AU20") - 0.12 * au("AU23") - 0.08 * jaw)
    corner = -0.17 * au("AU12") + 0.17 * au("AU15") + 0.05 * au("AU20")
    opening = 0.07 * au("AU25") + 0.27 * jaw
    center = 0.52 + 0.03 * au("AU12")
    raised = 0.09 * au("AU9")
    lips = 0.075 * (1 - 0.65 * au("AU23"))
    arch = np.linspace(-1, 1, 11)
    round_off = 1 - arch**2  # 0 at the corners, 1 in the middle
    rim = center + corner * (1 - round_off)
    u = half_width * arch
    top_edge = rim - (opening * 0.3 + raised + lips * 0.6) * round_off - 0.012
    bottom_edge = rim + (opening * 0.7 + lips) * round_off + 0.012
    lip_color: Color = (190, 70, 80)
    c.polygon(head.at(np.concatenate([np.stack([u, top_edge], 1), np.stack([u, bottom_edge], 1)[::-1]])), lip_color)
    inner_top, inner_bottom = rim - (opening * 0.3 + raised * 0.5) * round_off, rim + opening * 0.7 * round_off
    if opening + raised > 0.02:
        inside = np.concatenate([np.stack([u, inner_top], 1), np.stack([u, inner_bottom], 1)[::-1]])
        c.polygon(head.at(inside), (70, 15, 25))
        teeth = inner_top + np.minimum(inner_bottom - inner_top, 0.06)
        keep = slice(2, -2)
        c.polygon(
            head.at(np.concatenate([np.stack([u, inner_top], 1)[keep], np.stack([u, teeth], 1)[keep][::-1]])),
            (250, 250, 245),
        )
    else:
        c.line(head.at(np.stack([u, rim], 1)), (90, 20, 35), 0.04 * head.half)
    for side in (-1, 1):
        edge = side * half_width
        if au("AU12") > 0.3:
            c.line(
                head.at([(edge, center + corner), (edge + side * 0.06, center + corner - 0.08)]), _INK, 0.03 * head.half
            )
        if au("AU15") > 0.3:
            c.line(
                head.at([(edge, center + corner), (edge + side * 0.04, center + corner + 0.08)]), _INK, 0.03 * head.half
            )


def _draw_face(
    c: _Canvas, head: _Head, units: dict[str, int], *, skin: Color, hair: Color, style: int, iris: Color
) -> None:
    """Draws a head whose features move with the action units; every unit leaves a visible trace."""

    def au(unit: str) -> float:
        return units.get(unit, 0) / 5

    chin = 1 + 0.12 * au("AU26")
    if style == 2:  # long hair behind the face
        c.polygon(head.at([(-0.86, -0.5), (0.86, -0.5), (0.98, 1.15), (-0.98, 1.15)]), hair)
    c.polygon(head.at(_oval(0, -0.22, 0.86, 0.86)), hair)
    for side in (-1, 1):
        c.polygon(head.at(_oval(side * 0.78, -0.08, 0.12, 0.2, steps=12)), skin)
    outline = _oval(0, 0, 0.76, 1)
    outline[outline[:, 1] > 0, 1] *= chin
    outline[outline[:, 1] < -0.7, 1] = -0.7  # the hair line
    c.polygon(head.at(outline), skin)
    if style == 1:  # fringe
        c.polygon(head.at([(-0.62, -0.75), (0.62, -0.75), (0.5, -0.62), (0, -0.66), (-0.55, -0.58)]), hair)
    if au("AU12") > 0:
        blush: Color = (min(255, skin[0] + 12), skin[1] * 5 // 6, skin[2] * 5 // 6)
        for side in (-1, 1):
            c.polygon(head.at(_oval(side * 0.46, 0.16, 0.14, 0.1, steps=12)), blush)
    for side in (-1, 1):
        _draw_eye(c, head, side, au, iris, skin)
        _draw_brow(c, head, side, au)
    _draw_nose(c, head, au, skin)
    _draw_mouth(c, head, au)


_REST = ((1.22, 2.3), (1.25, 3.2))  # elbow and hand of an arm that hangs
_ARMS: dict[str | None, tuple[tuple[tuple[float, float], ...], ...]] = {  # (elbow, hand), right then left arm
    None: (_REST, _REST),
    "applauding": (((1.3, 2.25), (0.1, 1.7)), ((1.3, 2.25), (0.1, 1.7))),
    "celebrating": (((1.65, 1.0), (1.4, -0.35)), ((1.65, 1.0), (1.4, -0.35))),
    "drinking": (((1.6, 1.9), (0.72, 0.95)), _REST),
    "reading book": (((1.35, 2.4), (0.6, 1.9)), ((1.35, 2.4), (0.6, 1.9))),
    "stretching arm": (((1.7, 1.35), (2.3, 1.1)), _REST),
    "texting": (((1.4, 2.4), (0.45, 1.85)), _REST),
}


def _draw_person(c: _Canvas, plan: _Plan, rng: np.random.Generator) -> None:
    half = rng.uniform(0.205, 0.27) if rng.random() < 0.9 else rng.uniform(0.13, 0.19)
    head = _Head(
        x=rng.uniform(0.42, 0.58),
        y=rng.uniform(0.33, 0.37) + (0.27 - half) * rng.uniform(-0.1, 0.6),
        half=half,
        tilt=float(rng.normal(0, 0.08)),
    )
    skin, hair = (palette[rng.integers(5)] for palette in (_SKINS, _HAIRS))
    shirt = _vary(_PAINTS[rng.integers(len(_PAINTS))], rng, 25)
    sleeve: Color = (shirt[0] * 4 // 5, shirt[1] * 4 // 5, shirt[2] * 4 // 5)
    iris: Color = ((70, 45, 25), (50, 90, 140), (60, 110, 70))[rng.integers(3)]
    c.track()
    c.polygon(head.upright([(-0.3, 0.6), (0.3, 0.6), (0.34, 1.5), (-0.34, 1.5)]), (skin[0] * 7 // 8, *skin[1:]))
    bottom = (1.02 - head.y) / head.half
    c.polygon(
        head.upright([(-0.4, 1.25), (0.4, 1.25), (1.1, 1.5), (1.15, bottom), (-1.15, bottom), (-1.1, 1.5)]), shirt
    )
    _draw_face(c, head, plan.units, skin=skin, hair=hair, style=int(rng.integers(3)), iris=iris)
    first = 1 if rng.random() < 0.5 else -1
    if plan.action == "reading book":
        c.polygon(head.upright([(0, 1.55), (0.65, 1.45), (0.65, 2.2), (0, 2.3)]), (250, 245, 230))
        c.polygon(head.upright([(0, 1.55), (-0.65, 1.45), (-0.65, 2.2), (0, 2.3)]), (235, 228, 210))
        c.line(head.upright([(0, 1.55), (0, 2.3)]), (120, 60, 40), 0.02)
    for side, arm in zip((first, -first), _ARMS[plan.action], strict=True):
        joints = [(side * 1.02, 1.62), *((side * u, v) for u, v in arm)]
        c.line(head.upright(joints), sleeve, 0.3 * head.half)
        (hand,) = head.upright([joints[-1]])
        c.ellipse(hand[0], hand[1], 0.17 * head.half, 0.17 * head.half, skin)
    if plan.action == "drinking":
        c.polygon(
            head.upright([(first * 0.5, 0.62), (first * 0.85, 0.7), (first * 0.8, 1.1), (first * 0.52, 1.05)]),
            (245, 245, 250),
        )
        c.polygon(
            head.upright([(first * 0.5, 0.62), (first * 0.85, 0.7), (first * 0.84, 0.8), (first * 0.51, 0.72)]),
            (120, 70, 30),
        )
    elif plan.action == "texting":
        c.polygon(
            head.upright([(first * 0.1, 1.5), (first * 0.42, 1.5), (first * 0.42, 2.05), (first * 0.1, 2.05)]),
            (20, 20, 25),
        )
        c.polygon(
            head.upright([(first * 0.14, 1.56), (first * 0.38, 1.56), (first * 0.38, 1.98), (first * 0.14, 1.98)]),
            (150, 210, 250),
        )


# --------------------------------------------------------------------------------------------------------- the results


def brightness_of(pixels: np.ndarray) -> float:
    """Returns the mean grey of an RGB picture over 255: 0 black, 1 white (an approximation of EmoSet's scale)."""
    return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean()) / 255


def colorfulness_of(pixels: np.ndarray) -> float:
    """Returns the colorfulness of an RGB picture (Hasler and Suesstrunk, 2003) over 109, their "extremely colorful".

    An approximation of EmoSet's scale; clipped to 1.
    """
    red, green, blue = (pixels[..., channel].astype(np.float32) for channel in range(3))
    rg, yb = red - green, 0.5 * (red + green) - blue
    value = math.hypot(float(rg.std()), float(yb.std())) + 0.3 * math.hypot(float(rg.mean()), float(yb.mean()))
    return min(1.0, value / 109)


def _render(plan: _Plan, size: int, rng: np.random.Generator) -> tuple[np.ndarray, list[list[float]]]:
    canvas = _Canvas(size)
    _BACKGROUNDS[plan.scene](canvas, rng)
    canvas.pixels = _light(canvas.pixels, saturation=plan.saturation, gain=plan.light)
    _draw_objects(canvas, plan.objects, large=not plan.person, rng=rng)
    boxes = []
    if plan.person:
        _draw_person(canvas, plan, rng)
        boxes.append(canvas.stop_tracking())
    # What stands in the scene takes on a part of its light, not all of it: the face must stay readable.
    pixels = _light(canvas.pixels, saturation=0.3 + 0.6 * plan.saturation, gain=0.5 + 0.45 * plan.light)
    grain = rng.integers(-4, 5, pixels.shape, dtype=np.int16)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8), boxes


def scene(index: int, *, seed: int = 0, size: int = 128) -> Sample:
    """Returns the synthetic scene ``index``: a JPEG of ``size`` x ``size`` pixels with the labels of ``FIELDS``.

    The same (index, seed, size) always gives the same bytes. Labels of a person (expression, votes, action units,
    facial expression, action) are absent where nobody is drawn; ``facial_expression`` is absent on a neutral face, for
    which EmoSet has no class. ``votes`` are those of ten simulated raters.
    """
    if size < 32:
        raise VeaError(f"synthetic scenes need at least 32 pixels, size is {size}")
    rng = np.random.default_rng([seed, index])
    plan = _plan(rng)
    pixels, boxes = _render(plan, size, rng)
    brightness, colorfulness = (round(measure(pixels), 1) for measure in (brightness_of, colorfulness_of))
    emotion, valence, arousal = _emotion(plan, brightness, colorfulness, rng)
    labels: dict[str, Any] = {
        "emotion": emotion,
        "valence": valence,
        "arousal": arousal,
        "scene": plan.scene,
        "brightness": f"{brightness:.1f}",
        "colorfulness": f"{colorfulness:.1f}",
    }
    if plan.objects:
        labels["object"] = plan.objects
    if plan.expression is not None:
        labels["expression"] = plan.expression
        labels["votes"] = _votes(plan.units, rng)
        labels["action_units"] = [unit for unit in ACTION_UNITS if unit in plan.units]
        labels |= {f"{unit.lower()}_intensity": float(plan.units.get(unit, 0)) for unit in ACTION_UNITS}
        if plan.expression in EMOSET_FACE_6.classes:
            labels["facial_expression"] = plan.expression
    if plan.action is not None:
        labels["human_action"] = plan.action
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return Sample(
        key=scene_key(index, seed=seed),
        image=encoded.tobytes(),
        extension="jpg",
        labels=labels,
        text=_captions(plan, brightness, colorfulness, rng),
        person_boxes=boxes,
        source="synthetic",
    )


def numbers(count: int, *, split: str) -> range:
    """Returns the numbers of the first ``count`` scenes of ``split`` (train, val or test); splits share no scene."""
    if split not in _SPLIT_START:
        raise VeaError(f"synthetic data has no split {split!r}{did_you_mean(split, _SPLIT_START)}")
    return range(_SPLIT_START[split], _SPLIT_START[split] + count)


def scene_key(index: int, *, seed: int = 0) -> str:
    """Returns the key of scene ``index``."""
    return f"synthetic-{seed}-{index:08d}"


def samples(count: int, *, split: str = "train", seed: int = 0, size: int = 128) -> Iterator[Sample]:
    """Yields the first ``count`` scenes of ``split``."""
    for index in numbers(count, split=split):
        yield replace(scene(index, seed=seed, size=size), split=split)
