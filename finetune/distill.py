"""Distil a face network from cached answers of a strong one.

    python finetune/distill.py views data/views --data data/fer2013plus --teacher data/weights/fer-densenet121
    python finetune/distill.py train configs/finetune/expression_distilled.yaml --views data/views
    python finetune/evaluate.py runs/expression-distilled --split test

``views`` draws fixed views of the training faces (turned, moved, mirrored; two of five mixed with another face) and
keeps what the teacher says of each: logits and pooled features. Each view is answered once; a live teacher of 2.9 G
multiply-adds would cost fifty times the student. A teacher that has learned these faces by heart says their label and
no more where it knows the very pixels (99 % right); on views it says 90 %, and what else it might be.
``train`` makes each view worse (turn, scale, blur, small, dark, noise, JPEG, hidden parts) and asks the student for the
answers to the view as it was: a blend of the official label, the teacher and the model in ``distill.models``; the FER+
votes; and, through a linear map that is thrown away, the direction of the teacher's features.
The learning rate is constant, then falls to nothing over the last ``--decay`` steps.
Faces are grey, 48 pixels. Ended in the middle, either goes on from its last file when started again.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import vea
from vea.config import RecogniseConfig, load_config, to_yaml
from vea.data.loading.loader import eval_loader
from vea.data.shards.reader import ShardReader
from vea.errors import VeaError, command
from vea.losses.classification import soft_cross_entropy
from vea.storage import atomic
from vea.storage.atomic import write_text
from vea.storage.checkpoint import save_weights
from vea.storage.provenance import git_state
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model
from vea.training.finetune import label_fields

SIDE, TEACHER_SIDE, CHUNK, TEACHER_BATCH = 48, 224, 512, 16

# ------------------------------------------------------------------------------------------------------- cached views


def faces_of(path: str, split: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns grey faces uint8 (N, 48, 48) of a prepared set and their labels."""
    reader = ShardReader(path, split)
    images, labels = [], []
    for place in range(len(reader)):
        _, data, metadata = reader.read(place)
        face = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
        images.append(face if face.shape == (SIDE, SIDE) else cv2.resize(face, (SIDE, SIDE)))
        labels.append(metadata["labels"])
    return np.stack(images), labels


