"""The text that goes with a sample: one of its captions, or the sentences of its EmoSet attributes.

Source: UniEmoX (arXiv 2409.18877) describes a photo to CLIP by its EmoSet attributes, in a fixed order.
"""

from __future__ import annotations

import hashlib
from typing import Any

from vea.config import PromptConfig

# What a sample without caption and attributes is called: true of every sample, and the same for all of them.
NO_TEXT = "A photo."

_BEFORE_EMOTION = (
    ("scene", "The scene type of this photo is {}."),
    ("object", "The main subjects are {}."),
    ("brightness", "The image has a brightness of {}"),  # no full stop: the next sentence goes on from here
    ("colorfulness", "and color saturation of {}."),
    ("facial_expression", "Human facial expression is {}."),
    ("human_action", "The action being performed is {}."),
)
_EMOTION = ("emotion", "The overall emotion conveyed is {}.")


def listed(words: list[str]) -> str:
    """Returns ``a``, ``a and b`` or ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"  # EmoSet's brightness and colorfulness are tenths
    return listed([str(item).strip() for item in value]) if isinstance(value, list | tuple) else str(value).strip()


def attribute_prompt(labels: dict[str, Any], *, emotion: bool = True) -> str:
    """Returns the attribute sentences of one sample, joined by spaces; a missing attribute drops its sentence.

    ``emotion=False`` is the label-free variant: the last sentence, which puts the label into the text, is left out,
    and so is an ``expression`` (the label of the expression data sets), which otherwise stands in for a missing
    ``facial_expression``. Empty if nothing is known.
    """
    known = dict(labels)
    if emotion and "facial_expression" not in known and "expression" in known:
        known["facial_expression"] = known["expression"]
    sentences = [*_BEFORE_EMOTION, _EMOTION] if emotion else _BEFORE_EMOTION
    return " ".join(form.format(_written(known[name])) for name, form in sentences if known.get(name) not in (None, []))


def caption_of(metadata: dict[str, Any], *, turn: int = 0) -> str:
    """Returns one caption of the sample, chosen by a hash of its key; empty if it has none.

    Another ``turn`` is another caption where there are several; turns go round.
    """
    captions = [text.strip() for text in metadata.get("text") or [] if text.strip()]
    if not captions:
        return ""
    digest = hashlib.blake2b(str(metadata["id"]).encode(), digest_size=8).digest()
    return captions[(int.from_bytes(digest, "little") + turn) % len(captions)]


def prompt(metadata: dict[str, Any], *, config: PromptConfig, turn: int = 0) -> str:
    """Returns the teacher's text for one sample; ``metadata`` is its ``KEY.json``.

    ``config.source``: ``caption`` takes a caption, ``attributes`` the attribute sentences, ``auto`` a caption where
    there is one and the attributes elsewhere. A caption is used as it is: ``config.emotion`` governs the attributes.
    A sample that has neither gets ``NO_TEXT``. ``turn`` is that of ``caption_of``. Truncation to the context is the
    tokenizer's business.
    """
    text = ""
    if config.source != "attributes":
        text = caption_of(metadata, turn=turn)
    if not text and config.source != "caption":
        text = attribute_prompt(metadata.get("labels") or {}, emotion=config.emotion)
    return text or NO_TEXT
