"""Valence, arousal and dominance of words: lexicons that the user brings, and what SEVLM makes of them.

Everything here is on the bipolar scale [-1, 1]; a word without a rating has (0, 0, 0). Source: SEVLM (arXiv 2403.11150,
section 3); unlike the authors' code, the encoder looks at earlier tokens only.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vea.errors import VeaError
from vea.taxonomy.vad import VAD
from vea.taxonomy.words import canonical_expression

Vad = tuple[float, float, float]
Lexicon = dict[str, Vad]

_WARRINER = ("Word", "V.Mean.Sum", "A.Mean.Sum", "D.Mean.Sum")  # 1 to 9
# What an inflected form may end in, and what its lemma ends in instead; the first lemma with a rating counts.
_ENDINGS = (("ies", "y"), ("ied", "y"), ("ier", "y"), ("iest", "y"), ("ily", "y"), ("es", ""), ("s", ""), ("ed", "e"),
            ("ed", ""), ("ing", ""), ("ing", "e"), ("er", ""), ("est", ""), ("ness", ""), ("ly", ""))  # fmt: skip


def built_in() -> Lexicon:
    """Returns vea's coarse VAD of emotion names (``vea.taxonomy.vad.VAD``), under their adjectives as well."""
    adjectives = ("angry", "disgusted", "happy", "sad", "fearful", "surprised", "scared", "unhappy")
    found = {word: canonical_expression(word) for word in adjectives}
    return VAD | {word: VAD[noun] for word, noun in found.items() if noun in VAD}


def read_lexicon(path: str | Path | None) -> Lexicon:
    """Returns {word: (valence, arousal, dominance)} in [-1, 1] of an NRC-VAD or a Warriner file; None: ``built_in``.

    - NRC-VAD (Mohammad 2018): four columns by tabs, with or without a header. Version 1 rates from 0 to 1 and is
      stretched by 2 x - 1; version 2 holds negative numbers and is taken as it is.
    - Warriner et al. (2013): ``Ratings_Warriner_et_al.csv``, 1 to 9, (x - 5) / 4.

    Raises:
        VeaError: there is no such file, or it has another format.
    """
    if path is None:
        return built_in()
    path = Path(path)
    if not path.is_file():
        raise VeaError(f"model.lexicon: no file {path}; give an NRC-VAD or Warriner file, or null")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        found = _warriner(lines) if lines and "V.Mean.Sum" in lines[0] else _nrc(lines)
    except (UnicodeDecodeError, ValueError, KeyError, csv.Error) as error:
        raise VeaError(
            f"model.lexicon: {path} is neither NRC-VAD (word, valence, arousal, dominance by tabs) nor Warriner's csv "
            f"(columns {', '.join(_WARRINER)}): {error}"
        ) from None
    return found


def _warriner(lines: Sequence[str]) -> Lexicon:
    rows = csv.DictReader(lines)
    word, *columns = _WARRINER
    return {row[word].lower(): _inside([(float(row[name]) - 5) / 4 for name in columns]) for row in rows}


def _nrc(lines: Sequence[str]) -> Lexicon:
    rows = [line.split("\t") for line in lines if line.strip()]
    if rows and [cell.lower() for cell in rows[0][1:]] == ["valence", "arousal", "dominance"]:
        rows = rows[1:]
    if not rows:
        raise ValueError("it holds no words")
    for number, row in enumerate(rows, start=1):
        if len(row) != 4:
            raise ValueError(f"row {number} has {len(row)} columns")
    numbers = [[float(cell) for cell in row[1:]] for row in rows]
    bipolar = min(map(min, numbers)) < 0
    return {row[0].lower(): _inside(n if bipolar else [2 * x - 1 for x in n]) for row, n in zip(rows, numbers)}


def _inside(values: Sequence[float]) -> Vad:
    if not all(-1 <= value <= 1 for value in values):
        raise ValueError(f"a rating is outside of its scale ({', '.join(f'{value:.3g}' for value in values)})")
    return values[0], values[1], values[2]


def lemmas(word: str) -> Iterator[str]:
    """Yields the word and what it may be a form of: ``running`` gives running, runn, run, runne."""
    yield word
    for ending, instead in _ENDINGS:
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1:
            yield stem + instead
            if not instead and len(stem) > 2 and stem[-1] == stem[-2]:
                yield stem[:-1]


def look_up(word: str, lexicon: Lexicon) -> Vad:
    """Returns the rating of a word or of its lemma, (0, 0, 0) where there is none."""
    return next((lexicon[lemma] for lemma in lemmas(word.strip().lower()) if lemma in lexicon), (0.0, 0.0, 0.0))


def vad_table(words: Sequence[str], lexicon: Lexicon) -> Tensor:
    """Returns float32 (V, 3): the rating of each token of a vocabulary; a piece of a word has none."""
    return torch.tensor([look_up(word, lexicon) if word else (0.0, 0.0, 0.0) for word in words])


def mean_vad(text: str, lexicon: Lexicon) -> tuple[float, float, float, float]:
    """Returns the mean rating of a text's content words, and their share of its words; zeros where none is rated.

    A content word is one of three letters or more that the lexicon rates, or whose lemma it does (REDAffectiveLM,
    arXiv 2301.08995, section 3.2, reads affect-enriched embeddings beside the language model; here it is a lexicon).
    """
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    found = [
        lexicon[lemma]
        for word in words
        if len(word) > 2 and (lemma := next((lemma for lemma in lemmas(word) if lemma in lexicon), None))
    ]
    if not found:
        return 0.0, 0.0, 0.0, 0.0
    valence, arousal, dominance = (sum(values) / len(found) for values in zip(*found))
    return valence, arousal, dominance, len(found) / len(words)


class VadEncoder(nn.Module):
    """A small causal transformer over the VAD of tokens: (B, L, 3) to (B, L, 3), position t from positions <= t."""

    def __init__(self, *, max_tokens: int, layers: int = 3, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(max_tokens, 3))
        nn.init.trunc_normal_(self.positions, std=0.02)
        layer = nn.TransformerEncoderLayer(3, 1, hidden, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, vad: Tensor) -> Tensor:
        """Returns e_vad (B, L, 3)."""
        length = vad.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=vad.device).triu(1)
        return self.layers(vad + self.positions[:length], mask=future, is_causal=True)
