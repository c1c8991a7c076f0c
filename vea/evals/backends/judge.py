"""vea's judge from frozen features: an image tower that is not trained, and ridge readers of what a picture evokes.

From the training split's right statements it learns, for a picture: how pleasant it is, whether feelings about it are
mixed, and which words describe it. A statement is then judged by whether its tone and its words fit. It sees the
picture and the text of the question, nothing of the truth.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from vea.errors import VeaError
from vea.evals.backends.baselines import Learner, text_polarity
from vea.evals.question import Question


def tower_features(pictures: Sequence[Path], folder: Path, *, size: int = 224, batch: int = 16) -> np.ndarray:
    """Returns (N, 2 D): class token and mean of patches of a timm DINOv2 tower, for the centre of each picture."""
    import timm
    from safetensors.torch import load_file

    from vea.data.views.pictures import read_image

    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise VeaError(f"{folder} holds no .safetensors; judge:DIR takes the folder of a DINOv2 ViT-S/14")
    tower: torch.nn.Module = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True).eval()
    try:
        tower.load_state_dict({name: value.float() for name, value in load_file(weights[0]).items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise VeaError(f"{weights[0]} is not a DINOv2 ViT-S/14 with timm's names ({reason})") from None
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    features: Callable[[torch.Tensor], torch.Tensor] = getattr(tower, "forward_features")  # noqa: B009
    rows = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch):
            pixels = [
                torch.from_numpy(read_image(p).copy()).permute(2, 0, 1)[None] / 255
                for p in pictures[start : start + batch]
            ]
            sized = [
                torch.nn.functional.interpolate(p, (size, size), mode="bicubic", antialias=True)[0] for p in pixels
            ]
            tokens = features(torch.stack([(p - mean) / std for p in sized]))
            rows.append(torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1).numpy())
    return np.concatenate(rows)


def tone(text: str) -> float:
    """Returns -1, 0 or 1: the polarity of what a statement claims, by its first polar word; 0 where it says mixed."""
    claim = text.split(" Based on the provided image")[0]
    if re.search(r"\bmixed\b", claim):
        return 0.0
    quoted = re.search(r"'(\w+)'|likely to evoke (\w+)|feel (\w+)", claim)
    word = next((part for part in quoted.groups() if part), "") if quoted else ""
    return float(np.sign(text_polarity(word) or text_polarity(claim)))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.split(" Based on the provided image")[0].lower()))


class FeatureJudge(Learner):
    """Judges by features of ``folder``'s tower (default: VEA_DATA/weights/dinov2-s14).

    ``features`` gives them ready-made, by picture, for repeated runs.
    """

    def __init__(self, folder: str | None, *, seed: int = 0, features: dict[Path, np.ndarray] | None = None) -> None:
        super().__init__("judge", seed=seed)
        default = Path(os.environ.get("VEA_DATA", ".")) / "weights" / "dinov2-s14"
        self.folder = Path(folder) if folder else default
        self.settings = {"tower": self.folder.name, "seed": seed}
        self._held: dict[Path, np.ndarray] = features if features is not None else {}

    def _look(self, pictures: Sequence[Path]) -> np.ndarray:
        missing = [picture for picture in dict.fromkeys(pictures) if picture not in self._held]
        if missing:
            self._held |= dict(zip(missing, tower_features(missing, self.folder)))
        return np.stack([self._held[picture] for picture in pictures])

    def begin(self, train: Sequence[Question]) -> None:
        """Learns to read pleasantness, mixed feelings and words off pictures."""
        by_picture: dict[Path, list[Question]] = {}
        for question in train:
            if question.picture is not None and question.row.get("answer") == "Correct":
                by_picture.setdefault(question.picture, []).append(question)
        if not by_picture:
            raise VeaError("judge learns from statements with pictures, and this task has none for training")
        pictures = list(by_picture)
        counts = Counter(w for qs in by_picture.values() for w in set().union(*(_words(q.prompt) for q in qs)))
        common = max(3, 0.3 * len(pictures))  # the words of the templates say nothing about a picture
        self._place = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if 3 <= n < common))}
        target = np.zeros((len(pictures), 2 + len(self._place)))
        for row, picture in enumerate(pictures):
            tones = [tone(question.prompt) for question in by_picture[picture]]
            target[row, 0], target[row, 1] = np.mean(tones), any("mixed" in q.prompt for q in by_picture[picture])
            target[row, 2:] = np.max([self._bag(q.prompt) for q in by_picture[picture]], axis=0)
        x = self._look(pictures)
        self._scale = x.mean(0), x.std(0) + 1e-6
        self._fit(self._standard(x), target)
        self._train_places = {picture: row for row, picture in enumerate(pictures)}

    def _standard(self, x: np.ndarray) -> np.ndarray:
        return (x - self._scale[0]) / self._scale[1]

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        """Ridge with the leave-one-out error's penalty for the first target; keeps leave-one-out predictions."""
        self._mean_y = y.mean(0)
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        projected = u.T @ (y - self._mean_y)

        def left_out(strength: float, columns: slice) -> np.ndarray:
            shrink = s**2 / (s**2 + strength)
            fitted = u @ (shrink[:, None] * projected[:, columns])
            leverage = ((u**2 * shrink).sum(1) + 1 / len(x))[:, None]
            return y[:, columns] - (y[:, columns] - self._mean_y[columns] - fitted) / (1 - leverage)

        strengths = np.logspace(1, 5, 17)
        self._left_out, weights = np.zeros_like(y), np.zeros((x.shape[1], y.shape[1]))
        for columns in (slice(0, 1), slice(1, 2), slice(2, None)):
            errors = [float(((left_out(strength, columns) - y[:, columns]) ** 2).mean()) for strength in strengths]
            best = float(strengths[int(np.argmin(errors))])
            self._left_out[:, columns] = left_out(best, columns)
            weights[:, columns] = vt.T @ ((s / (s**2 + best))[:, None] * projected[:, columns])
        self._reader = weights

    def _read(self, pictures: Sequence[Path]) -> np.ndarray:
        """Returns (N, 2 + words): pleasantness, mixed feelings, words; a training picture is read without itself."""
        read = self._standard(self._look(pictures)) @ self._reader + self._mean_y
        for row, picture in enumerate(pictures):
            if picture in self._train_places:
                read[row] = self._left_out[self._train_places[picture]]
        return read

    def _bag(self, text: str) -> np.ndarray:
        bag = np.zeros(len(self._place))
        for word in _words(text) & set(self._place):
            bag[self._place[word]] = 1
        return bag

    def features(self, questions: Sequence[Question]) -> np.ndarray:
        """Returns (N, D): fit of tone and words by kind of statement (its first three words), and the tone alone."""
        read = self._read([q.picture for q in questions if q.picture is not None])
        rows = []
        for question, seen in zip(questions, read):
            claim, t = question.prompt.lower(), tone(question.prompt)
            words = self._bag(question.prompt)
            against = seen[2:] - self._mean_y[2:]
            norm = np.linalg.norm(against) * np.linalg.norm(words)
            fit = np.array([seen[0] * t, seen[1], seen[0] ** 2, t, float(against @ words / norm) if norm else 0.0])
            woman = 1.0 if "a woman is more" in claim else -1.0 if "a man is more" in claim else 0.0
            kinds = [claim.startswith(start) for start in ("the overall", "the image might", "in the context", "upon")]
            mixed = float("mixed" in claim)
            blocks = [kind * np.concatenate([fit, fit * mixed, [mixed]]) for kind in kinds]
            rows.append(np.concatenate([*blocks, fit, [woman * t, woman * t * seen[0]]]))
        return np.stack(rows) if rows else np.zeros((0, 51))
