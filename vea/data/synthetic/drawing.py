"""Backgrounds, objects and light of drawn scenes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from vea.data.synthetic.plan import _FLYING

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
