"""Raw download layouts, one file per layout, each read into Samples; ``LAYOUTS`` is the whole list.

A new data set of a known layout needs a card and no code.
"""

from __future__ import annotations

from vea.data.cards import Card
from vea.data.sources.affectnet import AffectNet
from vea.data.sources.base import Source
from vea.data.sources.captions import Captions
from vea.data.sources.clips import ClipFolder, Moving, OmgEmpathy
from vea.data.sources.emoset import EmoSet, WeakEmoSet
from vea.data.sources.emotic import Emotic
from vea.data.sources.explanations import Explanations
from vea.data.sources.fer2013_csv import Fer2013Csv
from vea.data.sources.fer2013plus import Fer2013Plus
from vea.data.sources.image_folder import ImageFolder
from vea.data.sources.oasis import Oasis
from vea.data.sources.rafdb import RafDb
from vea.data.sources.synthetic import Synthetic
from vea.data.sources.webdataset import WebDataset
from vea.data.sources.wikiart import WikiArt
from vea.errors import VeaError, did_you_mean

LAYOUTS: dict[str, type[Source]] = {
    "affectnet": AffectNet,
    "captions": Captions,
    "clip_folder": ClipFolder,
    "emoset": EmoSet,
    "emoset_weak": WeakEmoSet,
    "emotic": Emotic,
    "explanations": Explanations,
    "fer2013_csv": Fer2013Csv,
    "fer2013plus": Fer2013Plus,
    "image_folder": ImageFolder,
    "moving": Moving,
    "oasis": Oasis,
    "omg_empathy": OmgEmpathy,
    "rafdb": RafDb,
    "synthetic": Synthetic,
    "webdataset": WebDataset,
    "wikiart": WikiArt,
}


def make_source(card: Card) -> Source:
    """Returns the reader of a card's layout; raises ``VeaError`` for an unknown layout or unknown options."""
    if card.layout not in LAYOUTS:
        raise VeaError(f"card {card.name}: unknown layout {card.layout!r}{did_you_mean(card.layout, LAYOUTS)}")
    return LAYOUTS[card.layout](card)
