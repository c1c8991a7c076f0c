"""More than a word about a face: valence, arousal and dominance, and how strong each emotion is.

    votes = model.task.answers(model.task.predict(batch))["votes"]                   # (N, 8)
    affect(votes, classes=model.task.fields["votes"].classes)                        # (N, 3)
    found = model.task.features(model.task.normalise(images))
    Intensity.read(folder / "intensity.safetensors")(found)                          # (N, E)

Intensity is a direction in the space of the pooled features, as in EmoReg (arXiv 2412.20359): from the mean neutral
face to the mean face of an emotion. ``benchmarks/intensity.py`` says how far it agrees with people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vea.errors import VeaError
from vea.taxonomy.vad import VAD
from vea.taxonomy.words import canonical_expression

_TENSORS = ("neutral", "directions", "low", "high", "probe")
LOW, HIGH = 50.0, 95.0  # percentiles of the neutral faces and of an emotion's own, between which its scale runs


def affect(shares: Tensor, *, classes: Sequence[str]) -> Tensor:
    """Returns valence, arousal and dominance (N, 3), each -1 to 1: the expectation of ``VAD`` over the classes.

    Args:
        shares: (N, C) of expressions, for instance how ten taggers would vote; rows are divided by their sum.
        classes: the C names, in FER2013's or FER+'s words.

    Raises:
        VeaError: a name is not a facial expression.
    """
    nouns = [canonical_expression(name) for name in classes]
    if unknown := [name for name, noun in zip(classes, nouns) if noun is None]:
        raise VeaError(f"{unknown[0]!r} is not a facial expression: it has no place in valence and arousal")
    table = shares.new_tensor([VAD[noun] for noun in nouns if noun is not None])
    return (shares / shares.sum(1, keepdim=True)) @ table


@dataclass(frozen=True)
class Intensity:
    """How strong each emotion is in a face: called with features (N, F), returns (N, E), mostly 0 to 1, not cut off.

    0 is the median neutral face of the training data and 1 its 95th percentile among the emotion's own faces.

    Attributes:
        classes: the E emotions; neutral has no intensity.
        neutral: (F,) mean features of neutral faces.
        directions: (E, K, F) unit vectors; with K centres an emotion has the intensity of its nearest one.
        low: (E,) projection that is 0.
        high: (E,) projection that is 1.
        probe: (F,) what the network says of a fixed picture (``vea.inference.readings``), by which it is known again.
    """

    classes: tuple[str, ...]
    neutral: Tensor
    directions: Tensor
    low: Tensor
    high: Tensor
    probe: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __call__(self, found: Tensor) -> Tensor:
        return (self.project(found) - self.low) / (self.high - self.low)

    def project(self, found: Tensor) -> Tensor:
        """Returns how far (N, F) features lie from neutral along each emotion's direction: (N, E), in their units."""
        return torch.einsum("nf,ekf->nek", found - self.neutral, self.directions).amax(2)

    @classmethod
    def fit(cls, found: Tensor, labels: Tensor, *, classes: Sequence[str], centres: int = 1) -> Intensity:
        """Returns the directions of training faces.

        Args:
            found: (N, F) features.
            labels: int64 (N,) class of each face; -1 for none.
            classes: their names, neutral among them.
            centres: means per emotion, by k-means: a smile and a laugh may lie in two directions.

        Raises:
            VeaError: there is no neutral among the classes, or a class has fewer faces than centres.
        """
        names = [canonical_expression(name) for name in classes]
        if "neutral" not in names:
            raise VeaError(f"intensity is measured from neutral, which is not among {', '.join(classes)}")
        calm = found[labels == names.index("neutral")]
        emotions = [index for index, name in enumerate(names) if name != "neutral"]
        counts = {classes[index]: int((labels == index).sum()) for index in emotions}
        if few := [name for name, count in counts.items() if count < centres] or ([] if len(calm) else ["neutral"]):
            raise VeaError(f"too few faces of {few[0]} to place {centres} centre(s)")
        middle = calm.mean(0)
        means = torch.stack([k_means(found[labels == index], centres) for index in emotions])
        draft = cls(
            tuple(classes[index] for index in emotions),
            middle,
            torch.nn.functional.normalize(means - middle, dim=2),
            low=torch.zeros(len(emotions)),
            high=torch.ones(len(emotions)),
        )
        low = draft.project(calm).quantile(LOW / 100, dim=0)
        own = [draft.project(found[labels == index])[:, row] for row, index in enumerate(emotions)]
        high = torch.stack([values.quantile(HIGH / 100) for values in own])
        return cls(draft.classes, draft.neutral, draft.directions, low, torch.maximum(high, low + 1e-6))

    def write(self, path: Path) -> None:
        """Writes one safetensors file; the class names are in its metadata."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        save_file(tensors, path, metadata={"classes": "\n".join(self.classes)})

    @classmethod
    def read(cls, path: Path) -> Intensity:
        """Returns what ``write`` wrote.

        Raises:
            VeaError: there is no such file, or it holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                classes = tuple(file.metadata()["classes"].split("\n"))
                return cls(classes, **{name: file.get_tensor(name).float() for name in _TENSORS})
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise VeaError(f"{path} holds no intensity directions ({error}); see benchmarks/intensity.py") from None


def k_means(found: Tensor, number: int, *, steps: int = 20) -> Tensor:
    """Returns ``number`` centres (K, F) of (N, F), from evenly spaced points along the widest spread; Lloyd's steps."""
    if number == 1:
        return found.mean(0, keepdim=True)
    spread = found - found.mean(0)
    order = (spread @ torch.linalg.svd(spread, full_matrices=False)[2][0]).argsort()
    centres = torch.stack([part.mean(0) for part in found[order].tensor_split(number)])
    for _ in range(steps):
        nearest = torch.cdist(found, centres).argmin(1)
        rows = [found[nearest == index] for index in range(number)]
        centres = torch.stack([own.mean(0) if len(own) else centre for own, centre in zip(rows, centres)])
    return centres
