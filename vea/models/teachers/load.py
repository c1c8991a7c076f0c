"""Open the teacher that a config names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from vea.config import TeacherConfig
from vea.errors import VeaError
from vea.models.teachers.base import Teacher
from vea.models.teachers.clip import ClipTeacher, WordTokenizer, _clip_by_name, _open_clip, build_clip
from vea.models.teachers.sentence import PREFIX, SentenceTeacher
from vea.models.teachers.two_tower import WEIGHTS_NAME, TwoTowerTeacher
from vea.storage.identity import TINY_SYNTHETIC


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
    open_clip model, whose ``pretrained`` is a local file or a tag; or ``hf-hub:OWNER/MODEL``; or ``sentence:PACKAGE``,
    the sentence encoder inside a Python package, for texts alone. Only a tag and a hub name download. OpenAI's own
    weights want the ``-quickgelu`` model names.

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
    if config.name.startswith(PREFIX):
        return SentenceTeacher(config.name.removeprefix(PREFIX)).freeze()
    return _clip_by_name(config.name, config.pretrained)
