"""What is in a drawn scene."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from vea.taxonomy.emotions import FER2013_7, FERPLUS_8, MIKELS_8
from vea.taxonomy.words import map_expressions

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
