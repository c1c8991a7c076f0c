"""Weights that others trained: reading their files safely and giving them the names used here."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed
from torch import nn

from vea.errors import VeaError
from vea.models.weight_files import StateDict, read_file, square
from vea.storage.checkpoint import load_weights, save_weights

# parts of a file that are no encoder: of a decoder, of heads, of pooling
_NOT_ENCODER = ("decoder_", "decoder.", "mask_token", "head.", "head_dist.", "fc_norm.", "attn_pool.")


def _order(prefix: str) -> tuple[bool, bool, int]:
    """Returns what decides between two whole encoders in a file: our own, an average of weights, a short prefix."""
    averaged = bool(re.search(r"(^|[._])(teacher|ema)\b", prefix))
    return prefix.endswith("mim.encoder."), averaged, -len(prefix)


def _some(names: Iterable[str], *, most: int = 3) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


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


def encoder_part(weights: StateDict) -> StateDict:
    """Returns the encoder of a run's weights under timm's names; empty where they are no run's."""
    for prefix in ("model.mim.encoder.", "encoder."):
        found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if found:
            return found
    return {}


def find_encoder(weights: StateDict, wanted: set[str]) -> tuple[str, StateDict]:
    """Returns (prefix, encoder weights) of the part of ``weights`` that holds every key in ``wanted``.

    A pretraining run keeps its encoder under ``model.mim.encoder.``, a fine-tuned one under ``encoder.``, a plain
    file under nothing: the prefix is found, not assumed.

    Raises:
        VeaError: no part holds them all; the sentence says what comes nearest.
    """
    prefixes = {key[: -len(name)] for name in wanted for key in weights if key == name or key.endswith("." + name)}
    counted = {prefix: sum(prefix + name in weights for name in wanted) for prefix in prefixes}
    if not counted:
        raise VeaError("it holds none of the encoder's weights; take a run whose encoder has the name in model.encoder")
    prefix = max(sorted(counted), key=lambda p: (counted[p], *_order(p)))
    if counted[prefix] < len(wanted):
        missing = next(name for name in sorted(wanted) if prefix + name not in weights)
        raise VeaError(
            f"it holds {counted[prefix]} of the encoder's {len(wanted)} weights, {missing} is not among them; "
            "set model.encoder to the name and args of that run"
        )
    return prefix, {name: weights[prefix + name] for name in wanted}


def load_encoder(encoder: nn.Module, weights: StateDict, *, where: str) -> str:
    """Loads an encoder out of a run's weights, MAE's or timm's, all of it or nothing; returns what was loaded.

    Position embeddings of another grid are resampled (timm's bicubic interpolation).

    Raises:
        VeaError: a weight is missing or has another shape; the sentence names ``where`` and the weight.
    """
    own = encoder.state_dict()
    try:
        prefix, found = find_encoder(weights, set(own))
    except VeaError as error:
        raise VeaError(f"{where} does not fit: {error}") from None
    trunks = tuple(sorted({name.split(".")[0] for name in own} | {"blocks", "norm_pre", "reg_token"}))
    rest = {name.removeprefix(prefix) for name in weights if name.startswith(prefix)} - set(own)
    nobodys = sorted(name for name in rest if name.split(".")[0] in trunks)
    if nobodys:
        raise VeaError(
            f"{where} does not fit: the encoder here has no place for {len(nobodys)} of its weights "
            f"({_some(nobodys)}){_advice(nobodys)}"
        )
    note = ""
    grid = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    if "pos_embed" in own and found["pos_embed"].shape != own["pos_embed"].shape and grid is not None:
        has_prefix = own["pos_embed"].shape[1] - grid[0] * grid[1]
        note = f", positions resampled from {found['pos_embed'].shape[1]} to {own['pos_embed'].shape[1]} tokens"
        found["pos_embed"] = resample_abs_pos_embed(
            found["pos_embed"], new_size=list(grid), num_prefix_tokens=has_prefix
        )
    for name, value in own.items():
        if found[name].shape != value.shape:
            raise VeaError(
                f"{where} does not fit: its {name} has shape {tuple(found[name].shape)} and the encoder here wants "
                f"{tuple(value.shape)}; set model.encoder, model.channels and augment.image_size to theirs"
            )
    encoder.load_state_dict(found)
    return f"{len(found)} of {len(own)} encoder weights from {prefix.rstrip('.') or 'the top level'}{note}"


