"""Weights that others trained: reading their files safely and giving them the names used here."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vea.errors import VeaError

StateDict = dict[str, Tensor]

_WRAPPERS = ("model", "state_dict", "model_state")  # under one of these, most training codes keep their weights
_NOT_ENCODER = ("decoder_", "mask_token", "head.", "fc_norm.")


def read_weight_file(path: str | Path) -> StateDict:
    """Returns the tensors of a ``.safetensors`` or torch file; the latter is read with ``weights_only``.

    Raises:
        VeaError: there is no such file, it is broken, or it holds Python objects beside its weights.
    """
    path = Path(path)
    if not path.is_file():
        raise VeaError(f"model.encoder.pretrained: no file {path}; put the weights there, or set it to null")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VeaError(f"model.encoder.pretrained: {path} cannot be read as plain weights ({reason})") from None
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        raise VeaError(f"model.encoder.pretrained: {path} holds no weights by name")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def import_mae(state_dict: StateDict) -> StateDict:
    """Returns a facebookresearch/mae state dict under the names of ``MaskedAutoencoder``.

    The encoder moves under ``encoder.``; the decoder, where the file has one, keeps its names; the fixed positions of
    the decoder are computed here and left out. Names that are ours already stay.
    """
    renamed: StateDict = {}
    for name, value in state_dict.items():
        name = name.removeprefix("module.")
        if name == "decoder_pos_embed" or name.startswith(("head.", "fc_norm.")):
            continue
        own = name.startswith(("encoder.", "decoder_", "mask_token"))
        renamed[name if own else f"encoder.{name}"] = value
    return renamed


def load_encoder_weights(encoder: VisionTransformer, state_dict: StateDict, *, where: str) -> None:
    """Loads the encoder out of ``state_dict`` (timm's or MAE's names), all of it or nothing.

    Learned positions of another grid are resampled.

    Raises:
        VeaError: a weight is missing or has another shape; the sentence names ``where`` and the weight.
    """
    found = {
        name.removeprefix("module.").removeprefix("encoder."): value
        for name, value in state_dict.items()
        if not name.removeprefix("module.").startswith(_NOT_ENCODER)
    }
    own = encoder.state_dict()
    position = found.get("pos_embed")
    if position is not None and "pos_embed" in own and position.shape[1] != own["pos_embed"].shape[1]:
        found["pos_embed"] = resample_abs_pos_embed(
            position, new_size=list(encoder.patch_embed.grid_size), num_prefix_tokens=encoder.num_prefix_tokens
        )
    for name, value in own.items():
        if name not in found:
            raise VeaError(f"{where} has no {name}; it does not belong to this model.encoder")
        if found[name].shape != value.shape:
            raise VeaError(
                f"{where}: {name} is {tuple(found[name].shape)} and this encoder wants {tuple(value.shape)}; "
                "set model.encoder to the size of these weights"
            )
    encoder.load_state_dict({name: found[name] for name in own})
