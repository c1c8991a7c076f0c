"""Probe a frozen encoder on a prepared set: its features once, probes chosen on ``val``, one look at ``test``.

``pretrain/probe.py`` is the command. The row ``colour`` is what brightness and colorfulness alone can tell.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vea.config import (
    AugmentConfig,
    ClassifierConfig,
    DataConfig,
    DatasetRef,
    EncoderConfig,
    RecogniseConfig,
    TrainConfig,
)
from vea.data.loading.loader import eval_loader
from vea.data.shards.index import read_index
from vea.errors import VeaError, did_you_mean
from vea.metrics.probes import Split, choose, constant, report
from vea.models.trunk import build_trunk
from vea.models.vit import sincos_positions
from vea.models.weight_files import read_weight_file
from vea.models.weights import encoder_form, encoder_part, load_encoder
from vea.progress import Progress
from vea.storage import atomic
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.items import LabelItems
from vea.taxonomy.fields import LabelField

COLOUR = "colour"
Encode = Callable[[Tensor], Tensor]  # uint8 images (B, 3, H, W) -> features (B, D)


@dataclass(frozen=True)
class Source:
    """An encoder on disk: its form, the statistics of its images, and its weights by row of the table."""

    form: EncoderConfig
    image_size: int
    mean: list[float]
    std: list[float]
    weights: dict[str, dict[str, Tensor] | None]  # None: untrained, or no network at all

    def encode(self, row: str, *, image_size: int) -> Encode:
        """Returns what turns images into the features of ``row``.

        Of a ViT [class token, mean of the patch tokens], of another network what it pools itself.
        """
        if row == COLOUR:
            return colour
        torch.manual_seed(0)
        encoder = build_trunk(ClassifierConfig(encoder=self.form), image_size=image_size).requires_grad_(False).eval()
        vit, weights = isinstance(encoder, VisionTransformer), self.weights[row]
        if weights is not None:
            load_encoder(encoder, weights, where=row)
        elif isinstance(encoder, VisionTransformer) and encoder.pos_embed is not None and not encoder.no_embed_class:
            # where pretraining starts: without positions that mean something the untrained network would be a straw man
            positions = sincos_positions(encoder.embed_dim, grid=encoder.patch_embed.grid_size,
                                         num_prefix_tokens=encoder.num_prefix_tokens)  # fmt: skip
            encoder.pos_embed = nn.Parameter(positions)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))

        def run(images: Tensor) -> Tensor:
            x = (images.float() / 255 - mean) / std
            if not vit:
                return encoder(x)
            tokens, prefix = encoder.forward_features(x), int(encoder.num_prefix_tokens)  # type: ignore[operator, arg-type]
            return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], 1) if prefix else tokens.mean(1)

        return run


def colour(images: Tensor) -> Tensor:
    """Returns (B, 2): brightness and colorfulness (Hasler and Suesstrunk 2003) of uint8 images (B, 3, H, W)."""
    r, g, b = images.float().flatten(2).unbind(1)
    rg, yb = r - g, (r + g) / 2 - b
    spread = torch.hypot(rg.std(1, correction=0), yb.std(1, correction=0))
    return torch.stack([images.float().mean((1, 2, 3)), spread + 0.3 * torch.hypot(rg.mean(1), yb.mean(1))], 1)


def open_source(given: str) -> Source:
    """Returns the encoder of a run, a folder of ``vea import-weights``, a ViT's file, or NAME=FILE of a timm model.

    Files have timm's names. Raises ``VeaError`` where there is no encoder.
    """
    name, equals, file = given.partition("=")
    if equals and timm.is_model(name):
        found = timm.get_pretrained_cfg(name)
        assert found is not None
        only: dict[str, dict[str, Tensor] | None] = {"file": read_weight_file(file), "untrained": None}
        return Source(EncoderConfig(name=name), found.input_size[-1], list(found.mean), list(found.std), only)
    path = Path(given)
    if path.is_file():
        weights = read_weight_file(path)
        weights = encoder_part(weights) or weights
        form, image_size = encoder_form(weights, where=str(path))
        rows: dict[str, dict[str, Tensor] | None] = {"file": weights, "untrained": None}
        return Source(EncoderConfig(**form), image_size, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD), rows)
    folder = find_weights(path, prefer="final")
    weights, state = load_weights(folder)
    task = state.get("task", {})
    if "encoder" not in task or task["encoder"]["name"].startswith("vea_"):
        raise VeaError(f"{path} has no Vision Transformer to probe; give a run of pretrain/train.py, a ViT's weight "
                       "file, or NAME=FILE of another timm model")  # fmt: skip
    rows = {"last": encoder_part(weights)}
    if (folder / "ema.safetensors").is_file():
        rows["ema"] = encoder_part(load_weights(folder, ema=True)[0])
    rows["untrained"] = None
    return Source(EncoderConfig(**task["encoder"]), task["image_size"], task["mean"], task["std"], rows)


def _digest(weights: dict[str, Tensor] | None, *words: object) -> str:
    digest = hashlib.sha256(repr(words).encode())
    for name in sorted(weights or {}):
        digest.update(name.encode() + weights[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())  # type: ignore[index]
    return digest.hexdigest()[:24]


@torch.inference_mode()
def features(encode: Encode, config: RecogniseConfig, *, split: str, data: str,
             batch_size: int) -> dict[str, Tensor]:  # fmt: skip
    """Returns ``features`` (N, D) and ``label.NAME`` (N,) of a split."""
    rows: dict[str, list[Tensor]] = {}
    batches = eval_loader(config, LabelItems(config), refs=[DatasetRef(path=data, split=split)],
                          batch_size=batch_size, rank=0, world_size=1)  # fmt: skip
    with Progress(f"features of {split}", read_index(data).splits[split]["samples"]) as progress:
        for batch in batches:
            valid = batch["valid"]
            rows.setdefault("features", []).append(encode(batch["image"])[valid])
            for name, values in batch["labels"].items():
                rows.setdefault(f"label.{name}", []).append(values[valid])
            progress.advance(int(valid.sum()))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def labelled(rows: dict[str, Tensor], target: str) -> Split:
    """Returns (features, labels) of the rows that have a label."""
    labels = rows[f"label.{target}"]
    known = labels.isfinite() if labels.is_floating_point() else labels >= 0
    return rows["features"][known].float(), labels[known]


def fields_of(data: str, targets: list[str]) -> dict[str, LabelField]:
    """Returns the label fields named by ``targets``; raises ``VeaError`` for one that cannot be probed."""
    index = read_index(data)
    for name in targets:
        if name not in index.fields:
            raise VeaError(f"--target: {data} has no label {name!r}{did_you_mean(name, index.fields)}")
        if index.fields[name].kind not in ("class", "value"):
            raise VeaError(f"--target: {name} is of kind {index.fields[name].kind}; a probe takes class or value")
    missing = [split for split in ("train", "val", "test") if split not in index.splits]
    if missing:
        raise VeaError(f"--data: {data} has no split {missing[0]!r}; a probe needs train, val and test")
    return {name: index.fields[name] for name in targets}


def probe(path: str, *, data: str, targets: list[str], image_size: int | None, eval_crop: float, cache: Path,
          only: list[str] | None = None, seeds: int = 3, workers: int = 1,
          batch_size: int = 64) -> dict[str, Any]:  # fmt: skip
    """Returns {"rows": {row: {target: {probe: {"setting", "validation", "test", "test_sd"}}}}, ...}.

    Probes without several draws have ``interval`` and, for values, ``rmse`` as well; ``constant`` is by target.
    """
    source, fields = open_source(path), fields_of(data, targets)
    known = [*source.weights, COLOUR]
    names = only or known
    for name in names:
        if name not in known:
            raise VeaError(f"--rows: {path} has no {name!r}{did_you_mean(name, known)}")
    size = image_size or source.image_size
    config = RecogniseConfig(
        name="probe", data=DataConfig(workers=workers), augment=AugmentConfig(image_size=size, eval_crop=eval_crop),
        train=TrainConfig(steps=1), targets=dict.fromkeys(targets, 1.0),
    )  # fmt: skip
    identity = hashlib.sha256((Path(data) / "index.json").read_bytes()).hexdigest()

    def cached(row: str, split: str) -> dict[str, Tensor]:
        network = (row,) if row == COLOUR else (source.form.model_dump(), source.mean, source.std)
        words = (*network, size, eval_crop, identity, split, sorted(targets))
        file = cache / f"{_digest(source.weights.get(row), *words)}.safetensors"
        if not file.is_file():
            encode = source.encode(row, image_size=size)
            made = features(encode, config, split=split, data=data, batch_size=batch_size)
            cache.mkdir(parents=True, exist_ok=True)
            with atomic.new_file(file) as partial:
                save_file({name: value.contiguous() for name, value in made.items()}, partial)
        return load_file(file)

    chosen = {}
    for row in names:
        train, val = cached(row, "train"), cached(row, "val")
        for target, field in fields.items():
            chosen[row, target] = choose(labelled(train, target), labelled(val, target), field=field, seeds=seeds)
    rows: dict[str, Any] = {row: {} for row in names}
    constants = {
        target: constant(*(labelled(cached(names[0], split), target)[1] for split in ("train", "test")), field=field)
        for target, field in fields.items()
    }
    for (row, target), probes in chosen.items():  # nothing is chosen from here on
        x, y = labelled(cached(row, "test"), target)
        rows[row][target] = {}
        for name, draws in probes.items():
            judged = [report(draw.answer(x), y, field=fields[target]) for draw in draws]
            values = [found["test"] for found in judged]
            rows[row][target][name] = {
                **(judged[0] if len(draws) == 1 else {}),
                "setting": draws[0].setting if len(draws) == 1 else [draw.setting for draw in draws],
                "validation": statistics.mean(draw.validation for draw in draws),
                "test": statistics.mean(values),
                "test_sd": statistics.stdev(values) if len(values) > 1 else None,
            }
    metrics = {name: "ccc" if field.kind == "value" else "accuracy" for name, field in fields.items()}
    return {"encoder": path, "data": data, "image_size": size, "metrics": metrics, "rows": rows,
            "constant": constants, "seeds": seeds}  # fmt: skip