def read_teacher(folder: Path) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from faces (N, 48, 48) to (features (N, 1024), logits (N, 7)) in fp16, of a DenseNet121."""
    network = timm.create_model("densenet121", num_classes=7)
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    network = network.eval().to(memory_format=torch.channels_last).bfloat16()  # type: ignore[call-overload]

    @torch.inference_mode()
    def ask(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = []
        for part in (torch.from_numpy(faces)[:, None].float() / 255).split(TEACHER_BATCH):
            x = F.interpolate(part, (TEACHER_SIDE, TEACHER_SIDE), mode="bilinear").expand(-1, 3, -1, -1)
            x = x.contiguous(memory_format=torch.channels_last).bfloat16()
            features = network.forward_head(network.forward_features(x), pre_logits=True)
            rows.append((features.half(), network.classifier(features).half()))
        return tuple(torch.cat(column).numpy() for column in zip(*rows))  # type: ignore[return-value]

    return ask


def jittered(face: np.ndarray, numbers: np.random.Generator) -> np.ndarray:
    """Returns the face a little turned, scaled and moved, mirrored half of the time; float32 (48, 48)."""
    matrix = cv2.getRotationMatrix2D((23.5, 23.5), numbers.uniform(-8, 8), numbers.uniform(0.95, 1.12))
    matrix[:, 2] += numbers.uniform(-2, 2, 2)
    moved = cv2.warpAffine(face, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return (moved[:, ::-1] if numbers.random() < 0.5 else moved).astype(np.float32)


def drawn_view(faces: np.ndarray, index: int, numbers: np.random.Generator) -> tuple[np.ndarray, int, float]:
    """Returns (view uint8, partner, share of the face itself): 60 % alone, 25 % mixup, 15 % a box of another face."""
    view, kind = jittered(faces[index], numbers), numbers.random()
    if kind < 0.6:
        return view.round().astype(np.uint8), index, 1.0
    partner = int(numbers.integers(len(faces)))
    other = jittered(faces[partner], numbers)
    if kind < 0.85:
        share = numbers.uniform(0.5, 1)
        return (share * view + (1 - share) * other).round().astype(np.uint8), partner, share
    side = numbers.uniform(0.3, 0.7)
    height, width = (int(np.clip(SIDE * side * numbers.uniform(0.75, 1.33), 8, 44)) for _ in range(2))
    y, x = int(numbers.integers(SIDE + 1 - height)), int(numbers.integers(SIDE + 1 - width))
    view = view.copy()
    view[y : y + height, x : x + width] = other[y : y + height, x : x + width]
    return view.round().astype(np.uint8), partner, 1 - height * width / SIDE**2


def write_views(out: Path, *, data: str, teacher: Path, rounds: int) -> None:
    """Writes ``ROUND_CHUNK.npz``: view, index, partner, share, features, logits; a chunk that is there stays."""
    out.mkdir(parents=True, exist_ok=True)
    ask = read_teacher(teacher)
    faces, _ = faces_of(data, "train")
    for number in range(rounds):
        order = np.random.default_rng(1000 + number).permutation(len(faces))
        for start in range(0, len(faces), CHUNK):
            path = out / f"{number:02d}_{start // CHUNK:03d}.npz"
            if path.exists():
                continue
            numbers, rows = np.random.default_rng([number, start]), order[start : start + CHUNK]
            views, partners, shares = zip(*(drawn_view(faces, int(index), numbers) for index in rows))
            view = np.stack(views)
            features, logits = ask(view)
            temporary = path.with_name(f".{path.name}")
            np.savez(temporary, view=view, index=rows, partner=np.array(partners), share=np.float32(shares),
                     features=features, logits=logits)  # fmt: skip
            atomic.rename(temporary, path)
            print(f"{path}: {time.strftime('%H:%M:%S')}", flush=True)


def read_views(folder: Path) -> dict[str, Tensor]:
    """Returns all chunks together."""
    files = [np.load(path) for path in sorted(folder.glob("[0-9]*_*.npz"))]
    if not files:
        raise VeaError(f"--views: {folder} holds no views; write them first with finetune/distill.py views {folder}")
    return {name: torch.from_numpy(np.concatenate([file[name] for file in files])) for name in files[0].files}


def worse(views: Tensor, numbers: np.random.Generator, *, strength: float) -> Tensor:
    """Returns float (B, 1, 48, 48), 0 to 255, of uint8 views (B, 48, 48), each changed in ways of its own.

    Geometry 85 % (turns to 18 degrees, scale 0.84 to 1.17, moves to 3.6 pixels), mirrored half; few pixels 16 %, blur
    14 %, JPEG 8 %, contrast and brightness 60 %, light from a side 25 %, gamma 30 %, noise 12 %, a hidden box 25 %.
    ``strength`` scales the first kinds' size or share.
    """
    count = len(views)

    def between(low: float, high: float) -> Tensor:
        return torch.from_numpy(numbers.uniform(low, high, count)).float()

    def some(share: float) -> Tensor:
        return torch.from_numpy(numbers.random(count) < share)

    def wide(values: Tensor) -> Tensor:
        return values.float().view(-1, 1, 1, 1)

    x, moved = views[:, None].float(), some(0.85).float()
    angle = between(-18, 18) * moved * np.pi / 180 * strength
    scale, aspect = 1 + (between(-0.18, 0.16).exp() - 1) * moved, 1 + between(-0.07, 0.07) * moved
    right, down = between(-0.15, 0.15) * moved * strength, between(-0.15, 0.15) * moved * strength
    mirror = torch.where(some(0.5), -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = torch.stack([mirror * cos * aspect, -sin, right], 1), torch.stack([mirror * sin, cos / aspect, down], 1)
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    if len(chosen := torch.where(some(0.16 * strength))[0]):
        side = int(numbers.integers(14, 36))
        small = F.interpolate(x[chosen], (side, side), mode="bilinear", antialias=True)
        x[chosen] = F.interpolate(small, (SIDE, SIDE), mode="bicubic" if numbers.random() < 0.5 else "bilinear")
    if len(chosen := torch.where(some(0.14 * strength))[0]):
        kernel = torch.exp(-torch.arange(-4, 5).float().square() / 2 / numbers.uniform(0.4, 1.8) ** 2)
        kernel /= kernel.sum()
        padded = F.pad(x[chosen], (4, 4, 4, 4), mode="replicate")
        x[chosen] = F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, 9)), kernel.view(1, 1, 9, 1))
    for place in torch.where(some(0.08 * strength))[0].tolist():
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(numbers.integers(15, 70))]
        coded = cv2.imencode(".jpg", x[place, 0].clamp(0, 255).byte().numpy(), quality)[1]
        x[place, 0] = torch.from_numpy(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)).float()
    lit, mean, ramp = wide(some(0.6)) * strength, x.mean((2, 3), keepdim=True), torch.linspace(-1, 1, SIDE)
    x = (x - mean) * (1 + (wide(between(-0.8, 0.35).exp()) - 1) * lit) + mean + wide(between(-45, 45)) * lit
    across, along = (wide(between(-1, 1) * 45 * some(0.25).float() * strength) for _ in range(2))
    x = (x + across * ramp.view(1, 1, 1, -1) + along * ramp.view(1, 1, -1, 1)).clamp(0, 255)
    x = 255 * (x / 255) ** (wide(between(-0.45, 0.45)) * wide(some(0.3))).exp()
    chosen = torch.where(some(0.12 * strength))[0]
    x[chosen] = (x[chosen] + torch.randn(len(chosen), 1, SIDE, SIDE) * numbers.uniform(3, 16)).clamp(0, 255)
    for place in torch.where(some(0.25))[0].tolist():
        height, width = (int(size) for size in numbers.integers(6, 22, 2))
        y, left = int(numbers.integers(0, SIDE + 1 - height)), int(numbers.integers(0, SIDE + 1 - width))
        flat = numbers.random() < 0.5
        filling = numbers.uniform(0, 255) if flat else torch.rand(height, width) * 255
        x[place, :, y : y + height, left : left + width] = filling
    return x


def student(config: RecogniseConfig) -> RecogniseTask:
    """Returns the network of ``config``, begun from ``train.init_from``; blocks that one lacks begin as nothing."""
    task = RecogniseTask(config.model_copy(update={"distill": type(config.distill)()}), fields=label_fields(config))
    if config.train.init_from:
        found = open_model(config.train.init_from).task.state_dict()
        unknown = task.load_state_dict(found, strict=False)
        if unknown.unexpected_keys or any(".extra." not in name for name in unknown.missing_keys):
            raise VeaError(f"train.init_from: {config.train.init_from} has other layers than model.encoder")
    return task


@torch.inference_mode()
def older_answers(name: str, faces: np.ndarray) -> dict[str, Tensor]:
    """Returns {target: probabilities (N, C)} of a trained model, the mean of each face and its mirror image."""
    task, rows = open_model(name).task, []
    for part in torch.from_numpy(faces)[:, None].split(128):
        with torch.autocast("cpu", torch.bfloat16):
            pairs = [task.answers(task.predict({"image": image})) for image in (part, part.flip(3))]
        rows.append({target: sum(pair[target].float() for pair in pairs) / 2 for target in pairs[0]})
    return {target: torch.cat([row[target] for row in rows]) for target in rows[0]}


def labels_of(task: RecogniseTask, labels: list[dict[str, Any]], smoothing: float) -> dict[str, Tensor]:
    """Returns {target: rows (N, C) that sum to one, or to zero where there is no label}."""
    classes = task.fields["expression"].classes
    first = torch.zeros(len(labels), len(classes))
    votes = torch.zeros(len(labels), len(task.fields["votes"].classes))
    for row, label in enumerate(labels):
        if label.get("expression") is not None:
            first[row] = smoothing / len(classes)
            first[row, classes.index(label["expression"])] += 1 - smoothing
        if label.get("votes") is not None:
            votes[row] = torch.tensor(label["votes"], dtype=torch.float32)
    return {"expression": first, "votes": votes / votes.sum(1, keepdim=True).clamp(min=1e-9)}


def validate(task: RecogniseTask, config: RecogniseConfig) -> dict[str, float]:
    """Returns the metrics of the validation set."""
    task.eval()
    metrics = task.new_metrics()
    for batch in eval_loader(config, task.item_spec(), refs=config.data.val, batch_size=256, rank=0, world_size=1):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16"):
            metrics.update(task.predict(batch), batch)
    task.train()
    return metrics.compute()


class Distillation:
    """A student, the average of its weights, and the answers that it learns; ``given`` holds ``SETTINGS``."""

    def __init__(self, config: RecogniseConfig, views: dict[str, Tensor], given: argparse.Namespace) -> None:
        self.config, self.views, self.given = config, views, given
        self.task = student(config)
        self.average = copy.deepcopy(self.task)
        self.mapped = nn.Linear(self.task.encoder.num_features, views["features"].shape[1])  # type: ignore[arg-type]
        self.parameters = [*self.task.parameters(), *self.mapped.parameters()]
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": config.train.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.peak = config.train.base_lr * config.data.global_batch_size / 256
        self.optimizer = torch.optim.AdamW(groups, lr=self.peak, betas=config.train.betas, fused=True)
        faces, labels = faces_of(config.data.train[0].path, config.data.train[0].split)
        self.labels = labels_of(self.task, labels, config.mix.smoothing)
        self.older = older_answers(config.distill.models[0], faces)
        sample = views["features"].float()
        self.middle, self.spread = sample.mean(0), sample.std(0).clamp(min=0.02)
        self.step, self.best = 0, None  # type: int, dict[str, Any] | None
        if (last := config.run_dir / "last.pt").exists():
            kept = torch.load(last, weights_only=True)
            for name in PARTS:
                getattr(self, name).load_state_dict(kept[name])
            self.step, self.best = kept["step"], kept["best"]

    def batch(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Returns worse pictures, {target: rows} and the teacher's features of this step."""
        views, given, numbers = self.views, self.given, np.random.default_rng([7, self.config.seed, self.step])
        torch.manual_seed(self.step)
        drawn = torch.from_numpy(numbers.integers(0, len(views["index"]), self.config.data.global_batch_size))
        index, partner, share = views["index"][drawn], views["partner"][drawn], views["share"][drawn][:, None]

        def mixed(table: Tensor) -> Tensor:
            return share * table[index] + (1 - share) * table[partner]

        taught = (views["logits"][drawn].float() / given.temperature).softmax(1)
        taught = given.teacher_share * taught + (1 - given.teacher_share) * mixed(self.older["expression"])
        targets = {
            "expression": given.label_share * mixed(self.labels["expression"]) + (1 - given.label_share) * taught,
            "votes": (1 - given.older_votes) * mixed(self.labels["votes"])
            + given.older_votes * mixed(self.older["votes"]),
        }
        # mild pictures at the end: what is validated and asked for is mild as well
        strength = given.strength * (1 if self.config.train.steps - self.step > 0.4 * given.decay else 0.6)
        images = worse(views["view"][drawn], numbers, strength=strength)
        return images, targets, (views["features"][drawn].float() - self.middle) / self.spread

    def learn(self) -> tuple[float, float]:
        """Takes one step; returns its loss and rate."""
        settings, (images, targets, wanted) = self.config.train, self.batch()
        left = min(1, (settings.steps - self.step) / self.given.decay)
        rate = self.peak * min(1, (self.step + 1) / max(1, settings.warmup_steps)) * max(0.003, left)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
            features = self.task.encoder(self.task.normalise(images))
            logits, alike = self.task.heads(features), self.mapped(features)
        loss = sum(self.config.targets[name] * soft_cross_entropy(logits[name], targets[name]) for name in targets)
        loss = loss + self.given.features * (1 - F.cosine_similarity(alike.float(), wanted, dim=1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, settings.clip_grad or float("inf"))
        self.optimizer.step()
        self.step += 1
        with torch.no_grad():
            ours, now = self.average.state_dict(), self.task.state_dict()
            names = [name for name in ours if ours[name].is_floating_point()]
            weight = 1 - min(settings.ema_decay or 0.0, (self.step + 10) / (self.step + 100))
            torch._foreach_lerp_([ours[name] for name in names], [now[name] for name in names], weight)
        return float(loss.detach()), rate

    def keep(self, own: dict[str, Any], metrics: dict[str, float]) -> None:
        """Writes ``best`` where validation says so, and what a restart needs."""
        config, run = self.config, self.config.run_dir
        value = metrics[config.select_by]
        if self.best is None or value >= self.best["value"]:
            self.best = {"metric": config.select_by, "value": value, "step": self.step}
            state = own | {"samples": self.step * config.data.global_batch_size, "best": self.best, "step": self.step,
                           "metrics": metrics, "ema": True, "task": self.average.metadata()}  # fmt: skip
            save_weights(run / "best", self.average.state_to_save(), state)
        parts = {name: getattr(self, name).state_dict() for name in PARTS}
        torch.save(parts | {"step": self.step, "best": self.best}, run / ".last.pt")
        atomic.rename(run / ".last.pt", run / "last.pt")


def train(config: RecogniseConfig, views: dict[str, Tensor], given: argparse.Namespace) -> None:
    """Trains and keeps in ``run/best`` the average of the weights that validation chose."""
    settings, run = config.train, config.run_dir
    torch.manual_seed(config.seed)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "config.yaml", to_yaml(config))
    work = Distillation(config, views, given)
    own = {"versions": {"vea": vea.__version__, "torch": torch.__version__, "python": platform.python_version()},
           "git": git_state(), "seed": config.seed, "recipe": config.recipe,
           "config": config.model_dump(mode="json"),
           "distil": {name: getattr(given, name) for name in SETTINGS}}  # fmt: skip
    work.task.train()
    while work.step < settings.steps:
        loss, rate = work.learn()
        if work.step % (settings.eval_every or settings.steps) == 0 or work.step == settings.steps:
            metrics = validate(work.average, config)
            print(json.dumps({"step": work.step, "lr": rate, "loss": loss} | metrics), flush=True)
            work.keep(own, metrics)
    print(f"best: {work.best}, in {run / 'best'}")


