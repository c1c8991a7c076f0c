"""Train the small network that finds faces (vea/models/face_net.py) on labelled scenes and composites.

    VEA_DATA=RAW python datasets/face_scenes.py --out data/face_scenes
    VEA_DATA=RAW python finetune/face_net.py data/face_scenes --run-dir runs/face-net --minutes 40

The learning rate follows the share of the minutes that has passed, so a run takes as long as it was given. Ended in the
middle, it goes on from its last checkpoint when started again. ``best`` holds the average of the weights (EMA); its
validation loss, on fixed pictures made of OASIS's validation split, is printed at every checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vea.data.synthetic.composites import Composites, Sample, Scene
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.losses.boxes import overlaps, quality_focal
from vea.models.face_net import STRIDES, FaceNet, assign, decode
from vea.storage import atomic
from vea.storage.checkpoint import save_weights
from vea.storage.provenance import git_state

LIFELESS = ("animal", "object", "scenery")
LONGEST = 640  # pixels to which a scene is brought before it is kept in memory


def read_scenes(folder: Path, data: Path, split: str) -> list[Scene]:
    """Returns the scenes of one split with their pictures."""
    scenes = []
    for line in (folder / "scenes.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["split"] != split:
            continue
        image, faces = read_image(data / row["file"]), np.array(row["faces"], np.float64).reshape(-1, 15)
        factor = min(1.0, LONGEST / max(image.shape[:2]))
        levels = []
        for level in range(3):
            size = [max(1, round(side * factor / 2**level)) for side in (image.shape[1], image.shape[0])]
            levels.append(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        faces[:, :14] *= factor
        scenes.append(Scene(levels, faces, row["kind"] in LIFELESS))
    if not scenes:
        raise VeaError(f"{folder}/scenes.jsonl has no scenes of split {split}")
    return scenes


def packed(samples: list[Sample], side: int) -> dict[str, Any]:
    """Returns a batch: pictures (B, 3, S, S) uint8, faces of all, and each cell's row in them (-1: none) and weight."""
    faces, numbers, weights, before = [], [], [], 0
    for sample in samples:
        rows = torch.tensor(np.array(sample.faces).reshape(-1, 14), dtype=torch.float32)
        ignored = torch.tensor(np.array(sample.ignored).reshape(-1, 4), dtype=torch.float32)
        number, weight = assign(rows, ignored, height=side, width=side)
        numbers.append(torch.where(number >= 0, number + before, number))
        weights.append(weight)
        faces.append(rows)
        before += len(rows)
    image = torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2)
    return {"image": image, "faces": torch.cat(faces), "number": torch.stack(numbers), "weight": torch.stack(weights)}


class Stream(IterableDataset):
    """Batches without end, the same for the same seed and step."""

    def __init__(self, composites: Composites, *, batch: int, seed: int, start: int) -> None:
        self.composites, self.batch, self.seed, self.start = composites, batch, seed, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        step = self.start
        while True:
            rng = np.random.default_rng([self.seed, step])
            yield packed([self.composites.sample(rng) for _ in range(self.batch)], self.composites.side)
            step += 1


def losses(maps: tuple[Tensor, ...], batch: dict[str, Any]) -> dict[str, Tensor]:
    """Returns score, box and point loss of a batch, each a face's mean."""
    rows = decode(maps)
    number, weight = batch["number"], batch["weight"]
    here = number >= 0
    found, true = rows[here], batch["faces"][number[here]]
    many = max(1, len(found))
    iou, generalised = overlaps(found[:, 1:5], true[:, :4])
    quality = torch.zeros_like(weight)
    quality[here] = iou.detach().clamp(min=0)
    side = (true[:, 2:4] - true[:, :2]).prod(1).sqrt().clamp(min=1)
    apart = (found[:, 5:] - true[:, 4:]) / side[:, None]
    points = torch.nn.functional.smooth_l1_loss(apart, torch.zeros_like(apart), beta=0.05, reduction="sum") / 10
    score = quality_focal(rows[..., 0], quality, weight)
    return {"score": 2 * score / many, "box": 2 * (1 - generalised).sum() / many, "points": 4 * points / many}


