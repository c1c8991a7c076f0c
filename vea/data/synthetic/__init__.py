"""Small drawn scenes with every label the suite knows: embedded data of the demo, the tests and CI."""

from vea.data.synthetic.drawing import Color
from vea.data.synthetic.plan import (
    ACTION_UNITS,
    ACTIONS,
    OBJECTS,
    PROTOTYPES,
    SCENES,
    TENTHS,
    expression_of,
    expression_scores,
)
from vea.data.synthetic.scene import FIELDS, numbers, samples, scene, scene_key

__all__ = [
    "ACTIONS",
    "ACTION_UNITS",
    "FIELDS",
    "OBJECTS",
    "PROTOTYPES",
    "SCENES",
    "TENTHS",
    "Color",
    "expression_of",
    "expression_scores",
    "numbers",
    "samples",
    "scene",
    "scene_key",
]
