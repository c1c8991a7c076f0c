"""Teachers of open_clip, and the tiny one that ships with vea."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vea.errors import VeaError, did_you_mean
from vea.models.teachers.base import Teacher
from vea.models.weight_files import is_program


class ClipTeacher(Teacher):
    """An open_clip model with its tokenizer; image size and statistics come from its own preprocessing config."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, description: str) -> None:
        from open_clip.model import get_model_preprocess_cfg

        cfg = get_model_preprocess_cfg(model)
        size = cfg["size"]
        super().__init__(
            description=description,
            image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
            mean=cfg["mean"],
            std=cfg["std"],
            resize="squash" if cfg.get("resize_mode") == "squash" else "shortest",
        )
        self.model = model
        self.tokenizer = tokenizer

    def image_features(self, pixels: Tensor) -> Tensor:
        return cast(Any, self.model).encode_image(pixels)

    def text_features(self, texts: list[str]) -> Tensor:
        device = self.mean.device
        return cast(Any, self.model).encode_text(self.tokenizer(texts).to(device))


class WordTokenizer:
    """Words of a small closed vocabulary as ids, in the call form of open_clip's tokenizers.

    Ids: 0 padding, 1 a word that is not in the vocabulary, 2 start, then the words, and last (the largest id, where
    CLIP's text tower pools) the end. Case and punctuation are dropped. Long texts lose their end, never the end token.
    """

    PAD, UNKNOWN, START = 0, 1, 2

    def __init__(self, words: Sequence[str], *, context_length: int = 77) -> None:
        self.words = list(words)
        self.context_length = context_length
        self._ids = {word: index for index, word in enumerate(self.words, start=3)}
        self.end = len(self.words) + 3
        self.vocab_size = self.end + 1

    @staticmethod
    def split(text: str) -> list[str]:
        """Returns the words and decimal numbers of a text in lower case."""
        return re.findall(r"\d+\.\d+|\d+|[a-z]+", text.lower())

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Returns int64 (B, context_length) token ids."""
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        ids = torch.full((len(texts), length), self.PAD, dtype=torch.int64)
        for row, text in enumerate(texts):
            words = [self._ids.get(word, self.UNKNOWN) for word in self.split(text)][: length - 2]
            ids[row, : len(words) + 2] = torch.tensor([self.START, *words, self.end])
        return ids


def build_clip(model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any]) -> nn.Module:
    """Returns an ``open_clip.CLIP`` of a config in open_clip's JSON form, not trained: load weights or train it."""
    from open_clip.model import CLIP, set_model_preprocess_cfg

    model = CLIP(**model_cfg)
    set_model_preprocess_cfg(model, preprocess_cfg)
    return model


def _clip_by_name(name: str, pretrained: str | None) -> Teacher:
    import open_clip

    from_hub = name.startswith("hf-hub:")
    if not from_hub:
        if name not in open_clip.list_models():
            near = did_you_mean(name, open_clip.list_models())
            near = near if near.startswith(" (did") else ""
            raise VeaError(
                f"teacher.name {name!r} is neither an open_clip model{near}, nor a folder that pretrain/align.py or "
                "open_clip wrote, nor tiny-synthetic"
            )
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained is None:
            example = f" or a tag to download ({', '.join(tags[:3])} ...)" if tags else ""
            raise VeaError(
                f"teacher {name} has no weights: set teacher.pretrained to a local file{example}; "
                "without any, teacher.name: tiny-synthetic serves for a trial"
            )
        if not Path(pretrained).is_file() and pretrained not in tags:
            raise VeaError(
                f"teacher.pretrained {pretrained!r} is neither a file nor a tag of {name}"
                f"{did_you_mean(pretrained, tags)}"
            )
        _check_quick_gelu(name, pretrained)
    elif pretrained is not None:
        raise VeaError(f"teacher {name} brings its own weights: remove teacher.pretrained ({pretrained})")
    return _open_clip(
        name, pretrained, description=f"CLIP {name}" + (f" ({Path(pretrained).name})" if pretrained else "")
    )


def _check_quick_gelu(name: str, pretrained: str) -> None:
    """Raises ``VeaError`` for weights that learned with the quick GELU under a model with the exact one, or reversed.

    open_clip only warns, and the features are then others. Of a file it is known of OpenAI's own form, TorchScript.
    """
    import open_clip

    has = bool((open_clip.get_model_config(name) or {}).get("quick_gelu", False))
    if Path(pretrained).is_file():
        wants = True if is_program(Path(pretrained)) else has
    else:
        wants = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
    if wants == has:
        return
    other = f"{name}-quickgelu" if wants else name.removesuffix("-quickgelu")
    kinds = ("the quick GELU", "the exact GELU")
    learned, computes = kinds if wants else kinds[::-1]
    raise VeaError(
        f"teacher.pretrained {pretrained} learned with {learned} and {name} computes {computes}: set teacher.name to "
        f"{other}"
    )


def _open_clip(name: str, pretrained: str | None, *, description: str) -> Teacher:
    import open_clip

    try:
        model = open_clip.create_model(name, pretrained=pretrained, require_pretrained=True, precision="fp32")
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip raises what its readers and the network raise
        reason = " ".join(str(error).split())[:300]
        raise VeaError(f"teacher {name}: the weights {pretrained or ''} cannot be loaded: {reason}") from error
    return ClipTeacher(model, tokenizer, description=description).freeze()