# ------------------------------------------------------------------------------------------------------------- command

PARTS = ("task", "average", "mapped", "optimizer")  # what a restart reads
SETTINGS = ("decay", "label_share", "teacher_share", "older_votes", "temperature", "features", "strength")


@command
def main(argv: list[str]) -> None:
    """Runs either half."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    views = parts.add_parser("views", help="write views and the teacher's answers")
    views.add_argument("out", type=Path)
    views.add_argument("--data", required=True, help="a prepared set of faces")
    views.add_argument("--teacher", type=Path, required=True, help="folder of the DenseNet121's model.safetensors")
    views.add_argument("--rounds", type=int, default=4, help="views of each face")
    learn = parts.add_parser("train", help="train a student on them")
    learn.add_argument("config", help="YAML file")
    learn.add_argument("overrides", nargs="*", metavar="a.b=c")
    learn.add_argument("--views", type=Path, required=True)
    learn.add_argument("--decay", type=int, default=2924, help="last steps, over which the learning rate falls to 0")
    learn.add_argument("--label-share", type=float, default=0.25, help="of the official label in its target")
    learn.add_argument("--teacher-share", type=float, default=0.6, help="of the rest; what is left: distill.models")
    learn.add_argument("--older-votes", type=float, default=0.3, help="of distill.models in the target of the votes")
    learn.add_argument("--temperature", type=float, default=2.5, help="of the teacher, who is too sure")
    learn.add_argument("--features", type=float, default=1.0, help="weight of the features' direction")
    learn.add_argument("--strength", type=float, default=1.0, help="of what is done to the pictures")
    given = parser.parse_args(argv)
    cv2.setNumThreads(0)
    if given.part == "views":
        write_views(given.out, data=given.data, teacher=given.teacher, rounds=given.rounds)
        return
    config = load_config(given.config, given.overrides, schema=RecogniseConfig)
    if set(config.targets) != {"expression", "votes"} or len(config.distill.models) != 1:
        raise VeaError("distil learns targets expression and votes, with one older model in distill.models")
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    train(config, read_views(given.views), given)


if __name__ == "__main__":
    sys.exit(main())
