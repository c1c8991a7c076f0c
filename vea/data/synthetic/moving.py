"""Drawn faces that move: the frames of a video of which everything is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vea.data.synthetic.drawing import Color, _Canvas
from vea.data.synthetic.face import _HAIRS, _SKINS, _draw_face, _Head

_IRIS: Color = (70, 45, 25)


@dataclass(frozen=True)
class DrawnFace:
    """A face at (x, y) pixels, ``half`` its height high, with action units 0..5; ``look`` says who it is."""

    look: int
    x: float
    y: float
    half: float
    units: Mapping[str, float] = field(default_factory=dict)
    tilt: float = 0.0


def draw_frame(faces: Iterable[DrawnFace], *, width: int, height: int, grey: int = 150) -> np.ndarray:
    """Returns RGB uint8 (height, width, 3) of faces before an even ground; the last one stands in front."""
    side = max(width, height)
    canvas = _Canvas(side)
    canvas.pixels[:] = grey
    for face in faces:
        head = _Head(face.x / side, face.y / side, face.half / side, face.tilt)
        skin, hair = _SKINS[face.look % len(_SKINS)], _HAIRS[(face.look // 2) % len(_HAIRS)]
        _draw_face(canvas, head, dict(face.units), skin=skin, hair=hair, style=face.look % 3, iris=_IRIS)  # type: ignore[arg-type]
    return np.ascontiguousarray(canvas.pixels[:height, :width])
