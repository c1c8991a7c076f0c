"""Emotion taxonomies: names in index order, polarity, VAD, and the one check that two label sets agree.

Three conflicting orders are in use for FER2013 alone, and a swapped pair of classes costs points of accuracy without
any error. So class names travel with heads, checkpoints and exports, and ``check_same_classes`` compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from vea.errors import VeaError, did_you_mean

Polarity = Literal["positive", "negative", "neutral"]


@dataclass(frozen=True)
class Taxonomy:
    """A closed set of emotion classes: ``classes`` in index order, one ``polarity`` each, the ``source`` of the order.

    ``aliases`` are other names under which data sets in the wild hold the same taxonomy.
    """

    name: str
    classes: tuple[str, ...]
    polarity: tuple[Polarity, ...]
    source: str
    aliases: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        assert len(self.classes) == len(self.polarity) == len(set(self.classes)), self.name

    def __len__(self) -> int:
        return len(self.classes)

    def index(self, name: str) -> int:
        """Returns the index of a class; raises ``VeaError`` naming its nearest neighbour when there is none."""
        if name not in self.classes:
            raise VeaError(f"{name!r} is not a class of {self.name}{did_you_mean(name, self.classes)}")
        return self.classes.index(name)

    def vad(self) -> tuple[tuple[float, float, float], ...] | None:
        """Returns (valence, arousal, dominance) by class, -1 to 1, or None where a class has no place in ``VAD``."""
        nouns = [canonical_expression(name) or name.lower() for name in self.classes]
        return None if any(noun not in VAD for noun in nouns) else tuple(VAD[noun] for noun in nouns)


# Coarse places of ours in the space of Mehrabian and Russell (1974): octants and rough distances, not ratings.
# Published word norms are more precise, but their terms do not let a part of them be shared.
VAD: dict[str, tuple[float, float, float]] = {
    "amusement": (0.7, 0.4, 0.3),
    "awe": (0.5, 0.5, -0.3),
    "contentment": (0.8, -0.5, 0.4),
    "excitement": (0.7, 0.8, 0.3),
    "anger": (-0.6, 0.7, 0.4),
    "disgust": (-0.6, 0.3, 0.1),
    "fear": (-0.7, 0.7, -0.6),
    "sadness": (-0.7, -0.4, -0.4),
    "happiness": (0.8, 0.5, 0.4),
    "surprise": (0.2, 0.8, -0.2),
    "neutral": (0.0, 0.0, 0.0),
    "contempt": (-0.5, 0.2, 0.5),
}

_MIKELS = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
_MIKELS_POLARITY: tuple[Polarity, ...] = ("positive",) * 4 + ("negative",) * 4

MIKELS_8 = Taxonomy(
    "mikels-8",
    _MIKELS,
    _MIKELS_POLARITY,
    "EmoSet (ICCV 2023), info.json; not alphabetical",
    aliases=("emoset", "fi", "emo8"),
)
EKMAN_6 = Taxonomy(
    "ekman-6",
    ("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
    ("negative", "negative", "negative", "positive", "negative", "neutral"),
    "Ekman (1992), alphabetical",
)
FER2013_7 = Taxonomy(
    "fer2013-7",
    ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    ("negative", "negative", "negative", "positive", "negative", "neutral", "neutral"),
    "FER2013, fer2013.csv (column emotion 0 to 6); folders on disk sort neutral before sad",
)
FERPLUS_8 = Taxonomy(
    "ferplus-8",
    ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"),
    ("neutral", "positive", "neutral", "negative", "negative", "negative", "negative", "negative"),
    "FER+ (ICMI 2016), fer2013new.csv without its columns unknown and NF",
    aliases=("fer+",),
)
ARTEMIS_9 = Taxonomy(
    "artemis-9",
    (*_MIKELS, "something else"),
    (*_MIKELS_POLARITY, "neutral"),
    "ArtEmis (CVPR 2021); Affection has the same nine",
    aliases=("affection",),
)
AFFECTNET_8 = Taxonomy(
    "affectnet-8",
    ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt"),
    ("neutral", "positive", "negative", "neutral", "negative", "negative", "negative", "negative"),
    "AffectNet, ID_exp.npy 0 to 7; folder repacks are alphabetical",
    aliases=("affectnet",),
)
RAFDB_7 = Taxonomy(
    "rafdb-7",
    ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"),
    ("neutral", "negative", "negative", "positive", "negative", "negative", "neutral"),
    "RAF-DB, list_patition_label.txt 1 to 7",
    aliases=("raf-db",),
)
EMOSET_FACE_6 = Taxonomy(
    "emoset-face-6",
    ("angry", "disgust", "fear", "happy", "sad", "surprise"),
    ("negative", "negative", "negative", "positive", "negative", "neutral"),
    "EmoSet, info.json, facial_expression",
)
# Positive, negative and neutral are ours: the 26 come without a polarity.
EMOTIC_26 = Taxonomy(
    "emotic-26",
    (
        "Affection",
        "Anger",
        "Annoyance",
        "Anticipation",
        "Aversion",
        "Confidence",
        "Disapproval",
        "Disconnection",
        "Disquietment",
        "Doubt/Confusion",
        "Embarrassment",
        "Engagement",
        "Esteem",
        "Excitement",
        "Fatigue",
        "Fear",
        "Happiness",
        "Pain",
        "Peace",
        "Pleasure",
        "Sadness",
        "Sensitivity",
        "Suffering",
        "Surprise",
        "Sympathy",
        "Yearning",
    ),
    (
        "positive",
        "negative",
        "negative",
        "positive",
        "negative",
        "positive",
        "negative",
        "negative",
        "negative",
        "negative",
        "negative",
        "positive",
        "positive",
        "positive",
        "negative",
        "negative",
        "positive",
        "negative",
        "positive",
        "positive",
        "negative",
        "neutral",
        "negative",
        "neutral",
        "positive",
        "neutral",
    ),
    "EMOTIC (Kosti et al.), alphabetical",
)

TAXONOMIES: dict[str, Taxonomy] = {
    taxonomy.name: taxonomy
    for taxonomy in (MIKELS_8, EKMAN_6, FER2013_7, FERPLUS_8, ARTEMIS_9, AFFECTNET_8, RAFDB_7, EMOSET_FACE_6, EMOTIC_26)
}


def taxonomy(name: str) -> Taxonomy:
    """Returns a taxonomy by name or alias (case does not matter); raises ``VeaError`` with the nearest name."""
    wanted = name.lower()
    for entry in TAXONOMIES.values():
        if wanted in (entry.name, *entry.aliases):
            return entry
    raise VeaError(f"no emotion taxonomy named {name!r}{did_you_mean(wanted, TAXONOMIES)}")


# ------------------------------------------------------------------------------------------- expressions by many names

# One noun for every name that an expression data set uses for it.
_EXPRESSION_NAMES: dict[str, tuple[str, ...]] = {
    "anger": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid"),
    "happiness": ("happiness", "happy", "joy"),
    "sadness": ("sadness", "sad"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral",),
    "contempt": ("contempt", "contemptuous"),
}
_CANONICAL = {alias: noun for noun, aliases in _EXPRESSION_NAMES.items() for alias in aliases}


def canonical_expression(name: str) -> str | None:
    """Returns the noun of a facial expression (``Happy`` -> ``happiness``), or None if it is not one."""
    return _CANONICAL.get(name.strip().lower())


def map_expressions(source: Sequence[str], target: Sequence[str]) -> list[int | None]:
    """Returns, for each class of ``source``, the index of the same expression in ``target``, None where it has none.

    The mapping is by name: ``happy`` is ``happiness``, ``angry`` is ``anger``; case does not matter.

    Raises:
        VeaError: a name of either list is not a facial expression, or two classes of ``target`` are the same one.
    """
    for names in (source, target):
        for name in names:
            if canonical_expression(name) is None:
                raise VeaError(f"{name!r} is not a facial expression{did_you_mean(name.lower(), _CANONICAL)}")
    position = {canonical_expression(name): index for index, name in enumerate(target)}
    if len(position) < len(target):
        raise VeaError(f"two of the classes {', '.join(target)} are the same facial expression")
    return [position.get(canonical_expression(name)) for name in source]


# ----------------------------------------------------------------------------------------------------------- agreement


def check_same_classes(expected: Sequence[str], found: Sequence[str], where: str) -> None:
    """Raises ``VeaError`` unless both hold the same class names in the same order.

    ``where`` says what holds ``found``, for instance a data set's path. The sentence says which names are
    missing or unknown, or at which index the order differs.
    """
    expected, found = list(expected), list(found)
    if expected == found:
        return
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    if missing or unknown:
        parts = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
        parts += [f"has {', '.join(map(repr, unknown))}, which are not expected"] if unknown else []
        detail = " and ".join(parts)
        renamed = {canonical_expression(name) for name in missing} == {canonical_expression(name) for name in unknown}
        if renamed and None not in {canonical_expression(name) for name in missing}:
            detail += " (the same expressions under other names)"
        raise VeaError(
            f"{where}: the class names differ: it {detail}; expected {', '.join(expected)}; "
            "use data and weights of one label set"
        )
    if len(expected) != len(found):
        raise VeaError(f"{where}: a class name is repeated: {', '.join(found)}")
    index = next(i for i, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
    raise VeaError(
        f"{where}: same class names in another order: index {index} is {found[index]!r}, expected "
        f"{expected[index]!r} (expected {', '.join(expected)}; found {', '.join(found)})"
    )
