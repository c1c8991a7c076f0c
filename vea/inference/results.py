"""What ``predict`` returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from vea.faces.detect import Box
from vea.faces.landmarks import Landmarks


@dataclass(frozen=True)
class Attribute:
    """One label: the class name, the names of a label set (0.5 and above), or a number on the raters' scale."""

    value: str | list[str] | float
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Face:
    """One face: box (x0, y0, x1, y1) in pixels of the picture as displayed, expression, the detector's score.

    ``attributes`` holds every label of the model by name; where the model was not trained on expressions, the
    expression is that of its main label. A lying face is turned by ``turn`` degrees, clockwise; ``upright`` is the box
    that it has once it is turned back about that box's middle (``vea.faces.detect.Detection``).

    ``units`` are action units, 0 to 1, by FACS number and words; ``intensity`` says how strong each emotion is, mostly
    0 to 1; ``affect`` valence, arousal and dominance of the face, -1 to 1 (``vea.inference.readings``). A model that
    has no such readings leaves them empty. ``landmarks`` where they were asked for.
    """

    box: Box
    expression: str
    probabilities: dict[str, float]
    score: float
    attributes: dict[str, Attribute] = field(default_factory=dict)
    turn: float = 0.0
    upright: Box | None = None
    units: dict[str, float] = field(default_factory=dict)
    intensity: dict[str, float] = field(default_factory=dict)
    affect: dict[str, float] = field(default_factory=dict)
    landmarks: Landmarks | None = None

    @property
    def values(self) -> dict[str, float]:
        """The labels that are numbers, e.g. valence and arousal."""
        return _numbers(self.attributes)


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    Models of faces: ``expression`` is the largest face's, or None where no face was found. Models of whole pictures:
    ``emotion`` is their main label's class, None where it has none, and there are no faces. ``probabilities`` are those
    of the one or the other; ``attributes`` holds every label of the model by name; ``units``, ``intensity`` and
    ``affect`` are the largest face's (see ``Face``), or those of a picture that is a face.
    """

    expression: str | None
    probabilities: dict[str, float] = field(default_factory=dict)
    faces: list[Face] = field(default_factory=list)
    emotion: str | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    units: dict[str, float] = field(default_factory=dict)
    intensity: dict[str, float] = field(default_factory=dict)
    affect: dict[str, float] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The labels that are numbers, on the raters' scale."""
        return _numbers(self.attributes)

    @property
    def valence(self) -> float | None:
        """How pleasant, on the raters' scale; None where the model has no such label."""
        return self.values.get("valence")

    @property
    def arousal(self) -> float | None:
        """How exciting, on the raters' scale; None where the model has no such label."""
        return self.values.get("arousal")


MIDPOINT = 4.0  # of the 1 to 7 scales: neither pleasant nor unpleasant, neither arousing nor calm
QUADRANTS = tuple(f"{pleasure} and {arousal}" for pleasure in ("pleasant", "unpleasant")
                  for arousal in ("arousing", "calm"))  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What a picture as a whole evokes in people who look at it, and how it looks.

    ``valence`` (1 unpleasant to 7 pleasant) and ``arousal`` (1 calm to 7 arousing) are guesses of the mean of many
    raters; ``valence_sd`` and ``arousal_sd`` are the root mean square error on photographs of new themes.
    ``brightness`` and ``colorfulness`` are tenths of 0 to 1, EmoSet's bins, measured and not guessed.
    """

    valence: float
    arousal: float
    valence_sd: float
    arousal_sd: float
    brightness: float
    colorfulness: float

    @property
    def pleasant(self) -> float:
        """The probability that raters find the picture rather pleasant; the error is taken as normal."""
        return _above(self.valence, self.valence_sd)

    @property
    def arousing(self) -> float:
        """The probability that raters find the picture rather arousing; the error is taken as normal."""
        return _above(self.arousal, self.arousal_sd)

    @property
    def quadrants(self) -> dict[str, float]:
        """The probability of each quadrant; the two errors are taken as independent."""
        shares = [p * a for p in (self.pleasant, 1 - self.pleasant) for a in (self.arousing, 1 - self.arousing)]
        return dict(zip(QUADRANTS, shares))

    @property
    def quadrant(self) -> str:
        """The quadrant of the plane of valence and arousal in which the guess lies."""
        return max(self.quadrants, key=self.quadrants.__getitem__)


def _above(value: float, sd: float) -> float:
    return 0.5 * (1 + math.erf((value - MIDPOINT) / (sd * math.sqrt(2))))


def _numbers(attributes: dict[str, Attribute]) -> dict[str, float]:
    return {name: found.value for name, found in attributes.items() if isinstance(found.value, float)}
