"""OASIS as questions: emotion statements built from its norms, without a language model.

Four classes, as MVEI has them (arXiv 2509.21950), each from what people said or did, never from a model:

- sentiment polarity: three fixed claims (positive, negative, mixed), one right by the mean rating of valence;
- emotion interpretation: an emotion and a reason (the human caption). The wrong version is that of a matched picture
  of the opposite valence, and the other way round: every claim is once right and once wrong, so a text alone says
  nothing about its label;
- scene context: the picture's own caption with its emotion; in the wrong version with its match's emotion. A reader
  of captions needs no picture here: see the text-only baseline;
- perception subjectivity: which of women and men rated the picture as more pleasant, where the two means differ by
  more than three standard errors. The rule "women rate further from the midpoint" is right nearly always: its score
  is printed beside every other.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vea.errors import VeaError

MIDPOINT = 4.0
BAND = 0.5  # within this of the midpoint no sentiment prevails
SPREAD = 1.75  # people disagree that much: mixed
GENDER_Z = 3.0
CLASSES = ("sentiment polarity", "emotion interpretation", "scene context", "perception subjectivity")
PROMPT = (
    "{statement} Based on the provided image and emotional statement, please determine whether the statement aligns "
    "with the content of the image. If it does, respond with Correct. If it does not, respond with Incorrect. Do not "
    "output the reason."
)
# What a theme shows is what its name says; of other pictures the norms say only the quarter of the affect plane.
_THEMES = {
    "happy": "happiness", "sad": "sadness", "angry": "anger", "scared": "fear", "bored": "boredom", "war": "fear",
    "cemetery": "sadness", "funeral": "sadness", "garbage": "disgust", "cockroach": "disgust", "feces": "disgust",
    "dirt": "disgust", "wedding": "love", "baby": "love", "lake": "contentment", "beach": "contentment",
    "sunset": "awe", "galaxy": "awe", "fireworks": "excitement", "rollercoaster": "excitement", "kkk": "anger",
    "nazi": "anger", "snake": "fear", "spider": "fear", "shark": "fear", "tornado": "fear", "gun": "fear",
}  # fmt: skip
_QUARTERS = {(1, 1): "excitement", (1, -1): "contentment", (-1, 1): "fear", (-1, -1): "sadness"}


@dataclass(frozen=True)
class Photo:
    """One picture of OASIS with its norms: means of about 100 raters, 1 to 7, and the z of women against men."""

    key: str
    file: Path
    theme: str
    group: str
    category: str
    split: str
    caption: str
    valence: float
    valence_sd: float
    arousal: float
    raters: float
    brightness: float
    colourfulness: float
    gender_z: float | None
    women: float | None
    men: float | None

    @property
    def polarity(self) -> str:
        """``positive``, ``negative`` or ``mixed`` (near the midpoint, or people disagree)."""
        if abs(self.valence - MIDPOINT) < BAND or self.valence_sd >= SPREAD:
            return "mixed"
        return "positive" if self.valence > MIDPOINT else "negative"

    @property
    def emotion(self) -> str:
        """The emotion that the theme names and the valence bears out, else that of its quarter of the affect plane."""
        from vea.taxonomy.wheels import word_polarity

        side = 1 if self.valence > MIDPOINT else -1
        named = _THEMES.get(self.theme.lower().split()[0])
        if named is not None and word_polarity(named) == side:
            return named
        return _QUARTERS[side, 1 if self.arousal > 3.7 else -1]  # 3.7: the median arousal of the 838


def _genders(folder: Path) -> dict[str, dict[str, float]]:
    path = folder / "OASIS_bygender_CORRECTED_092617.csv"
    if not path.exists():
        return {}
    text = path.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")  # old Macintosh line ends
    found = {}
    for row in csv.DictReader(io.StringIO(text)):
        women, men = float(row["Valence_mean_women"]), float(row["Valence_mean_men"])
        error = math.sqrt(
            float(row["Valence_SD_women"]) ** 2 / float(row["Valence_N_women"])
            + float(row["Valence_SD_men"]) ** 2 / float(row["Valence_N_men"])
        )
        found[row[""]] = {"women": women, "men": men, "gender_z": (women - men) / error if error else 0.0}
    return found


def read_photos(folder: Path) -> list[Photo]:
    """Returns the pictures of an OASIS folder (``oasis.csv``, ``images/``) in the order of their keys.

    Raises:
        VeaError: the folder is not OASIS.
    """
    table = folder / "oasis.csv"
    if not table.exists():
        raise VeaError(f"no {table}; give the folder of OASIS with --data, or set VEA_DATA to the folder above it")
    genders = _genders(folder)
    photos = []
    with table.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            gender: dict[str, Any] = genders.get(row["id"], {"women": None, "men": None, "gender_z": None})
            photos.append(
                Photo(
                    key=row["id"],
                    file=folder / "images" / row["file"],
                    theme=row["theme"],
                    group=row["theme_group"],
                    category=row["category"],
                    split=row["split"],
                    caption=" ".join(row["caption_human"].split()),
                    valence=float(row["valence_mean"]),
                    valence_sd=float(row["valence_sd"]),
                    arousal=float(row["arousal_mean"]),
                    raters=float(row["valence_n"]),
                    brightness=float(row["brightness_gray"]),
                    colourfulness=float(row["colorfulness_hs"]) / 110,
                    **gender,
                )
            )
    return sorted(photos, key=lambda photo: photo.key)


def _statement(photo: Photo, kind: str, pair: str, text: str, right: bool) -> dict[str, Any]:
    return {
        "image_id": photo.key,
        "class": kind,
        "pair": f"{kind}/{pair}",
        "statement": text,
        "label": "correct" if right else "incorrect",
    }


def _sentiment(photo: Photo) -> list[dict[str, Any]]:
    claims = {
        "positive": "The overall sentiment of the image is positive.",
        "negative": "The overall sentiment of the image is negative.",
        "mixed": "The overall sentiment of the image is mixed: neither positive nor negative prevails.",
    }
    return [_statement(photo, CLASSES[0], photo.key, text, name == photo.polarity) for name, text in claims.items()]


def match_opposites(photos: list[Photo], *, features: np.ndarray | None = None, seed: int = 0) -> list[tuple[int, int]]:
    """Returns (place of a pleasant picture, place of an unpleasant one) pairs, each picture once, most alike first.

    Likeness is the cosine of ``features`` (N, D) where given (DINOv2's, say), else category, brightness and
    colourfulness. The pleasant ones are drawn with the seed where there are more of them than of the others, so
    another seed gives other statements.
    """
    from scipy.optimize import linear_sum_assignment

    sides: dict[str, list[int]] = {"positive": [], "negative": []}
    for place, photo in enumerate(photos):
        if photo.polarity in sides and photo.caption:
            sides[photo.polarity].append(place)
    fewer = min(len(members) for members in sides.values())
    if fewer == 0:
        return []
    if features is None:
        kinds = sorted({photo.category for photo in photos})
        features = np.array(
            [[*(2.0 * (p.category == kind) for kind in kinds), p.brightness, p.colourfulness] for p in photos]
        )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    up, down = (sorted(rng.permutation(sides[name])[:fewer].tolist()) for name in ("positive", "negative"))
    rows, columns = linear_sum_assignment(-(unit[up] @ unit[down].T))
    return [(up[row], down[column]) for row, column in zip(rows, columns)]


def _matched(first: Photo, second: Photo, number: int) -> list[dict[str, Any]]:
    rows = []
    for photo, other in ((first, second), (second, first)):
        pair = f"{photo.key}/{number}" if number else photo.key
        for source, right in ((photo, True), (other, False)):
            interpreted = f"The image might evoke '{source.emotion}'"
            within = f"the image is likely to evoke {source.emotion}."
            if number % 2:  # the claim alone
                texts = f"{interpreted}.", within.capitalize()
            else:
                texts = (
                    f"{interpreted} because {_lower(source.caption)}",
                    f"In the context of: '{photo.caption}', {within}",
                )
            for kind, text in zip(CLASSES[1:3], texts):
                rows.append(_statement(photo, kind, pair, text, right))
    return rows


def _lower(caption: str) -> str:
    return caption[:1].lower() + caption[1:]


def _perception(photo: Photo, z: float) -> list[dict[str, Any]]:
    if photo.gender_z is None or abs(photo.gender_z) <= z:
        return []
    rows = []
    for who, sign in (("a woman", 1), ("a man", -1)):
        for e, (first, second) in enumerate((("pleasure", "displeasure"), ("displeasure", "pleasure"))):
            other = "a man" if who == "a woman" else "a woman"
            text = (
                f"Upon viewing the image, {who} is more inclined to feel {first} compared to {second} than {other} is."
            )
            right = (photo.gender_z * sign > 0) == (e == 0)
            rows.append(_statement(photo, CLASSES[3], f"{photo.key}/{who}", text, right))
    return rows


def build_statements(
    photos: list[Photo], *, features: np.ndarray | None = None, seed: int = 0, gender_z: float = GENDER_Z,
    matchings: int = 1,
) -> list[dict[str, Any]]:  # fmt: skip
    """Returns statements about pictures of one split: rows with image_id, class, pair, statement and label.

    Deterministic in ``seed``. Pictures are matched within ``photos`` only: pass one split at a time. Where statements
    teach, more ``matchings`` show each claim with more pictures: the first matches pictures that are alike, the others
    any of opposite valence, every other of them without the caption.
    """
    rows = [row for photo in photos for row in _sentiment(photo)]
    for number in range(matchings):
        if number:  # any two are alike
            features = np.random.default_rng([seed, number]).normal(size=(len(photos), 8))
        for first, second in match_opposites(photos, features=features, seed=seed + number):
            rows += _matched(photos[first], photos[second], number)
    rows += [row for photo in photos for row in _perception(photo, gender_z)]
    order = {photo.key: place for place, photo in enumerate(photos)}
    return sorted(rows, key=lambda row: (order[row["image_id"]], CLASSES.index(row["class"])))


def gender_bias(photos: list[Photo], *, gender_z: float = GENDER_Z) -> dict[str, float]:
    """Returns how often "women rate further from the midpoint" holds where the genders differ, and on how many."""
    known = [(p.women, p.men) for p in photos if p.women is not None and p.men is not None]
    z = [p.gender_z for p in photos if p.gender_z is not None]
    kept = [(women, men) for (women, men), value in zip(known, z) if abs(value) > gender_z]
    right = [abs(women - MIDPOINT) > abs(men - MIDPOINT) for women, men in kept]
    return {"accuracy": float(np.mean(right)) if right else float("nan"), "total": len(right)}
