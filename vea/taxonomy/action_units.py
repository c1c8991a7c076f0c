"""Facial action units that MediaPipe's blendshapes show: number and words of FACS, and how they are read.

Units and words are those of the Facial Action Coding System (Ekman and Friesen 1978). No person has coded anything
here. A unit's value, 0 to 1, is a sum of blendshapes (mean of left and right) with fixed weights, cut off at 1:

- "fitted": the weights of a reader that was fitted to py-feat's probabilities on clips of people who talk, without its
  intercept, so that a face that shows nothing has 0. Not a FACS intensity of A to E.
- "shape": the blendshape that means the same movement, as it is. Such a unit describes; it did not follow py-feat.

AU6 and AU9 are not among them: MediaPipe's cheekSquint and noseSneer are always near 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ActionUnit:
    """One unit.

    Attributes:
        number: of FACS.
        words: of FACS.
        weights: {blendshape without Left and Right: weight}.
        source: whether the weights were fitted, or the blendshape is taken as it is.
        means: expressions that textbooks name it for; no proof of any of them.
        plain: what a person who does not know FACS sees.
    """

    number: int
    words: str
    weights: Mapping[str, float]
    source: Literal["fitted", "shape"]
    means: tuple[str, ...]
    plain: str

    @property
    def name(self) -> str:
        """The name in results, such as ``AU12 lip corner puller``."""
        return f"AU{self.number} {self.words}"


def _shape(number: int, words: str, blendshape: str, means: str, plain: str) -> ActionUnit:
    return ActionUnit(number, words, {blendshape: 1.0}, "shape", tuple(means.split()), plain)


def _fitted(number: int, words: str, weights: Mapping[str, float], means: str, plain: str) -> ActionUnit:
    return ActionUnit(number, words, weights, "fitted", tuple(means.split()), plain)


# What units are named for: Ekman's prototypes, as py-feat's page of action units and Emotion-LLaMA's rule list them.
UNITS: dict[str, ActionUnit] = {
    unit.name: unit
    for unit in (
        _fitted(1, "inner brow raiser", {"browInnerUp": 0.833}, "sadness surprise fear", "inner brows raised"),
        _fitted(2, "outer brow raiser", {"browOuterUp": 1.804}, "surprise fear", "outer brows raised"),
        _shape(4, "brow lowerer", "browDown", "anger sadness fear", "brows lowered"),
        _fitted(5, "upper lid raiser", {"eyeWide": 9.272}, "surprise fear anger", "eyes wide open"),
        _fitted(7, "lid tightener", {"eyeSquint": 0.923}, "anger fear", "lids tightened"),
        _shape(10, "upper lip raiser", "mouthUpperUp", "disgust anger", "upper lip raised"),
        _fitted(12, "lip corner puller", {"mouthSmile": 1.162}, "happiness", "corners of the mouth pulled up"),
        _shape(14, "dimpler", "mouthDimple", "contempt", "corners of the mouth tightened"),
        _shape(15, "lip corner depressor", "mouthFrown", "sadness disgust", "corners of the mouth pulled down"),
        _shape(16, "lower lip depressor", "mouthLowerDown", "disgust", "lower lip pulled down"),
        _shape(17, "chin raiser", "mouthShrugLower", "disgust sadness", "chin raised"),
        _shape(18, "lip puckerer", "mouthPucker", "", "lips puckered"),
        _shape(20, "lip stretcher", "mouthStretch", "fear", "lips stretched"),
        _shape(22, "lip funneler", "mouthFunnel", "anger", "lips funnelled"),
        _shape(24, "lip pressor", "mouthPress", "anger", "lips pressed together"),
        _fitted(
            25, "lips part", {"jawOpen": 1.795, "mouthLowerDown": 4.35, "mouthUpperUp": 1.376},
            "happiness surprise fear", "lips apart",
        ),
        _fitted(26, "jaw drop", {"jawOpen": 2.472}, "surprise fear", "jaw dropped"),
        _shape(28, "lip suck", "mouthRoll", "", "lips drawn in"),
        _fitted(43, "eyes closed", {"eyeBlink": 0.604}, "", "eyes closed"),
    )
}  # fmt: skip

_SIDES = {"mouthRoll": ("Lower", "Upper")}  # of the others Left and Right


def read_units(blendshapes: Mapping[str, float]) -> dict[str, float]:
    """Returns {unit: 0 to 1} of one face's blendshapes (52 names of ARKit)."""
    return {
        name: min(1.0, max(0.0, sum(weight * _mean(blendshapes, shape) for shape, weight in unit.weights.items())))
        for name, unit in UNITS.items()
    }


def _mean(blendshapes: Mapping[str, float], shape: str) -> float:
    if shape in blendshapes:
        return blendshapes[shape]
    first, second = _SIDES.get(shape, ("Left", "Right"))
    return (blendshapes[shape + first] + blendshapes[shape + second]) / 2


LEVELS = ((0.1, "absent"), (0.3, "slight"), (0.6, "moderate"), (float("inf"), "strong"))  # below the number


def level(value: float) -> str:
    """Returns the word for a unit's strength: absent below .1, slight below .3, moderate below .6, strong."""
    return next(word for bound, word in LEVELS if value < bound)
