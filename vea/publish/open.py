"""Models by name, as timm has them: what there is, a new one, and a saved one."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import timm
import torch
from pydantic import ValidationError
from torch import nn

from vea.config import ClassifierConfig
from vea.distributed.runtime import compute_device
from vea.errors import VeaError, did_you_mean
from vea.models.cnn import NETWORKS
from vea.models.mim import MaskedAutoencoder
from vea.models.trunk import build_trunk
from vea.models.weight_files import read_weight_file
from vea.models.weights import load_encoder
from vea.publish.hub import REPOSITORY, download
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import JOINED, SHIPPED, Recogniser, SavedModel, open_model, shipped_models

# The encoders of timm that the configs of this project name (a test compares); every other name of timm works as well.
ENCODERS = (
    "resnet50",
    "tf_efficientnet_lite0",
    "vit_base_patch16_224",
    "vit_large_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_tiny_patch16_224",
)
IMAGE_SIZE = 224  # where neither the caller nor timm says one


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Returns the names that ``create_model`` knows: models that ship, vea's networks, and encoders of timm.

    Args:
        pattern: with the wildcards of a shell, such as ``"vit_*"``; a word without any is sought within the names.
        pretrained: only those whose weights come with this installation.
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = [*shipped_models(), *JOINED]
    names += [] if pretrained else [*sorted(NETWORKS), *ENCODERS]
    return [name for name in names if fnmatchcase(name, wanted)]


class WithHead(nn.Module):
    """A network of vea with a linear classifier; called with (B, C, H, W), returns logits (B, num_classes)."""

    def __init__(self, encoder: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.encoder, self.num_classes = encoder, num_classes
        self.num_features = cast(int, encoder.num_features)
        self.head = nn.Linear(self.num_features, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits (B, num_classes)."""
        return self.head(self.encoder(x))


def create_model(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int = 0,
    in_chans: int = 3,
    image_size: int | None = None,
    **args: Any,
) -> nn.Module:
    """Returns a network by name, untrained unless ``pretrained``.

    Args:
        name: of ``list_models()``, or any other model of timm. A model that ships gives a ``Recogniser`` with the
            labels it was trained for; the others are called with normalised images (B, in_chans, H, W) and return
            features (B, num_features), or logits (B, num_classes).
        pretrained: True for the weights that come with vea; a weight file or run folder for those of an encoder.
            Nothing is ever downloaded.
        num_classes: of a new linear classifier; 0 for features.
        in_chans: 3 for RGB, 1 for grey.
        image_size: side of the input of a Vision Transformer; by default timm's for this name.
        args: of the network, such as ``depth`` or ``widths``.

    Raises:
        VeaError: there is no such model, it has no such weights, or the arguments do not fit.
    """
    if name in SHIPPED or name in JOINED:
        given = {"num_classes": num_classes, "image_size": image_size, "in_chans": in_chans != 3, **args}
        return _shipped(name, pretrained=pretrained, changed=[key for key, value in given.items() if value])
    if name not in NETWORKS and not timm.is_model(name):
        raise VeaError(
            f"there is no model {name!r}{did_you_mean(name, [*list_models(), *timm.list_models()])}; "
            "vea.list_models() names vea's, and every name of timm works"
        )
    if pretrained is True:
        raise VeaError(
            f"no weights of {name} come with vea ({', '.join(list_models(pretrained=True))} have some); give "
            "pretrained=FILE"
        )
    if num_classes < 0:
        raise VeaError(f"num_classes is 0 (features) or more, not {num_classes}")
    file = os.fspath(pretrained) if pretrained else None
    try:
        config = ClassifierConfig.model_validate(
            {"encoder": {"name": name, "args": args, "pretrained": file}, "channels": in_chans}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = "in_chans" if first["loc"][0] == "channels" else "arguments of the network"
        raise VeaError(f"create_model({name!r}), {where}: {first['msg']}") from None
    known = None if name in NETWORKS else timm.get_pretrained_cfg(name)
    network = build_trunk(config, image_size=image_size or (known.input_size[-1] if known else IMAGE_SIZE))
    if name in NETWORKS:
        if file:
            load_encoder(network, read_weight_file(file), where=file)
        return WithHead(network, num_classes) if num_classes else network
    if num_classes:
        network.reset_classifier(num_classes)  # type: ignore[operator]
    return network


def _shipped(name: str, *, pretrained: bool | str | os.PathLike[str], changed: list[str]) -> Recogniser:
    if changed or not isinstance(pretrained, bool):
        what = changed[0] if changed else f"pretrained={pretrained}"
        raise VeaError(
            f"{name} is a trained model whose form is fixed, {what} cannot be given; for a new network take one of "
            f"{', '.join(sorted(NETWORKS))}"
        )
    saved = open_model(name)
    if not pretrained:
        task = RecogniseTask(saved.task.config, fields=saved.task.fields)
        task.mean.copy_(saved.task.mean)
        task.std.copy_(saved.task.std)
        saved = SavedModel(task, {**saved.state, "step": 0}, saved.folder)
    return Recogniser(saved)


def from_pretrained(
    name_or_dir: str | os.PathLike[str], *, device: str = "cpu", ema: bool = False, revision: str | None = None
) -> Recogniser | MaskedAutoencoder:
    """Returns a saved model, ready to evaluate: a ``Recogniser``, or of a pretraining run a ``MaskedAutoencoder``.

    Args:
        name_or_dir: the name of a model that ships, a run folder, a folder of ``vea export --to hub`` or of
            ``vea import-weights``, or OWNER/NAME on the Hugging Face hub, which is asked only under HF_HUB_OFFLINE=0.
        device: where to compute, e.g. ``"cuda"``.
        ema: the averaged weights of a run.
        revision: branch, tag or commit of a hub repository.

    Raises:
        VeaError: there is no such model, or the hub may not be asked.
        RunError: the hub does not answer, or a file is broken.
    """
    where = compute_device(device)
    if name_or_dir in JOINED:
        return Recogniser(open_model(name_or_dir)).to(where).eval()
    folder = _folder(os.fspath(name_or_dir), revision)
    is_hub = (folder / "config.json").is_file() and not (folder / "state.json").is_file()
    if not is_hub:
        state = load_weights(find_weights(folder), ema=ema)[1]
        if "classes" not in state.get("task", {}) and state.get("recipe", "pretrain") == "pretrain":
            return cast(MaskedAutoencoder, MaskedAutoencoder.from_pretrained(folder).to(where))
    return Recogniser(open_model(folder, ema=ema)).to(where).eval()


def _folder(name: str, revision: str | None) -> Path:
    if name in shipped_models():
        return shipped_models()[name]
    if Path(name).exists():
        return Path(name)
    if REPOSITORY.fullmatch(name):
        return download(name, revision=revision)
    raise VeaError(
        f"no model at {name}{did_you_mean(name, shipped_models())}; give {' or '.join(SHIPPED)}, a run folder, a hub "
        "folder, or OWNER/NAME of the hub"
    )
