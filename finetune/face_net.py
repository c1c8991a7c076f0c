"""Train the small network that finds faces (vea/models/face_net.py) on labelled scenes and composites.

    VEA_DATA=RAW python datasets/face_scenes.py --out data/face_scenes
    VEA_DATA=RAW python finetune/face_net.py data/face_scenes --run-dir runs/face-net --minutes 40 --teacher YUNET.onnx

With ``--teacher`` every cell also learns what YuNet says there (dense distillation): its score where no face was put,
its box and points where it sees one. What was pasted or labelled goes before what the teacher says.
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
from vea.storage.checkpoint import load_weights, save_weights
from vea.storage.provenance import git_state

LIFELESS = ("animal", "object", "scenery")
SEEN = 0.2  # score of the teacher from which its box and points are learned
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


class Teacher:
    """YuNet's answer in every cell: (cells, 15) score 0..1, box and points in pixels, cells as ``decode`` has them."""

    def __init__(self, weights: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Asks about one RGB picture (S, S, 3) uint8."""
        bgr = np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
        answer = dict(zip(self.names, self.session.run(None, {"input": bgr})))
        rows = []
        for stride in STRIDES:
            height, width = image.shape[0] // stride, image.shape[1] // stride
            at = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2).astype(np.float32)
            score = np.sqrt(answer[f"cls_{stride}"][0].clip(0, 1) * answer[f"obj_{stride}"][0].clip(0, 1))
            box, points = answer[f"bbox_{stride}"][0], answer[f"kps_{stride}"][0]
            centre, half = (at + box[:, :2]) * stride, np.exp(box[:, 2:].clip(max=6)) * stride / 2
            rows.append(np.hstack([score, centre - half, centre + half, (points + np.tile(at, 5)) * stride]))
        return np.concatenate(rows).astype(np.float32)


def shared(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (N,) of one box with others."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = np.clip(high - low, 0, None).prod(1)
    return common / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - common)


def packed(samples: list[Sample], side: int, teacher: Teacher | None = None) -> dict[str, Any]:
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
    batch = {"image": image, "faces": torch.cat(faces), "number": torch.stack(numbers), "weight": torch.stack(weights)}
    if teacher is not None:
        said = np.stack([teacher(sample.image) for sample in samples])
        for rows, sample, weight in zip(said, samples, batch["weight"].numpy()):
            if sample.lifeless:
                rows[weight == 1, 0] = 0.0  # no face was put there, and the photograph has none
            for face in sample.faces:  # of a face that lies, the teacher says where the points of an upright one were
                rows[(rows[:, 0] > SEEN) & (shared(face[:4], rows[:, 1:5]) > 0.4), 1:] = face
        batch["teacher"] = torch.from_numpy(said)
    return batch


class Stream(IterableDataset):
    """Batches without end, the same for the same seed and step."""

    def __init__(self, composites: Composites, *, batch: int, seed: int, start: int, teacher: Path | None) -> None:
        self.composites, self.batch, self.seed, self.start, self.teacher = composites, batch, seed, start, teacher

    def __iter__(self) -> Iterator[dict[str, Any]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        step, teacher = self.start, Teacher(self.teacher) if self.teacher else None
        while True:
            rng = np.random.default_rng([self.seed, step])
            yield packed([self.composites.sample(rng) for _ in range(self.batch)], self.composites.side, teacher)
            step += 1


def losses(maps: tuple[Tensor, ...], batch: dict[str, Any]) -> dict[str, Tensor]:
    """Returns score, box and point loss of a batch, each a face's mean."""
    rows = decode(maps)
    number, weight = batch["number"], batch["weight"]
    here = number >= 0
    found, true = rows[here], batch["faces"][number[here]]
    ours = len(found)
    quality = torch.zeros_like(weight)
    if "teacher" in batch:
        quality = batch["teacher"][..., 0].clone()
        weight = torch.ones_like(weight)
        sees = (quality > SEEN) & ~here
        share = torch.cat([torch.ones(len(found)), quality[sees]])
        found, true = torch.cat([found, rows[sees]]), torch.cat([true, batch["teacher"][sees][:, 1:]])
    else:
        share = torch.ones(len(found))
    iou, generalised = overlaps(found[:, 1:5], true[:, :4])
    quality[here] = torch.maximum(quality[here], iou[:ours].detach().clamp(min=0))
    side = (true[:, 2:4] - true[:, :2]).clamp(min=1).prod(1).sqrt()
    apart = (found[:, 5:] - true[:, 4:]) / side[:, None]
    points = torch.nn.functional.smooth_l1_loss(apart, torch.zeros_like(apart), beta=0.05, reduction="none").sum(1) / 10
    score, many = quality_focal(rows[..., 0], quality, weight), float(share.sum().clamp(min=1))
    return {"score": 2 * score / many, "box": 2 * (share * (1 - generalised)).sum() / many,
            "points": 4 * (share * points).sum() / many}  # fmt: skip


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
    parser.add_argument("--teacher", type=Path, help="ONNX file of YuNet, whose answer in every cell is learned too")
    parser.add_argument("--start", type=Path, help="weights to begin with (best of another run)")
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
    model = FaceNet()
    if given.start:
        model.load_state_dict(load_weights(given.start)[0])
    model = model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    stream = DataLoader(
        Stream(made, batch=given.batch, seed=given.seed, start=step, teacher=given.teacher),
        batch_size=None,
        num_workers=1,
    )
    budget, due, clock = 60 * given.minutes, spent + 60 * given.every, time.monotonic() - spent
    for batch in stream:
        spent = time.monotonic() - clock
        share = min(1.0, spent / budget)
        for group in optimizer.param_groups:
            group["lr"] = given.lr * min(1.0, (step + 1) / 150) * max(0.01, 0.5 * (1 + math.cos(math.pi * share)))
        image = batch["image"].float().contiguous(memory_format=torch.channels_last)
        parts = losses(model(image), batch)
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
