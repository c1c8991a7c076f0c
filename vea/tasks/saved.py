"""Open a saved recogniser: one that ships, a run, or a hub folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from vea.config import RECIPES, EncoderConfig, RecogniseConfig
from vea.data.views.views import Views
from vea.errors import VeaError
from vea.models.heads import LinearHeads
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.recognise import RecogniseTask
from vea.taxonomy.fields import LabelField

ASSETS = Path(__file__).parents[1] / "assets"
SHIPPED = {  # name: the command it was trained by
    "expression": "finetune/distill.py train configs/finetune/expression_distilled.yaml",
    "expression-nano": "finetune/distill.py train configs/finetune/expression_nano_distilled.yaml",
    "scene": "finetune/train.py configs/finetune/scene.yaml",
}
JOINED = {"expression-pair": {"expression": 2.0, "expression-nano": 1.0}}  # name: {model that ships: share}
FACE_MODELS = (*(name for name in SHIPPED if name != "scene"), *JOINED)


@dataclass(frozen=True)
class SavedModel:
    """A recogniser read back: the task in evaluation mode, what its checkpoint says of it, and where it was."""

    task: RecogniseTask
    state: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.task.config.name

    @property
    def reads_faces(self) -> bool:
        """True where the model was trained on faces, False for whole images."""
        return self.task.config.reads_faces


class Recogniser(nn.Module):
    """A saved recogniser as a plain module: pictures in, logits by label out.

    ``fields`` are its labels with their classes in order, ``image_size`` the side S of its input.
    """

    def __init__(self, saved: SavedModel) -> None:
        super().__init__()
        self.saved, self.task = saved, saved.task
        self.fields, self.image_size = saved.task.fields, saved.task.config.augment.image_size
        self._views = Views(saved.task.config.augment, seed=0, channels=saved.task.config.model.channels, train=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns {label: logits (B, C)} of RGB or grey images (B, 3 or 1, S, S), uint8 0..255 or float 0..1.

        Normalisation is part of the model. A value has one column, its scale mapped to [-1, 1].
        """
        return self.task.predict({"image": images * 255 if images.is_floating_point() else images})

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Returns {label: probabilities (B, C), or values (B,) on the raters' scale} of the same images."""
        return self.task.answers(self(images))

    def transform(self, image: Image.Image) -> Tensor:
        """Returns the view of evaluation, uint8 (C, S, S): for ``vea.open_dataset(..., transform=model.transform)``."""
        view = self._views.one(np.asarray(image.convert("RGB")), key="")
        return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))


def shipped_models() -> dict[str, Path]:
    """Returns {name: folder} of the recognisers that this installation carries."""
    return {name: ASSETS / name for name in SHIPPED if (ASSETS / name / "model.safetensors").is_file()}


def open_model(name_or_dir: str | os.PathLike[str], *, ema: bool = False) -> SavedModel:
    """Returns a recogniser that ships (a name of ``SHIPPED`` or ``JOINED``), of a fine-tuning run, or of a hub folder.

    Raises:
        VeaError: there are no such weights, or they are no recogniser's.
    """
    name = os.fspath(name_or_dir)
    if name in JOINED:
        return join([(open_model(member), share) for member, share in JOINED[name].items()], name=name)
    folder = shipped_models().get(name, Path(name))
    if not folder.exists():
        if name in SHIPPED:
            raise VeaError(
                f"this installation carries no model {name} (vea/assets/{name} is not there); train one with "
                f"{SHIPPED[name]} and give its run folder"
            )
        raise VeaError(
            f"no model at {name}; give {' or '.join(SHIPPED)}, the run folder of a finetune recipe, or a hub folder"
        )
    weights, state = _read_hub(folder) if _is_hub(folder) else load_weights(find_weights(folder), ema=ema)
    schema = RECIPES.get(str(state.get("recipe")))
    known = state.get("task")
    described = isinstance(known, dict) and "classes" in known and isinstance(state.get("config"), dict)
    if schema is None or not issubclass(schema, RecogniseConfig) or not described:
        raise VeaError(
            f"{folder} is no model that recognises anything (its recipe is {state.get('recipe')!r}); give a run of "
            "finetune/train.py whose recipe is expression, emotion or attributes"
        )
    return SavedModel(_rebuild(schema, weights, state, folder), state, folder)


