"""Pictures with faces whose boxes and points are known: photographs turned, scaled, lit, with faces pasted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

MIRRORED_POINTS = [1, 0, 2, 4, 3]  # of eyes, nose, corners of the mouth, when left and right change places
SURE, DOUBTFUL = 0.65, 0.3  # score of a labelled face from which it is one, and below which nothing is there
ALARM = 0.12  # score from which what is no face in a lifeless picture is shown more often
SMALLEST = 8.0  # pixels of a face that is to be found
PASTED = (9.0, 0.66)  # sides of pasted faces: the least in pixels, the most as a share of the picture
REAL = (10.0, 0.9)  # sides to which photographed faces are brought


@dataclass
class Scene:
    """A photograph at full, half and quarter size, with rows (N, 15): box, five points, score."""

    levels: list[np.ndarray]
    faces: np.ndarray
    doubtful: float = SURE  # score below which a labelled face is no face where ``lifeless``; above it may be one
    lifeless: bool = False  # a picture of animals or things: what looks like a face is none

    @property
    def sure(self) -> np.ndarray:
        """Returns the numbers of the faces that are faces."""
        return np.flatnonzero(self.faces[:, 14] >= (2.0 if self.lifeless else SURE))

    @property
    def alarms(self) -> np.ndarray:
        """Returns the numbers of what was labelled and is no face."""
        return np.flatnonzero((self.faces[:, 14] >= ALARM) & (self.faces[:, 14] < self.doubtful) & self.lifeless)


@dataclass
class Sample:
    """A picture (S, S, 3) uint8, faces (N, 14), and boxes (M, 4) of what may or may not be one."""

    image: np.ndarray
    faces: list[np.ndarray] = field(default_factory=list)
    ignored: list[np.ndarray] = field(default_factory=list)
    lifeless: bool = False  # as its scene


def random_angle(rng: np.random.Generator) -> float:
    """Returns a turn in degrees: mostly small, now and then any, now and then a quarter or a half."""
    share = rng.random()
    if share < 0.66:
        return float(rng.normal(0, 8))
    if share < 0.88:
        return float(rng.normal(0, 30))
    return float(90 * rng.integers(1, 4) + rng.normal(0, 8))


def moved(row: np.ndarray, matrix: np.ndarray, *, mirror: bool) -> np.ndarray:
    """Returns box and points (14,) after an affine map (2, 3); a turned box is that of the ellipse in the old one."""
    centre, half = (row[:2] + row[2:4]) / 2, (row[2:4] - row[:2]) / 2
    at = matrix[:, :2] @ centre + matrix[:, 2]
    reach = np.sqrt((matrix[:, :2] ** 2) @ half**2)
    points = row[4:14].reshape(5, 2) @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([at - reach, at + reach, (points[MIRRORED_POINTS] if mirror else points).ravel()])


def affine(*, centre: np.ndarray, target: np.ndarray, angle: float, scale: float, mirror: bool) -> np.ndarray:
    """Returns (2, 3): turn by ``angle`` degrees about ``centre``, scale, mirror, and bring ``centre`` to ``target``."""
    turn = np.deg2rad(angle)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    return np.concatenate([linear, (target - linear @ centre)[:, None]], 1)


class Composites:
    """Draws samples of ``side`` pixels from scenes and from faces cut out of their pictures (with rows (N, 14))."""

    def __init__(self, scenes: list[Scene], faces: list[tuple[np.ndarray, np.ndarray]], *, side: int = 256) -> None:
        self.scenes, self.side = scenes, side
        self.with_faces = [number for number, scene in enumerate(scenes) if len(scene.sure)]
        self.with_alarms = [number for number, scene in enumerate(scenes) if len(scene.alarms)]
        self.sources = faces  # e.g. (48-pixel grey faces, rows), (drawn faces, rows)

    def sample(self, rng: np.random.Generator) -> Sample:
        """Returns one picture with its faces."""
        share = rng.random()
        among = self.with_faces if share < 0.5 else self.with_alarms if share < 0.7 else []
        scene = self.scenes[int(rng.choice(among)) if among else int(rng.integers(len(self.scenes)))]
        sample = self._photograph(scene, rng, rows=(scene.alarms if scene.lifeless else scene.sure) if among else [])
        for _ in range(int(rng.integers(1, 6)) if rng.random() < (0.3 if among else 0.65) else 0):
            self._paste(sample, rng)
        sample.image = _lit(sample.image, rng)
        return sample

    def _sides(self, limits: tuple[float, float], rng: np.random.Generator) -> float:
        return float(np.exp(rng.uniform(*np.log([limits[0], limits[1] * self.side]))))

    def _photograph(self, scene: Scene, rng: np.random.Generator, *, rows: Sequence[int] | np.ndarray) -> Sample:
        height, width = scene.levels[0].shape[:2]
        mirror, angle = bool(rng.random() < 0.5), random_angle(rng)
        if len(rows):
            row = scene.faces[rng.choice(rows)]
            size = float(np.sqrt((row[2] - row[0]) * (row[3] - row[1])))
            scale = min(3.0, self._sides(REAL, rng) / size)
            centre = (row[:2] + row[2:4]) / 2
            target = rng.uniform(0.15, 0.85, 2) * self.side
        else:
            scale = self.side / min(height, width) * float(np.exp(rng.uniform(np.log(0.5), np.log(2.2))))
            centre, target = rng.uniform(0.2, 0.8, 2) * [width, height], np.full(2, self.side / 2)
        matrix = affine(centre=centre, target=target, angle=angle, scale=scale, mirror=mirror)
        level = min(len(scene.levels) - 1, max(0, int(np.floor(-np.log2(min(1.0, scale)) + 0.3))))
        source = scene.levels[level]
        back = np.array([width / source.shape[1], height / source.shape[0]])
        border = cv2.BORDER_REPLICATE if rng.random() < 0.3 else cv2.BORDER_CONSTANT
        image = cv2.warpAffine(source, np.concatenate([matrix[:, :2] * back, matrix[:, 2:]], 1), (self.side, self.side),
                               flags=cv2.INTER_LINEAR, borderMode=border,
                               borderValue=rng.integers(0, 256, 3).tolist())  # fmt: skip
        sample = Sample(image, lifeless=scene.lifeless)
        for row in scene.faces:
            least = scene.doubtful if scene.lifeless else DOUBTFUL
            self._keep(sample, moved(row, matrix, mirror=mirror), score=row[14], least=least, lifeless=scene.lifeless)
        return sample

    def _keep(
        self, sample: Sample, row: np.ndarray, *, score: float, least: float = DOUBTFUL, lifeless: bool = False
    ) -> None:
        inside = np.clip(row[:4], 0, self.side)
        area, whole = (inside[2:] - inside[:2]).prod(), (row[2:4] - row[:2]).prod()
        if area <= 0 or score < least:
            return
        if lifeless or score < SURE or area < 0.6 * whole or np.sqrt(whole) < SMALLEST:
            sample.ignored.append(inside)
        else:
            sample.faces.append(row)

    def _paste(self, sample: Sample, rng: np.random.Generator) -> None:
        pictures, rows = self.sources[int(rng.random() < 0.12) % len(self.sources)]
        number = int(rng.integers(len(pictures)))
        face, row = pictures[number], rows[number]
        size = self._sides(PASTED, rng)
        centre, target = (row[:2] + row[2:4]) / 2, rng.uniform(0.05, 0.95, 2) * self.side
        scale = size / float(np.sqrt((row[2] - row[0]) * (row[3] - row[1])))
        mirror = bool(rng.random() < 0.5)
        matrix = affine(centre=centre, target=target, angle=random_angle(rng), scale=scale, mirror=mirror)
        new = moved(row, matrix, mirror=mirror)
        around = np.stack([new[:2] - 0.2 * size, new[2:4] + 0.2 * size]).ravel()
        for other in [*sample.faces, *sample.ignored]:
            if (np.minimum(other[2:4], around[2:]) > np.maximum(other[:2], around[:2])).all():
                return
        low = np.floor(around[:2]).astype(int).clip(0, self.side)
        high = np.ceil(around[2:]).astype(int).clip(0, self.side)
        if (high - low < 2).any():
            return
        if scale < 0.6:  # averaging before the map, which looks at four pixels
            smaller = max(6, round(len(face) * scale * 1.4))
            matrix[:, :2] *= len(face) / smaller
            face, row = cv2.resize(face, (smaller, smaller), interpolation=cv2.INTER_AREA), row * smaller / len(face)
        mask = _mask(face.shape[0], row, rng)
        matrix[:, 2] -= low
        patch_size = (int(high[0] - low[0]), int(high[1] - low[1]))
        patch = cv2.warpAffine(_coloured(face, rng), matrix, patch_size, flags=cv2.INTER_LINEAR)
        share = cv2.warpAffine(mask, matrix, patch_size, flags=cv2.INTER_LINEAR)[:, :, None]
        place = sample.image[low[1] : high[1], low[0] : high[0]]
        place[:] = (share * patch + (1 - share) * place).round().clip(0, 255).astype(np.uint8)
        self._keep(sample, new, score=1.0)


def _mask(side: int, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns (side, side) float32: all of the face's picture, or an ellipse around its box with a soft border."""
    if rng.random() < 0.3:
        return np.ones((side, side), np.float32)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    centre, half = (row[:2] + row[2:4]) / 2, (row[2:4] - row[:2]) / 2 * rng.uniform(1.05, 1.3)
    away = np.sqrt(((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2)
    return np.clip((1.08 - away) / rng.uniform(0.05, 0.25), 0, 1).astype(np.float32)


def _coloured(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the face in RGB float32: grey ones in some skin's colour, lit from somewhere, some half hidden."""
    side = face.shape[0]
    if face.ndim == 2:
        red = rng.uniform(0.0, 0.28)
        tint = np.array([1 + red, 1.0, 1 - red * rng.uniform(0.5, 1.2)], np.float32)
        coloured = face[:, :, None].astype(np.float32) * tint
    else:
        coloured = face.astype(np.float32)
    coloured = coloured * rng.uniform(0.6, 1.25) + rng.uniform(-25, 25)
    if rng.random() < 0.4:
        slope = np.linspace(rng.uniform(0.4, 1), rng.uniform(0.8, 1.3), side, dtype=np.float32)
        coloured *= (slope[:, None] if rng.random() < 0.4 else slope[None, :])[:, :, None]
    if rng.random() < 0.12:  # something in front
        height, width = (rng.uniform(0.15, 0.4, 2) * side).astype(int).clip(1)
        y, x = int(rng.integers(side - height)), int(rng.integers(side - width))
        coloured[y : y + height, x : x + width] = rng.uniform(0, 255, 3)
    return coloured


def _lit(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the picture as a worse camera sees it: lighter, darker, grey, blurred, noisy, in JPEG."""
    gain, shift = rng.uniform(0.6, 1.35), rng.uniform(-35, 35)
    table = np.arange(256, dtype=np.float32)
    table = 255 * (np.clip(table * gain + shift, 0, 255) / 255) ** np.exp(rng.normal(0, 0.25))
    image = cv2.LUT(image, table.round().clip(0, 255).astype(np.uint8))
    if rng.random() < 0.2:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    elif rng.random() < 0.3:
        image = (image * rng.uniform(0.75, 1.2, 3)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.12:
        noise = rng.normal(0, rng.uniform(3, 18), image.shape)
        image = (image + noise).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 80))])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return image
