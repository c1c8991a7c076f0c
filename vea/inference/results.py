"""What ``predict`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from vea.faces.detect import Box


@dataclass(frozen=True)
class Attribute:
    """One label: the class name, the names of a label set (0.5 and above), or a number on the raters' scale."""

    value: str | list[str] | float
    probabilities: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Face:
    """One face: box (x0, y0, x1, y1) in pixels of the picture as displayed, expression, the detector's score.

    ``attributes`` holds every label of the model by name; where the model was not trained on expressions, the
    expression is that of its main label.
    """

    box: Box
    expression: str
    probabilities: dict[str, float]
    score: float
    attributes: dict[str, Attribute] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float]:
        """The labels that are numbers, e.g. valence and arousal."""
        return _numbers(self.attributes)


@dataclass(frozen=True)
class Prediction:
    """What was found in one picture.

    Models of faces: ``expression`` is the largest face's, or None where no face was found. Models of whole pictures:
    ``emotion`` is their main label's class, None where it has none, and there are no faces. ``probabilities`` are those
    of the one or the other; ``attributes`` holds every label of the model by name.
    """

    expression: str | None
    probabilities: dict[str, float] = field(default_factory=dict)
    faces: list[Face] = field(default_factory=list)
    emotion: str | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)

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


def _numbers(attributes: dict[str, Attribute]) -> dict[str, float]:
    return {name: found.value for name, found in attributes.items() if isinstance(found.value, float)}
