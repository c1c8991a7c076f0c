"""Probe a frozen encoder: linear, nearest neighbours, few labels, and ratings, beside the same network untrained.

    python pretrain/probe.py runs/faces --data data/fer2013plus --target expression
    python pretrain/probe.py dinov2_s14.safetensors --image-size 224 --data data/oasis --target valence arousal
    python pretrain/probe.py resnet50=resnet50.safetensors --data data/oasis --target valence arousal   # any of timm
    python pretrain/probe.py runs/mixed --data data/oasis --target category --json runs/mixed/probe_oasis.json

Features are computed once and kept in --cache. Everything is chosen on ``val``: the weight decay, k, the ridge. The
test split is read when nothing is left to choose, and each row scores it once. The row ``colour`` is what brightness
and colorfulness alone can tell, and below the table stands what a constant answer scores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
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
from vea.errors import VeaError, command, did_you_mean
from vea.metrics import bootstrap_interval, concordance, rmse
from vea.models.vit import sincos_positions
from vea.models.weight_files import read_weight_file
from vea.models.weights import encoder_form, encoder_part, load_encoder
from vea.progress import Progress
from vea.storage import atomic
from vea.storage.atomic import write_text
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.recognise import build_trunk
from vea.taxonomy.fields import LabelField

DECAYS = [10.0**power for power in range(-5, 3)]  # on standardised features, for the mean loss
RIDGES = [10.0**power for power in range(-4, 5)]  # per sample, times the number of samples
NEIGHBOURS = (1, 5, 10, 20, 50, 100)
SHARES = (0.01, 0.05, 0.10)
COLOUR = "colour"
Split = tuple[Tensor, Tensor]  # features (N, D) fp32, labels (N,)
Encode = Callable[[Tensor], Tensor]  # uint8 images (B, 3, H, W) -> features (B, D)


# ------------------------------------------------------------------------------------------------------------ encoders


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


# ------------------------------------------------------------------------------------------------------------ features


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
    batches = eval_loader(config, views="classify", refs=[DatasetRef(path=data, split=split)],
                          batch_size=batch_size, rank=0, world_size=1)  # fmt: skip
    with Progress(f"features of {split}", read_index(data).splits[split]["samples"]) as progress:
        for batch in batches:
            valid = batch["valid"]
            rows.setdefault("features", []).append(encode(batch["image"])[valid])
            for name, values in batch["labels"].items():
                rows.setdefault(f"label.{name}", []).append(values[valid])
            progress.advance(int(valid.sum()))
    return {name: torch.cat(parts) for name, parts in rows.items()}


# -------------------------------------------------------------------------------------------------------------- probes


def fit_linear(x: Tensor, y: Tensor, *, classes: int, decay: float, start: Tensor | None = None) -> Tensor:
    """Returns (D + 1, C): multinomial logistic regression by L-BFGS, mean cross-entropy + decay / 2 |W|^2.

    Args:
        x: (N, D), standardised.
        y: int64 (N,).
        classes: C.
        decay: of the weights; the bias, the last row, has none.
        start: weights to start from.
    """
    weights = (torch.zeros(x.shape[1] + 1, classes) if start is None else start.clone()).requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=60, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weights[:-1] + weights[-1], y) + decay / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return weights.detach()


def fit_ridge(x: Tensor, y: Tensor, *, ridge: float) -> Tensor:
    """Returns (D + 1,): ridge regression in closed form, the penalty ``ridge`` times the number of rows; float64."""
    x, y = x.double(), y.double()
    centre, middle = x.mean(0), y.mean()
    gram = (x - centre).T @ (x - centre) + ridge * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    slope = torch.linalg.solve(gram, (x - centre).T @ (y - middle))
    return torch.cat([slope, (middle - centre @ slope)[None]])


def ccc(prediction: Tensor, target: Tensor) -> float:
    """Returns the concordance correlation coefficient (Lin 1989) of two (N,) vectors."""
    return float(concordance(torch.stack([prediction, target], 1).double().numpy()[None])[0])


def neighbours(train: Split, x: Tensor, *, k: int, classes: int | None) -> Tensor:
    """Returns the votes (N, C) of the k nearest rows by cosine, weighted by exp(cos / 0.07); their mean for values."""
    rows, labels = F.normalize(train[0], dim=1), train[1]
    answers = []
    for block in F.normalize(x, dim=1).split(512):
        near, index = (block @ rows.T).topk(min(k, len(rows)), dim=1)
        weight = (near / 0.07).softmax(1)
        if classes is None:
            answers.append((weight * labels[index]).sum(1))
        else:
            answers.append(torch.zeros(len(block), classes).scatter_add_(1, labels[index], weight))
    return torch.cat(answers)


@dataclass(frozen=True)
class Chosen:
    """A probe with everything chosen on validation: what was chosen, its score there, and how it answers."""

    setting: float
    validation: float
    answer: Callable[[Tensor], Tensor]


def score(answers: Tensor, labels: Tensor, *, field: LabelField) -> float:
    """Returns accuracy for classes, CCC for values."""
    return ccc(answers, labels) if field.kind == "value" else float((answers.argmax(1) == labels).double().mean())


def judge(answers: Tensor, labels: Tensor, *, field: LabelField) -> dict[str, Any]:
    """Returns ``test`` as ``score`` does, its 95 % bootstrap ``interval`` and, for values, ``rmse``."""
    if field.kind == "value":
        pairs = torch.stack([answers, labels], 1).double().numpy()
        found = {"interval": bootstrap_interval(pairs, concordance), "rmse": float(rmse(pairs[None])[0])}
    else:
        found = {"interval": bootstrap_interval((answers.argmax(1) == labels).double().numpy())}
    return {"test": score(answers, labels, field=field), **found}


def constant(train: Tensor, test: Tensor, *, field: LabelField) -> dict[str, Any]:
    """Returns the scores of always answering the training mean, or the most frequent training class."""
    if field.kind == "value":
        answers = train.mean().expand(len(test))
    else:
        answers = torch.bincount(train, minlength=len(field.classes)).expand(len(test), -1)
    return judge(answers, test, field=field)


def linear_probe(train: Split, val: Split, *, field: LabelField) -> Chosen:
    """Returns the linear probe (ridge for values) whose penalty does best on ``val``."""
    mean, deviation = train[0].mean(0), train[0].std(0).clamp(min=1e-6)
    x, x_val = ((rows - mean) / deviation for rows in (train[0], val[0]))
    best: Chosen | None = None
    start = None
    for penalty in reversed(RIDGES if field.kind == "value" else DECAYS):  # strong first: each starts the next
        if field.kind == "value":
            weights = fit_ridge(x, train[1], ridge=penalty).float()
        else:
            start = weights = fit_linear(x, train[1], classes=len(field.classes), decay=penalty, start=start)

        def answer(rows: Tensor, weights: Tensor = weights) -> Tensor:
            return (rows - mean) / deviation @ weights[:-1] + weights[-1]

        found = score(x_val @ weights[:-1] + weights[-1], val[1], field=field)
        if best is None or found > best.validation:
            best = Chosen(penalty, found, answer)
    assert best is not None
    return best


def nearest_probe(train: Split, val: Split, *, field: LabelField) -> Chosen:
    """Returns the nearest-neighbour probe whose k does best on ``val``."""
    classes = None if field.kind == "value" else len(field.classes)
    scores = {k: score(neighbours(train, val[0], k=k, classes=classes), val[1], field=field) for k in NEIGHBOURS}
    k = max(scores, key=lambda count: scores[count])
    return Chosen(k, scores[k], lambda rows: neighbours(train, rows, k=k, classes=classes))


def subset(labels: Tensor, *, share: float, seed: int, field: LabelField) -> Tensor:
    """Returns the numbers of a share of the rows, drawn within each class, at least one of each (values: of all)."""
    generator = torch.Generator().manual_seed(seed)
    groups = [torch.arange(len(labels))] if field.kind == "value" else [
        (labels == c).nonzero()[:, 0] for c in labels.unique()
    ]  # fmt: skip
    least = 2 if field.kind == "value" else 1
    return torch.cat([g[torch.randperm(len(g), generator=generator)[: max(least, round(share * len(g)))]]
                      for g in groups])  # fmt: skip


def labelled(rows: dict[str, Tensor], target: str) -> Split:
    """Returns (features, labels) of the rows that have a label."""
    labels = rows[f"label.{target}"]
    known = labels.isfinite() if labels.is_floating_point() else labels >= 0
    return rows["features"][known].float(), labels[known]


def choose(train: Split, val: Split, *, field: LabelField, seeds: int) -> dict[str, list[Chosen]]:
    """Returns the probes by name, one for all labels and one for each draw of a share of them."""
    probes = {"linear": [linear_probe(train, val, field=field)], "knn": [nearest_probe(train, val, field=field)]}
    for share in SHARES:
        draws = [subset(train[1], share=share, seed=seed, field=field) for seed in range(seeds)]
        probes[f"linear {share:.0%}"] = [
            linear_probe((train[0][rows], train[1][rows]), val, field=field) for rows in draws
        ]
    return probes


# -------------------------------------------------------------------------------------------------------------- table


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
            judged = [judge(draw.answer(x), y, field=fields[target]) for draw in draws]
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


def print_table(result: dict[str, Any]) -> None:
    """Prints one table per target."""
    for target, metric in result["metrics"].items():
        table = Table(title=f"{result['data']} {target}: test {metric}, percent; frozen features of "
                            f"{result['encoder']} at {result['image_size']} px", title_justify="left")  # fmt: skip
        names = list(next(iter(result["rows"].values()))[target])
        for column in ("weights", *names):
            table.add_column(column, justify="left" if column == "weights" else "right", no_wrap=True)
        for row, targets in result["rows"].items():
            table.add_row(row, *map(_shown, targets[target].values()))
        Console(width=140).print(table)
        print(f"in brackets: 95 % bootstrap interval; a constant answer: {_shown(result['constant'][target])}")


def _shown(cell: dict[str, Any]) -> str:
    text = f"{100 * cell['test']:.1f}"
    if cell.get("test_sd") is not None:
        text += f" ± {100 * cell['test_sd']:.1f}"
    if "interval" in cell:
        low, high = cell["interval"]
        text += f" ({100 * low:.0f} to {100 * high:.0f})"
    return text + (f", RMSE {cell['rmse']:.3f}" if "rmse" in cell else "")


@command
def main(argv: list[str]) -> None:
    """Runs the probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="run, folder of import-weights, a ViT's weight file, or NAME=FILE: a timm "
                        "model and its weights")  # fmt: skip
    parser.add_argument("--data", required=True, help="prepared set with train, val and test")
    parser.add_argument("--target", required=True, nargs="+", help="label fields of kind class or value")
    parser.add_argument("--rows", nargs="+", help="which of last, ema, file, untrained, colour; default: all")
    parser.add_argument("--image-size", type=int, help="default: the encoder's own")
    parser.add_argument("--eval-crop", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, default=3, help="draws of each share of the labels")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=Path(".cache/features"))
    parser.add_argument("--json", type=Path, help="default: probe_DATA.json in a run folder")
    given = parser.parse_args(argv)
    result = probe(given.encoder, data=given.data, targets=given.target, image_size=given.image_size,
                   eval_crop=given.eval_crop, cache=given.cache, only=given.rows, seeds=given.seeds,
                   workers=given.workers)  # fmt: skip
    print_table(result)
    folder = Path(given.encoder)
    path = given.json or (folder / f"probe_{Path(given.data).name}.json" if folder.is_dir() else None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=1))
        print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
