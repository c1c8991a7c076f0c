"""Train the network that finds faces (vea/models/face_net.py) on YuNet's answers, block by block, then as a whole.

    VEA_DATA=RAW python datasets/face_scenes.py --out data/face_scenes
    VEA_DATA=RAW python finetune/face_net.py data/face_scenes --teacher YUNET.onnx --run-dir runs/face-net

Two stages, on photographs and composites that are made as they are needed:

blocks  one unit of the network after the other learns for itself what the teacher's unit at its place says (hints,
        Romero et al. 2015, at every unit), reading what the student's own units before it give: a minute
whole   the answers, for ``--steps`` steps: the teacher's, and what the labels know better. Where the teacher sees a
        face that nobody labelled or pasted, there is none (animals, things); an upright face that it misses is one.

The weights start at random; of the teacher nothing but what it computes is learned. Ended in the middle, a run goes on
from ``last.pt`` when started again. ``best`` holds the average of the weights (EMA). At every checkpoint it says what
the network finds in OASIS's validation split: faces that the labels are sure of, and boxes in animals and things.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.data.synthetic.composites import Composites, Sample, Scene
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.faces.align import TILT, turn_of
from vea.faces.detect import FaceDetector
from vea.faces.net import rows_of
from vea.faces.teacher import YuNetFeatures
from vea.losses.boxes import overlaps, quality_focal
from vea.models.face_net import ANSWERS, ENDS, STRIDES, FaceNet, Unit, assign, decode
from vea.storage import atomic
from vea.storage.checkpoint import load_weights, save_weights
from vea.storage.provenance import git_state

PICTURES, POSITIONS = 64, 3000  # of the first stage: what is looked at, and drawn from it
ITERATIONS, BEGINNINGS = 80, 2  # of L-BFGS on a unit of 64 channels: the long descent; short ones before it
DOUBTFUL = {"animal": 2.0, "object": 0.8}  # labels below these scores are no faces: statues and dolls may count
SEEN = 0.2  # score of the teacher from which its box and points are learned
MISSED = 0.7  # score of the teacher below which an upright face is learned from its label
LONGEST = 640  # pixels to which a scene is brought before it is kept in memory
SILENT = 6.0  # a logit below minus this is as good as any


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
        scenes.append(Scene(levels, faces, DOUBTFUL.get(row["kind"], 0.0), row["kind"] in DOUBTFUL))
    if not scenes:
        raise VeaError(f"{folder}/scenes.jsonl has no scenes of split {split}")
    return scenes


def one_sided(pre: Tensor, wanted: Tensor, least: Tensor) -> Tensor:
    """Returns what is missing (same shape): ``pre - wanted``, or only what is above ``least`` where wanted is not.

    So a channel is compared before its ReLU where the teacher's is above 0, and none dies.
    """
    return torch.where(wanted > least, pre - wanted, (pre - least).clamp(min=0))


def patches(x: Tensor, at: Tensor, *, stride: int = 1) -> Tensor:
    """Returns (M, C + 1, 9): what a 3x3 convolution sees at ``at`` (M, 3) picture, y, x; at last 1 inside, else 0."""
    x = F.pad(torch.cat([x, torch.ones_like(x[:, :1])], 1), (1, 1, 1, 1))
    picture, y, x0 = at[:, 0], stride * at[:, 1], stride * at[:, 2]
    return torch.stack([x[picture, :, y + i // 3, x0 + i % 3] for i in range(9)], -1)


def said(seen: Tensor, point: Tensor, depth: Tensor, bias: Tensor) -> Tensor:
    """Returns (M, K): ``point`` (K, C) over channels of ``seen`` (M, C, T), then ``depth`` (K, T) over its places."""
    return (torch.einsum("kc,mct->mkt", point, seen) * depth).sum(2) + bias


def fit(module: nn.Module, seen: Tensor, wanted: Tensor, *, least: Tensor, weight: Tensor) -> float:
    """Learns ``wanted`` (M, K) from ``patches``; returns the squared error, each channel in units of its variance.

    The channels are made independent of one another first, by the root of their second moments: L-BFGS then needs tens
    of iterations where it needs hundreds.
    """
    if isinstance(module, Unit):
        parts = [torch.cat([module.point.weight[:, :, 0, 0], module.point.bias[:, None]], 1),
                 module.depth.weight.flatten(1), module.depth.bias]  # fmt: skip
    else:  # one convolution: all that it sees is channels, and there is one place
        seen = torch.cat([seen[:, :-1].flatten(1), torch.ones(len(seen), 1)], 1)[..., None]
        parts = [torch.cat([module.weight.flatten(1), module.bias[:, None]], 1),  # type: ignore[operator, index]
                 torch.ones(len(module.bias), 1), torch.zeros(())]  # type: ignore[arg-type]  # fmt: skip
    flat = seen.transpose(1, 2).flatten(0, 1).double()
    moments = flat.T @ flat / len(flat)
    root = torch.linalg.cholesky(moments + 1e-5 * moments.diagonal().mean() * torch.eye(len(moments)))
    seen = torch.linalg.solve_triangular(root, flat.T, upper=False).T.float()
    seen = seen.unflatten(0, (len(wanted), -1)).transpose(1, 2).contiguous()
    point, depth, bias = (part.detach().clone() for part in parts)
    point = (point.double() @ root).float()
    spread = wanted.var(0)
    scale = weight / weight.mean(0) / (spread + 0.01 * spread.mean() + 1e-6)
    iterations = ITERATIONS * max(1, 64 // wanted.shape[1])  # what is wrong early is wrong in all that follows
    if isinstance(module, Unit):  # a product of two: some beginnings end badly, so each channel keeps its best
        kept, errors = [], []
        for _ in range(BEGINNINGS):
            tried = [torch.randn_like(point) / len(root) ** 0.5, torch.randn_like(depth) / 3, torch.zeros_like(bias)]
            errors.append(_descend(seen, wanted, tried, least, scale, iterations=iterations // 4))
            kept.append(tried)
        best = torch.stack(errors).argmin(0).tolist()
        point, depth, bias = (torch.stack([kept[n][part][k] for k, n in enumerate(best)]) for part in range(3))
    learned = [point, depth, bias]
    error = _descend(seen, wanted, learned, least, scale, iterations=iterations, only_first=bias.ndim == 0)
    with torch.no_grad():
        weights = torch.linalg.solve_triangular(root, point.double(), upper=False, left=False).float()
        if isinstance(module, Unit):
            module.point.weight.copy_(weights[:, :-1, None, None])
            module.point.bias.copy_(weights[:, -1])  # type: ignore[union-attr]
            module.depth.weight.copy_(depth.unflatten(1, (1, 3, 3)))
            module.depth.bias.copy_(bias)  # type: ignore[union-attr]
        else:
            module.weight.copy_(weights[:, :-1].view_as(module.weight))  # type: ignore[operator, arg-type]
            module.bias.copy_(weights[:, -1])  # type: ignore[operator]
    return float(error.mean())


def _descend(seen: Tensor, wanted: Tensor, parts: list[Tensor], least: Tensor, scale: Tensor, *, iterations: int,
             only_first: bool = False) -> Tensor:  # fmt: skip
    """Learns ``parts`` in place by L-BFGS; returns each channel's error (K,)."""
    learned = [part.requires_grad_() for part in (parts[:1] if only_first else parts)]
    optimizer = torch.optim.LBFGS(learned, max_iter=iterations, history_size=20, tolerance_change=1e-9,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def errors() -> Tensor:
        return (scale * one_sided(said(seen, *parts), wanted, least).square()).mean(0)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = errors().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    for part in learned:
        part.requires_grad_(False)
    return errors()


def learn_blocks(model: FaceNet, teacher: YuNetFeatures, made: Composites, *, seed: int) -> None:
    """Fits stem, units and heads one after another, each at ``POSITIONS`` of ``PICTURES`` pictures."""
    samples = [made.sample(np.random.default_rng([seed, 7, number])) for number in range(PICTURES)]
    features, maps = asked(teacher, samples, features=True)
    image = pictures(samples)
    generator = torch.Generator().manual_seed(seed)

    def places(share: Tensor) -> Tensor:
        drawn = torch.multinomial(share.flatten(), POSITIONS, replacement=True, generator=generator)
        return torch.stack(torch.unravel_index(drawn, share.shape), 1)

    def learn(name: str, module: nn.Module, x: Tensor, wanted: Tensor, least: float | Tensor, *, stride: int = 1,
              share: Tensor | None = None) -> None:  # fmt: skip
        at = places(torch.ones_like(wanted[:, 0]) if share is None else share)
        rows = wanted[at[:, 0], :, at[:, 1], at[:, 2]]
        weight = torch.ones_like(rows)
        if share is not None:  # where no face is, nothing is said about its place
            weight[:, 2:] = rows[:, :2].sigmoid().prod(1, keepdim=True).sqrt() + 0.01
        error = fit(module, patches(x, at, stride=stride), rows, least=torch.as_tensor(least), weight=weight)
        print(json.dumps({"block": name, "error": round(error, 5)}), flush=True)

    learn("stem", model.stem, model.scaled(image), features[0], 0.0, stride=2)
    with torch.inference_mode():
        own = [F.relu(model.stem(model.scaled(image)))]
    for number, unit in enumerate(model.units, start=1):
        with torch.inference_mode():
            x = model.entering(number, own)
        learn(f"unit {number}", unit, x.clone(), features[number], 0.0)
        with torch.inference_mode():
            own.append(F.relu(unit(x)))
    for head, end, wanted, stride in zip(model.heads, ENDS, maps, STRIDES):
        share = wanted[:, :2].sigmoid().prod(1).sqrt()
        least = torch.tensor([-SILENT, -SILENT, *[-torch.inf] * (ANSWERS - 2)])
        learn(f"head {stride}", head, own[end].clone(), wanted, least, share=share + share.mean())


def shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union (N, M) of boxes with others."""
    low, high = np.maximum(boxes[:, None, :2], others[:, :2]), np.minimum(boxes[:, None, 2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    area, more = (boxes[:, 2:] - boxes[:, :2]).prod(1), (others[:, 2:] - others[:, :2]).prod(1)
    return common / (area[:, None] + more - common).clip(1e-6)


def corrected(cells: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Returns the teacher's answers (cells, 15), score 0..1, as the labels have them, and (cells,) what the label says.

    The latter is the row of the face that a cell learns from its label, -1 where it learns what the teacher says.
    """
    faces, side = np.array(sample.faces, np.float32).reshape(-1, 14), len(sample.image)
    known = np.concatenate([faces[:, :4], np.array(sample.ignored, np.float32).reshape(-1, 4)])
    seen = np.flatnonzero(cells[:, 0] > 0.03)
    share = shared(cells[seen, 1:5], known)
    if sample.lifeless:
        cells[seen[share.max(1, initial=0.0) < 0.3], 0] = 0.0
    own = np.full(len(cells), -1)
    for number, face in enumerate(faces):
        near = seen[share[:, number] > 0.5]
        if cells[near, 0].max(initial=0.0) < MISSED and abs(turn_of(face[4:].reshape(5, 2), face[:4].tolist())) <= TILT:
            numbers, _ = assign(torch.from_numpy(face[None]), torch.zeros(0, 4), height=side, width=side)
            own[numbers.numpy() == 0] = number
    here = own >= 0
    cells[here, 1:] = faces[own[here]]
    return cells, own


def pictures(samples: list[Sample]) -> Tensor:
    """Returns (B, 3, S, S) 0..255."""
    return torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).float()


