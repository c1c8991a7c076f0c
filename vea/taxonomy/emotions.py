"""Emotion taxonomies: names in index order, polarity, VAD, and the one check that two label sets agree.

Three conflicting orders are in use for FER2013 alone, and a swapped pair of classes costs points of accuracy without
any error. So class names travel with heads, checkpoints and exports, and ``check_same_classes`` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vea.errors import VeaError, did_you_mean
from vea.taxonomy.vad import VAD
from vea.taxonomy.words import canonical_expression

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
