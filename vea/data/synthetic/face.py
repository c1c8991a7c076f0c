"""Faces and bodies of drawn scenes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vea.data.synthetic.drawing import _PAINTS, Color, _Canvas, _vary
from vea.data.synthetic.plan import _Plan

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


_UNITS = ("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU9", "AU12", "AU15", "AU20", "AU23", "AU25", "AU26")
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


@dataclass(frozen=True)
class Portrait:
    """A drawn face: ``image`` (S, S, 3) uint8, ``box`` (x0, y0, x1, y1) and ``points`` (5, 2) in pixels.

    Points: the eye on the left of the picture, on the right, the tip of the nose, the mouth's left and right corner.
    """

    image: np.ndarray
    box: tuple[float, float, float, float]
    points: np.ndarray


def draw_portrait(rng: np.random.Generator, *, size: int) -> Portrait:
    """Returns a drawn face of random looks and action units that fills most of a picture of ``size`` pixels."""
    canvas = _Canvas(size)
    canvas.rectangle(0, 0, 1, 1, _vary(_PAINTS[rng.integers(len(_PAINTS))], rng, 30))
    head = _Head(x=0.5, y=0.52, half=float(rng.uniform(0.36, 0.42)), tilt=float(rng.normal(0, 0.1)))
    units = {unit: int(rng.integers(6)) for unit in _UNITS if rng.random() < 0.35}
    skin, hair = (palette[rng.integers(5)] for palette in (_SKINS, _HAIRS))
    iris: Color = ((70, 45, 25), (50, 90, 140), (60, 110, 70))[rng.integers(3)]
    _draw_face(canvas, head, units, skin=skin, hair=hair, style=int(rng.integers(3)), iris=iris)
    outline = head.at(_oval(0, 0.13, 0.76, 0.87)) * size
    (x0, y0), (x1, y1) = outline.min(0), outline.max(0)
    points = head.at([(-0.33, -0.2), (0.33, -0.2), (0.0, 0.17), (-0.27, 0.52), (0.27, 0.52)]) * size
    return Portrait(canvas.pixels, (float(x0), float(y0), float(x1), float(y1)), points)
