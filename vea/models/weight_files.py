"""Weight files as people have them: read as plain tensors, out of the wrappers that training codes put around them."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vea.errors import VeaError

StateDict = dict[str, Tensor]

# under these, the first before the others, training codes keep their weights
_WRAPPERS = ("model", "state_dict", "model_state", "model_state_dict", "teacher", "model_ema", "state_dict_ema",
             "ema_state_dict", "ema", "backbone", "encoder", "network", "student")  # fmt: skip
_COMPILED = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module)\.")  # what wrappers of torch add


def read_weight_file(path: str | Path) -> StateDict:
    """Returns the tensors of a ``.safetensors`` or torch file, or of a folder that ``import_weights`` wrote.

    Raises:
        VeaError: there is no such file, it is broken, or it holds Python objects beside its weights.
    """
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[StateDict, argparse.Namespace]:
    """Returns (tensors, the ``args`` that MAE's training code saves beside them, empty elsewhere)."""
    path = Path(path)
    if (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    if not path.is_file():
        raise VeaError(f"model.encoder.pretrained: no file {path}; put the weights there, or set it to null")
    try:
        if path.suffix == ".safetensors":
            weights = {_COMPILED.sub("", name): value for name, value in load_file(path).items()}
            return _timm_registers(weights), argparse.Namespace()
        _refuse_programs(path)
        # MAE's files hold the command line as a Namespace: that one class of plain attributes, and nothing else
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VeaError(f"model.encoder.pretrained: {path} cannot be read as plain weights ({reason})") from None
    arguments = content.get("args") if isinstance(content, dict) else None
    for _ in range(5):  # a file may be one in another
        if not isinstance(content, dict):
            break
        inside = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
        if inside is None:
            break
        content = inside
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise VeaError(f"model.encoder.pretrained: {path} holds no weights by name")
    weights = {_COMPILED.sub("", str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    return _timm_registers(weights), arguments if isinstance(arguments, argparse.Namespace) else argparse.Namespace()


def is_program(path: Path) -> bool:
    """Returns whether a file is a TorchScript archive, as OpenAI's CLIP comes: a program with weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def _refuse_programs(path: Path) -> None:
    if is_program(path):
        raise VeaError(
            f"model.encoder.pretrained: {path} is a TorchScript archive, which is a program; where you trust it, "
            "write its weights with torch.save(torch.jit.load(FILE).state_dict(), NEW_FILE)"
        )


def _timm_registers(weights: StateDict) -> StateDict:
    """Returns the weights with Meta's registers as timm has them: the class token holds its position itself."""
    for name in [name for name in weights if name.rpartition(".")[2] == "register_tokens"]:
        prefix = name.removesuffix("register_tokens")
        weights[f"{prefix}reg_token"] = weights.pop(name)
        positions = weights.get(f"{prefix}pos_embed")
        if positions is not None and f"{prefix}cls_token" in weights and square(positions.shape[1] - 1):
            weights[f"{prefix}cls_token"] = weights[f"{prefix}cls_token"] + positions[:, :1]
            weights[f"{prefix}pos_embed"] = positions[:, 1:]
    return weights


def square(number: int) -> bool:
    """Returns whether a number of positions is that of a square of patches."""
    return number > 0 and round(number**0.5) ** 2 == number
