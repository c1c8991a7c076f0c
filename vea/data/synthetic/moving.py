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


@dataclass(frozen=True)
class Story:
    """A drawn person over time: valence (T,) in [-1, 1], the units of every frame, and when it is shown."""

    valence: np.ndarray
    units: list[dict[str, float]]
    times: np.ndarray


def story(subject: int, number: int, *, seed: int = 0, frames: int = 60, rate: float = 5.0) -> Story:
    """Returns one person's story: units that follow a valence which wanders, as far as this person shows it.

    Valence is a sum of slow waves, squashed. A person has a resting face (what shows at valence 0, up to .35 of the
    scale either way), a strength (.5 to 1), and a delay (0 to .6 s). Joy moves AU12 and AU6, sorrow AU1, AU4 and AU15.
    Beside these: speech opens the mouth (AU25, AU26) in bursts, and every unit trembles from frame to frame.
    """
    person = np.random.default_rng([seed, 7, subject])
    rest, strength, delay = person.uniform(-0.35, 0.35), person.uniform(0.5, 1.0), person.uniform(0, 0.6)
    rng = np.random.default_rng([seed, 11, subject, number])
    waves = [(rng.uniform(0.03, 0.25), rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)) for _ in range(4)]

    def felt(at: np.ndarray) -> np.ndarray:
        return np.tanh(sum(height * np.sin(2 * np.pi * often * at + phase) for often, phase, height in waves))

    times = np.arange(frames) / rate
    shown = np.clip(strength * felt(times - delay) + rest, -1, 1)
    speech = np.clip(np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * times + rng.uniform(0, 6)) * 3, 0, 1)
    units = []
    for value, opened in zip(shown, speech * rng.random(frames)):
        joy, sorrow = max(value, 0.0), max(-value, 0.0)
        exact = {"AU12": 5 * joy, "AU6": 3.5 * joy, "AU4": 4 * sorrow, "AU15": 4 * sorrow, "AU1": 3 * sorrow,
                 "AU25": 4 * opened, "AU26": 2 * opened}  # fmt: skip
        units.append({name: float(np.clip(level + rng.normal(0, 0.7), 0, 5)) for name, level in exact.items()})
    return Story(felt(times), units, times)


def draw_story(
    told: Story, subject: int, *, seed: int = 0, size: int = 112
) -> tuple[list[np.ndarray], list[tuple[float, float, float, float]]]:
    """Returns the frames of a story, RGB uint8 (size, size, 3), and the box of the face in each."""
    rng = np.random.default_rng([seed, 13, subject])
    phase, reach = rng.uniform(0, 6, 2), rng.uniform(0.01, 0.05)
    pictures, boxes = [], []
    for time, units in zip(told.times, told.units):
        x, y = (0.5 + reach * np.sin(0.7 * time + phase)) * size
        half = 0.36 * size
        face = DrawnFace(subject, x, y, half, units, tilt=float(0.08 * np.sin(0.5 * time + phase[0])))
        pictures.append(draw_frame([face], width=size, height=size))
        boxes.append((x - 0.76 * half, y - 0.74 * half, x + 0.76 * half, y + half))
    return pictures, boxes