@torch.inference_mode()
def validate(model: FaceNet, batches: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the mean losses on fixed batches."""
    model.eval()
    kept = [losses(model(batch["image"].float()), batch) for batch in batches]
    model.train()
    return {name: round(float(sum(row[name] for row in kept)) / len(kept), 4) for name in kept[0]}


@command
def main(argv: list[str]) -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="folder that datasets/face_scenes.py wrote")
    parser.add_argument("--data", type=Path, default=os.environ.get("VEA_DATA"), help="folder of the raw sets")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40.0, help="of training, over all starts")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=256, help="of the training pictures, in pixels")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--every", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if given.data is None:
        raise VeaError("which data? set VEA_DATA or give --data")
    train(given)


def train(given: argparse.Namespace) -> None:
    """Trains until the minutes are spent; writes ``last.pt`` and ``best`` in the run folder."""
    torch.manual_seed(given.seed)
    cv2.setNumThreads(1)  # a pool of threads does not survive the fork of the loader
    torch.set_num_threads(1)
    with np.load(given.scenes / "faces.npz") as kept:
        faces = [(kept["faces"], kept["rows"]), (kept["drawn"], kept["drawn_rows"])]
    made = Composites(read_scenes(given.scenes, given.data, "train"), faces, side=given.side)
    held_out = Composites(read_scenes(given.scenes, given.data, "val"), faces, side=given.side)
    validation = [packed([held_out.sample(np.random.default_rng([9, part, i])) for i in range(32)], given.side)
                  for part in range(6)]  # fmt: skip
    model = FaceNet().train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr, weight_decay=0.02)
    step, spent, last = 0, 0.0, given.run_dir / "last.pt"
    given.run_dir.mkdir(parents=True, exist_ok=True)
    if last.exists():
        state = torch.load(last, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    stream = DataLoader(Stream(made, batch=given.batch, seed=given.seed, start=step), batch_size=None, num_workers=1)
    budget, due, clock = 60 * given.minutes, spent + 60 * given.every, time.monotonic() - spent
    for batch in stream:
        spent = time.monotonic() - clock
        share = min(1.0, spent / budget)
        for group in optimizer.param_groups:
            group["lr"] = given.lr * min(1.0, (step + 1) / 150) * max(0.01, 0.5 * (1 + math.cos(math.pi * share)))
        image = batch["image"].float().contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            maps = model(image)
        parts = losses(maps, batch)
        loss = sum(parts.values())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        step += 1
        _average(average, model, weight=1 - min(0.998, (step + 1) / (step + 20)))
        if step % 50 == 0:
            shown = {name: round(float(value.detach()), 3) for name, value in parts.items()}
            print(json.dumps({"step": step, "minutes": round(spent / 60, 2)} | shown), flush=True)
        if spent >= due or share >= 1:
            due = spent + 60 * given.every
            _keep(given, model, average, optimizer, step=step, spent=spent, metrics=validate(average, validation))
        if share >= 1:
            break


def _average(average: FaceNet, model: FaceNet, *, weight: float) -> None:
    with torch.no_grad():
        ours, now = average.state_dict(), model.state_dict()
        names = [name for name in ours if ours[name].is_floating_point()]
        torch._foreach_lerp_([ours[name] for name in names], [now[name] for name in names], weight)


def _keep(given: argparse.Namespace, model: FaceNet, average: FaceNet, optimizer: torch.optim.Optimizer, *,
          step: int, spent: float, metrics: dict[str, float]) -> None:  # fmt: skip
    print(json.dumps({"step": step, "validation": metrics}), flush=True)
    temporary = given.run_dir / ".last.pt"
    torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                "step": step, "spent": spent}, temporary)  # fmt: skip
    atomic.rename(temporary, given.run_dir / "last.pt")
    weights = {name: value.contiguous() for name, value in average.state_dict().items()}
    own = {"step": step, "minutes": round(spent / 60, 1), "pictures": step * given.batch, "validation": metrics,
           "strides": list(STRIDES), "git": git_state(), "seed": given.seed}  # fmt: skip
    save_weights(given.run_dir / "best", weights, own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
