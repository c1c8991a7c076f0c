"""Sentences as tokens: a vocabulary of words, or the tokenizer of a Hugging Face model, behind the same few methods.

A sentence is ``<end> the emotion is EMOTION because EXPLANATION <end>`` (SEVLM, section 3); the answer, which is
learned, starts at EMOTION. What is emotion and what is explanation follows from each sentence's own "because".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vea.errors import VeaError
from vea.metrics.captions import tokenize

PROMPT = "the emotion is"
BECAUSE = "because"
SPECIAL = ("<end>", "<unknown>")


class Tokens:
    """What the models need of a tokenizer. ``because`` is the one token that separates emotion and explanation."""

    size: int
    end: int
    because: int

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of a part of a sentence, without special ones."""
        raise NotImplementedError  # abstract

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, special ones left out."""
        raise NotImplementedError  # abstract

    def words(self) -> list[str]:
        """Returns the word that each token is, empty for a piece of a word."""
        raise NotImplementedError  # abstract

    def describe(self) -> dict[str, Any]:
        """Returns what a checkpoint keeps to make these tokens again."""
        raise NotImplementedError  # abstract

    def text(self, tokens: Tensor) -> str:
        """Returns the text of generated tokens (T,) up to the end."""
        row = tokens.tolist()
        return self.decode(row[: row.index(self.end)] if self.end in row else row).strip()


class WordTokens(Tokens):
    """Lower-case words by their rank in the training text."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = list(vocabulary)
        self.size, self.end = len(self.vocabulary), 0
        self._index = {word: index for index, word in enumerate(self.vocabulary)}
        self.because = self._index[BECAUSE]

    @classmethod
    def learn(cls, texts: Iterable[str], *, emotions: Sequence[str], size: int) -> WordTokens:
        """Returns the words of prompt and emotions and the most frequent of ``texts``, ``size`` in all."""
        needed = list(dict.fromkeys([*SPECIAL, BECAUSE, *tokenize(" ".join([PROMPT, *emotions]))]))
        counts = Counter(word for text in texts for word in tokenize(text))
        found = sorted(counts.keys() - set(needed), key=lambda word: (-counts[word], word))
        return cls([*needed, *found][:size])

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of the words of ``text``."""
        return [self._index.get(word, 1) for word in tokenize(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the words with a space between them."""
        return " ".join(self.vocabulary[token] for token in tokens if token >= len(SPECIAL))

    def words(self) -> list[str]:
        """Returns the vocabulary without its special tokens."""
        return [""] * len(SPECIAL) + self.vocabulary[len(SPECIAL) :]

    def describe(self) -> dict[str, Any]:
        """Returns the vocabulary."""
        return {"vocabulary": self.vocabulary}


class HubTokens(Tokens):
    """The tokenizer of a Hugging Face folder. Pads are masked, so one without a pad token serves as well.

    Raises:
        VeaError: there is no tokenizer, it has no end token, or "because" is not one token.
    """

    def __init__(self, path: str, *, gguf: str | None = None, setting: str = "model.decoder.path") -> None:
        from transformers import AutoTokenizer

        if not Path(path).is_dir():
            raise VeaError(f"{setting}: no folder {path}; give a local folder of a causal language model")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, gguf_file=gguf, local_files_only=True)
        except Exception as error:  # transformers raises many types
            raise VeaError(f"{setting}: {path} has no tokenizer ({str(error).splitlines()[0]})") from None
        self.path, self.gguf, self.size = path, gguf, len(self.tokenizer)
        end = self.tokenizer.eos_token_id
        if end is None:
            raise VeaError(f"{setting}: the tokenizer of {path} has no end-of-text token; set its eos_token")
        self.end = int(end)
        separator = self.encode(BECAUSE)
        if len(separator) != 1:
            raise VeaError(f"{setting}: the tokenizer of {path} splits 'because', which parts the sentence")
        (self.because,) = separator

    def encode(self, text: str) -> list[int]:
        """Returns the tokens of ``text`` as it stands inside of a sentence."""
        return self.tokenizer(f" {text.strip()}", add_special_tokens=False)["input_ids"] if text.strip() else []

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def words(self) -> list[str]:
        """Returns the tokens that start a word, without their mark of a space (BPE: Ġ, SentencePiece: ▁)."""
        return [(token or "").lstrip("Ġ▁ ") if (token or "")[:1] in "Ġ▁" else ""
                for token in self.tokenizer.convert_ids_to_tokens(list(range(self.size)))]  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Returns where the tokenizer is."""
        return {"path": self.path, "gguf": self.gguf}


@dataclass
class Sentences:
    """A batch of sentences, pads at the end.

    ``ids`` int64 (B, L); ``mask`` bool, False on pads; ``answer`` bool, what is learned; ``emotion`` and
    ``explanation`` bool, the two spans: up to the emotion's last word, and from "because" on.
    """

    ids: Tensor
    mask: Tensor
    answer: Tensor
    emotion: Tensor
    explanation: Tensor


def make_sentences(
    pairs: Sequence[tuple[str, str]], tokens: Tokens, *, max_tokens: int, device: torch.device | str = "cpu"
) -> Sentences:
    """Returns the sentences of (emotion, explanation); without an emotion the explanation alone is learned.

    An explanation that does not fit ``max_tokens`` is cut, and its end is then not learned.
    """
    prompt = [tokens.end, *tokens.encode(PROMPT)]
    rows, starts = [], []
    for emotion, explanation in pairs:
        row = [*prompt, *(tokens.encode(emotion) if emotion else []), tokens.because]
        if explanation:
            row += [*tokens.encode(explanation[: 64 * max_tokens]), tokens.end]
        rows.append(row[:max_tokens])
        starts.append(len(prompt) + (not emotion))  # of an unknown emotion neither it nor "because" is learned
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokens.end] * (length - len(row)) for row in rows], device=device)
    place = torch.arange(length, device=device)
    mask = place < torch.tensor([[len(row)] for row in rows], device=device)
    explained = after_because(ids, tokens.because)
    answer = mask & (place >= torch.tensor([[start] for start in starts], device=device))
    return Sentences(ids, mask, answer, emotion=mask & ~explained, explanation=mask & explained)


def after_because(ids: Tensor, because: int) -> Tensor:
    """Returns bool (B, L): the places from the first "because" on. A place does not depend on later ones."""
    return (ids == because).cumsum(1) > 0