_ARGUMENTS = {  # of timm, by a weight that they bring
    "ls1.gamma": "init_values: 1e-5", "q_norm": "qk_norm: true", "norm_pre": "pre_norm: true",
    "reg_token": "reg_tokens", "attn.qkv.bias": "qkv_bias: true",
}  # fmt: skip


def _advice(names: Iterable[str]) -> str:
    found = sorted({argument for part, argument in _ARGUMENTS.items() for name in names if part in name})
    return f"; set model.encoder.args to {', '.join(found) if found else 'those of the network that was trained'}"


# ------------------------------------------------------------------------------------------------- in, out, and by verb

KINDS = ("mae", "uniemox", "timm", "dinov2")
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # of the published ViTs by width: weights do not tell
_MAE_PARTS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.", "decoder_", "mask_token")


def _depth(weights: StateDict, blocks: str) -> int:
    return 1 + max((int(name.removeprefix(blocks).split(".")[0]) for name in weights if name.startswith(blocks)),
                   default=-1)  # fmt: skip


def encoder_form(weights: StateDict, *, where: str, heads: int | None = None) -> tuple[dict[str, Any], int]:
    """Returns ({"name", "args"} for timm, side of the square images) of a plain ViT, read off its shapes.

    Args:
        weights: under timm's names, without a prefix.
        where: the file, for errors.
        heads: number of heads; None takes that of the published ViT of this width (64 channels each elsewhere).

    Raises:
        VeaError: it is no plain ViT with positions for a square of patches, or the heads do not divide the width.
    """
    missing = [n for n in ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight") if n not in weights]
    if missing:
        clip = "; it has CLIP's own names: give the file to teacher.pretrained" if _is_clip(weights) else ""
        raise VeaError(f"{where} has no {missing[0]}; these are not the weights of a plain Vision Transformer{clip}")
    if weights["patch_embed.proj.weight"].ndim != 4 or weights["pos_embed"].ndim != 3:
        raise VeaError(f"{where}: its patches or positions have another shape than those of a plain Vision Transformer")
    width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    own_class = "cls_token" in weights
    heads = heads or _HEADS.get(width, max(1, width // 64))
    if width % heads:
        raise VeaError(f"{where}: {heads} heads do not divide the width {width}; give --heads")
    positions = weights["pos_embed"].shape[1]
    bare = square(positions)  # the tokens in front have no positions
    positions -= 0 if bare else registers + own_class
    side = round(max(positions, 0) ** 0.5)
    if not square(positions):
        raise VeaError(f"{where}: {positions} positions are no square of patches; only square images are supported")
    args: dict[str, Any] = {
        "patch_size": patch,
        "embed_dim": width,
        "depth": _depth(weights, "blocks."),
        "num_heads": heads,
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }
    options = {
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in weights else None,
        "reg_tokens": registers or None,
        "no_embed_class": (bare and bool(registers or own_class)) or None,
        "class_token": None if own_class else False,
        "global_pool": None if own_class else "avg",
        "fc_norm": None if own_class else False,  # the last norm stays in the encoder
        "pre_norm": "norm_pre.weight" in weights or None,
        "qk_norm": "blocks.0.attn.q_norm.weight" in weights or None,
        "qkv_bias": None if "blocks.0.attn.qkv.bias" in weights else False,
        "in_chans": None if channels == 3 else channels,
    }
    args |= {name: value for name, value in options.items() if value is not None}
    form = {"name": "vit_base_patch16_224", "args": args}
    _check_form(weights, form, image_size=side * patch, where=where)
    return form, side * patch


def _is_clip(weights: StateDict) -> bool:
    return any(name.endswith(("visual.conv1.weight", "vision_model.embeddings.class_embedding")) for name in weights)


def _check_form(weights: StateDict, form: dict[str, Any], *, image_size: int, where: str) -> None:
    """Raises ``VeaError`` where timm's network of this form has other weights than the file."""
    with torch.device("meta"):
        model = timm.create_model(form["name"], num_classes=0, img_size=image_size, **form["args"])
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    nobodys = {name for name in weights.keys() - wanted.keys() if not name.startswith(_NOT_ENCODER)}
    absent = wanted.keys() - weights.keys()
    other = {name for name in wanted.keys() & weights.keys() if tuple(weights[name].shape) != wanted[name]}
    for names, what in ((nobodys, "has weights that it does not"), (absent, "lacks"), (other, "has in other shapes")):
        if names:
            raise VeaError(
                f"{where} is not of a network that can be built here: beside a plain Vision Transformer of its size "
                f"it {what}: {_some(names)}; take weights of a plain one"
            )


def import_weights(
    kind: str, file: str | Path, out: str | Path, *, heads: int | None = None, decoder_heads: int | None = None
) -> dict[str, Any]:
    """Returns the metadata of the folder ``out``, which holds the weights of ``file`` under the names used here.

    ``train.init_from``, ``model.encoder.pretrained`` and ``MaskedAutoencoder.from_pretrained`` read that folder.

    Args:
        kind: ``mae`` (facebookresearch/mae), ``uniemox`` (the release, same names), ``timm``, ``dinov2`` (Meta's).
        file: ``.safetensors`` or torch file; nothing but tensors and an ``argparse.Namespace`` is ever unpickled.
        out: the folder to write.
        heads: of the encoder, where the file is not of a published width.
        decoder_heads: of the decoder; MAE has 16 at every size, which is taken where it divides the width.

    Raises:
        VeaError: the kind is unknown, or the file is broken or of another architecture.
    """
    if kind not in KINDS:
        raise VeaError(f"import-weights knows no kind {kind!r}; choose from {', '.join(KINDS)}")
    everything, arguments = read_file(file)
    weights = _without_prefix(everything)
    if kind in ("mae", "uniemox"):
        weights = import_mae({name: value for name, value in weights.items() if name.startswith(_MAE_PARTS)})
    else:
        weights = {f"encoder.{name}": value for name, value in weights.items() if not name.startswith(_NOT_ENCODER)}
    form, image_size = encoder_form(encoder_part(weights), where=str(file), heads=heads)
    left_out = _left_out(everything, weights)
    if len(left_out) > len(weights):
        raise VeaError(
            f"{file}: {len(left_out)} of its {len(everything)} weights would be left out ({_some(left_out)}); kind "
            f"{kind} is not what this file is"
        )
    metadata: dict[str, Any] = {"task": {"encoder": form, "image_size": image_size, "channels": 3,
                                         "mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)},
                                "imported": {"kind": kind, "file": Path(file).name,
                                             "left_out": left_out}}  # fmt: skip
    if "decoder_embed.weight" in weights:
        width = weights["decoder_embed.weight"].shape[0]
        found = decoder_heads or next(count for count in (16, 8, 4, 2, 1) if width % count == 0)
        if width % found:
            raise VeaError(f"{file}: {found} heads do not divide the decoder's width {width}; give --decoder-heads")
        metadata["decoder"] = {"width": width, "depth": _depth(weights, "decoder_blocks."), "heads": found}
        metadata["norm_pix"] = bool(getattr(arguments, "norm_pix_loss", False))
    save_weights(out, {name: value.float() for name, value in weights.items()}, metadata)
    return metadata


def _without_prefix(weights: StateDict) -> StateDict:
    """Returns the encoder of a file (and what lies beside it) without the names of the modules that hold it."""
    start = "patch_embed.proj.weight"
    found = {name.removesuffix(start) for name in weights if name == start or name.endswith(f".{start}")}
    if not found or "" in found:
        return weights
    prefix = max(sorted(found), key=_order)
    inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    above = prefix.removesuffix("encoder.")  # MAE's decoder lies beside the encoder
    beside = {name.removeprefix(above): value for name, value in weights.items()
              if above != prefix and name.startswith((f"{above}decoder_", f"{above}mask_token"))}  # fmt: skip
    return {**beside, **inside}


def _left_out(everything: StateDict, taken: StateDict) -> list[str]:
    """Returns the names in a file that were not taken, by what the name ends with."""
    ends = {name.removeprefix("encoder.") for name in taken}
    return sorted(name for name in everything if not any(name == end or name.endswith(f".{end}") for end in ends))


def export_timm(run: str | Path, out: str | Path, *, ema: bool = False) -> str:
    """Returns the Python line that loads what was written: the encoder of ``run`` under timm's names in one file.

    The header of the ``.safetensors`` holds the same line, the image size and the statistics.

    Args:
        run: a run folder (pretraining or fine-tuning), a checkpoint folder, or a folder of ``import_weights``.
        out: the file to write; ``.safetensors`` is appended where it is missing.
        ema: the averaged weights instead of the last ones.

    Raises:
        VeaError: there are no weights, or the encoder is not a timm model.
    """
    weights, state = load_weights(run, ema=ema)
    task = state.get("task", state)
    form = task.get("encoder") or state.get("config", {}).get("model", {}).get("encoder") or {}
    encoder = {name: value.contiguous() for name, value in encoder_part(weights).items()}
    if not encoder or form.get("name", "vea_").startswith("vea_"):
        raise VeaError(f"{run} holds no encoder of timm; export_timm is for runs with a timm model.encoder")
    out = Path(out)
    out = out if out.suffix == ".safetensors" else out.with_name(f"{out.name}.safetensors")
    args = {"img_size": task["image_size"], "num_classes": 0, **form["args"]}
    if task.get("channels", 3) != 3:
        args["in_chans"] = task["channels"]
    if not form["name"].startswith("vit_"):
        args.pop("img_size")  # only transformers have a size
    shown = ", ".join([repr(form["name"]), *(f"{name}={value!r}" for name, value in args.items())])
    line = f"timm.create_model({shown}, checkpoint_path={str(out)!r})"
    header = {"timm": line, "image_size": str(task["image_size"])}
    header |= {name: json.dumps(task[name]) for name in ("mean", "std") if name in task}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(encoder, out, metadata=header)
    return line


def main(argv: list[str]) -> None:
    """Runs ``vea import-weights``."""
    parser = argparse.ArgumentParser(prog="vea import-weights", description="Bring published weights under our names.")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path, help="folder to write; init_from and encoder.pretrained read it")
    parser.add_argument("--heads", type=int, help="heads of the encoder; default: those of the published width")
    parser.add_argument("--decoder-heads", type=int, help="heads of the decoder; default: 16 as in MAE")
    given = parser.parse_args(argv)
    made = import_weights(given.kind, given.file, given.out, heads=given.heads, decoder_heads=given.decoder_heads)
    args, decoder = made["task"]["encoder"]["args"], made.get("decoder")
    left = made["imported"]["left_out"]
    size = f"{decoder['width']} x {decoder['depth']}, {decoder['heads']} heads" if decoder else "none"
    print(f"{given.out}: ViT of width {args['embed_dim']}, depth {args['depth']}, {args['num_heads']} heads, patch "
          f"{args['patch_size']}, images of {made['task']['image_size']}; decoder: {size}")  # fmt: skip
    if left:
        print(f"left out of {given.file.name}: {len(left)} weights ({_some(left)})")