@torch.no_grad()
def join(members: Sequence[tuple[SavedModel, float]], *, name: str) -> SavedModel:
    """Returns one model whose logits are the mean of its members', by their shares s_k.

    Its answer is softmax(sum s_k z_k), the normalised geometric mean of theirs, p_c ~ prod p_kc^s_k (Hinton 2002,
    products of experts). Encoders stand side by side, and a head is one layer on all their features:
    W = [s_1 W_1, s_2 W_2, ...], b = sum s_k b_k. The first one's features come first: what lies beside its weights
    (units, intensity) is read of them.

    Raises:
        VeaError: they differ in labels, input, or kind.
    """
    first, total = members[0][0], sum(share for _, share in members)
    for model, _ in members:
        known, theirs = first.task.metadata(), model.task.metadata()
        differs = [key for key in known if theirs.get(key) != known[key]]
        if not model.task.config.model.encoder.name.startswith("vea_") or type(model.task.heads) is not LinearHeads:
            differs.append("kind (only networks of vea with plain heads can be)")
        if differs:
            raise VeaError(f"{first.folder} and {model.folder} cannot be joined: {', '.join(differs)} differ")
    config = first.task.config.model_copy(deep=True)
    encoders = [model.task.config.model.encoder for model, _ in members]
    args = {"members": [{"name": encoder.name, "args": encoder.args} for encoder in encoders]}
    config.name, config.model.encoder = name, EncoderConfig(name="vea_committee", args=args)
    task = RecogniseTask(config, fields=first.task.fields).eval()
    task.mean.copy_(first.task.mean)
    task.std.copy_(first.task.std)
    for own, (model, _) in zip(task.encoder.members, members):  # type: ignore[arg-type]
        own.load_state_dict(model.task.encoder.state_dict())
    for target in task.fields:
        layer: Any = task.heads.get_submodule(f"layers.{target}")
        parts: list[Any] = [
            (model.task.heads.get_submodule(f"layers.{target}"), share / total) for model, share in members
        ]
        layer.weight.copy_(torch.cat([share * part.weight for part, share in parts], 1))
        layer.bias.copy_(torch.stack([share * part.bias for part, share in parts]).sum(0))
    shares = {model.name: {"share": share / total, "best": model.state.get("best")} for model, share in members}
    return SavedModel(task, {**first.state, "members": shares}, first.folder)


def _is_hub(folder: Path) -> bool:
    return (folder / "config.json").is_file() and not (folder / "state.json").is_file()


def _read_hub(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        state = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "model.safetensors")
    except Exception as error:  # safetensors has types of its own
        raise VeaError(f"{folder} is no whole hub folder ({error}); export or download it again") from None
    return weights, state if isinstance(state, dict) else {}


def fields_of(described: dict[str, Any]) -> dict[str, LabelField]:
    """Returns the label fields of a checkpoint from its ``metadata()``."""
    ranges = described.get("ranges", {})
    return {
        name: LabelField(described["kinds"][name], tuple(classes), *ranges.get(name, (None, None)))
        for name, classes in described["classes"].items()
    }


def _rebuild(
    schema: type[RecogniseConfig], weights: dict[str, Tensor], state: dict[str, Any], folder: Path
) -> RecogniseTask:
    """Returns the task of a checkpoint from what the checkpoint says about itself."""
    try:
        config = schema.model_validate(state["config"])
        config.model.encoder.pretrained = None  # where the weights came from once; they are all in the checkpoint
        config.adversarial = {}  # what was unlearned is no part of the model
        task = RecogniseTask(config, fields=fields_of(state["task"]))
        task.load_state_dict({name: value for name, value in weights.items() if not name.startswith("adverse.")})
    except (ValidationError, RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]  # what the description says may be anything
        raise VeaError(f"{folder}: weights and config do not belong together ({reason}); export it again") from None
    return task.eval()


def preprocessing(model: SavedModel) -> dict[str, Any]:
    """Returns how pixels reach the network, for a machine to read; normalisation is part of the network."""
    task = model.task
    augment, channels = task.config.augment, task.config.model.channels
    crop = f"centre square, side = {augment.eval_crop} of the picture's shorter side"
    if model.reads_faces:
        crop = (
            "square around the face box, side = its longer side, the border repeated outside the picture; of it the "
            + crop.replace("picture", "square")
        )
    return {
        "region": "face" if model.reads_faces else "image",
        "crop": crop,
        "size": [augment.image_size, augment.image_size],
        "interpolation": augment.interpolation,
        "eval_crop": augment.eval_crop,
        "color": "RGB" if channels == 3 else "RGB or grey (ITU-R 601 luma), which the network makes of RGB itself",
        "rescale": 1 / 255,
        "mean": task.mean.flatten().tolist(),
        "std": task.std.flatten().tolist(),
        "normalised_by": "the network",
    }


def main_target(kinds: dict[str, str]) -> str:
    """Returns the label that stands for a model: its first class, else its first distribution, else its first."""
    return next(
        (name for kind in ("class", "distribution") for name in kinds if kinds[name] == kind), next(iter(kinds))
    )