def answers(model: FaceNet, samples: list[Sample], maps: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Returns the losses of score, box and points, each a face's mean."""
    cells = decode(maps)
    cells[..., 0] = cells[..., 0].sigmoid()
    fixed = [corrected(row, sample) for row, sample in zip(cells.numpy(), samples)]
    wanted, own = (torch.from_numpy(np.stack(parts)) for parts in zip(*fixed))
    rows = decode(model(pictures(samples)))
    labelled = own >= 0
    sees = (wanted[..., 0] > SEEN) | labelled
    found, true = rows[sees], wanted[sees]
    iou, generalised = overlaps(found[:, 1:5], true[:, 1:5])
    quality = wanted[..., 0].clone()
    quality[sees] = torch.where(labelled[sees], torch.maximum(true[:, 0], 0.9 * iou.detach().clamp(min=0)), true[:, 0])
    weight = torch.where(labelled[sees], 0.5, true[:, 0])
    size = (true[:, 3:5] - true[:, 1:3]).clamp(min=1).prod(1).sqrt()
    apart = (found[:, 5:] - true[:, 5:]) / size[:, None]
    points = F.smooth_l1_loss(apart, torch.zeros_like(apart), beta=0.05, reduction="none").sum(1) / 10
    many = float(weight.sum().clamp(min=1))
    score = quality_focal(rows[..., 0], quality, torch.ones_like(quality))
    sums = {"score": 4 * score, "box": 2 * (weight * (1 - generalised)).sum(), "points": 4 * (weight * points).sum()}
    return {name: value / many for name, value in sums.items()}


def asked(teacher: YuNetFeatures, samples: list[Sample], *, features: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Returns the teacher's features and maps of a batch."""
    said = [teacher(sample.image, features=features) for sample in samples]
    return [torch.cat(parts) for parts in zip(*(row[0] for row in said))], tuple(
        torch.cat(parts) for parts in zip(*(row[1] for row in said))
    )


def validate(model: FaceNet, scenes: list[Scene]) -> dict[str, Any]:
    """Returns what is found in whole pictures at .6: faces that the labels are sure of, boxes in lifeless ones."""
    detect = FaceDetector(rows_of(copy.deepcopy(model).eval()), min_score=0.6)
    faces = found = alarms = 0
    for scene in scenes:
        boxes = np.array([box for box, _ in detect(scene.levels[0])], np.float64).reshape(-1, 4)
        if scene.lifeless:
            alarms += len(boxes)
            continue
        sure = scene.faces[scene.sure, :4]
        faces += len(sure)
        found += int((shared(sure, boxes).max(1, initial=0.0) > 0.4).sum()) if len(sure) else 0
    return {"faces": faces, "found": found, "boxes_in_animals_and_things": alarms}


@command
def main(argv: list[str]) -> None:
    """Trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="folder that datasets/face_scenes.py wrote")
    parser.add_argument("--data", type=Path, default=os.environ.get("VEA_DATA"), help="folder of the raw sets")
    parser.add_argument("--teacher", type=Path, required=True, help="ONNX file of YuNet")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000, help="of the second stage")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=12, help="pictures of 256 pixels; a quarter as many of 512")
    parser.add_argument(
        "--start", type=Path, help="weights to begin with (best of another run), instead of the first stage"
    )
    parser.add_argument("--every", type=int, default=400, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if given.data is None:
        raise VeaError("which data? set VEA_DATA or give --data")
    train(given)


def train(given: argparse.Namespace) -> None:
    """Trains; writes ``last.pt`` and ``best`` in the run folder."""
    torch.manual_seed(given.seed)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with np.load(given.scenes / "faces.npz") as kept:
        faces = [(kept["faces"], kept["rows"]), (kept["drawn"], kept["drawn_rows"])]
    scenes, held_out = (read_scenes(given.scenes, given.data, split) for split in ("train", "val"))
    made, teacher = {side: Composites(scenes, faces, side=side) for side in (256, 512)}, YuNetFeatures(given.teacher)
    model, last, first = FaceNet(), given.run_dir / "last.pt", 0
    given.run_dir.mkdir(parents=True, exist_ok=True)
    state = torch.load(last, weights_only=True) if last.exists() else None
    if state:
        model.load_state_dict(state["model"])
    elif given.start:
        model.load_state_dict(load_weights(given.start)[0])
    else:
        learn_blocks(model, teacher, made[256], seed=given.seed)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average, optimizer = copy.deepcopy(model), torch.optim.Adam(model.parameters(), lr=0.0)
    if state:
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    else:
        _keep(given, model, average, optimizer, step=0, metrics=validate(average, held_out))
    clock = time.process_time()
    for step in range(first, given.steps):
        side = 512 if step % 4 == 3 else 256
        rng = np.random.default_rng([given.seed, step])
        samples = [made[side].sample(rng) for _ in range(given.batch if side == 256 else max(1, given.batch // 4))]
        parts = answers(model, samples, asked(teacher, samples, features=False)[1])
        for group in optimizer.param_groups:
            group["lr"] = (
                given.lr * min(1, (step + 1) / 50) * (0.01 + 0.495 * (1 + math.cos(math.pi * step / given.steps)))
            )
        optimizer.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        _average(average, model, weight=1 - min(0.995, (step + 1) / (step + 20)))
        if step % 25 == 0:
            shown = {name: round(float(value.detach()), 4) for name, value in parts.items()}
            print(json.dumps({"step": step, "seconds": round(time.process_time() - clock)} | shown), flush=True)
        if (step + 1) % given.every == 0 or step + 1 == given.steps:
            _keep(given, model, average, optimizer, step=step + 1, metrics=validate(average, held_out))


def _average(average: FaceNet, model: FaceNet, *, weight: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), weight)


def _keep(given: argparse.Namespace, model: FaceNet, average: FaceNet, optimizer: torch.optim.Optimizer, *,
          step: int, metrics: dict[str, Any]) -> None:  # fmt: skip
    print(json.dumps({"step": step, "validation": metrics}), flush=True)
    temporary = given.run_dir / ".last.pt"
    torch.save({"model": model.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(),
                "step": step}, temporary)  # fmt: skip
    atomic.rename(temporary, given.run_dir / "last.pt")
    weights = {name: value.contiguous() for name, value in average.state_dict().items()}
    own = {"step": step, "steps": given.steps, "batch": given.batch, "seed": given.seed, "validation": metrics,
           "strides": list(STRIDES), "teacher": given.teacher.name, "git": git_state()}  # fmt: skip
    save_weights(given.run_dir / "best", weights, own)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
