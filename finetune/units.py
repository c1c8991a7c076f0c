"""Distil action units into a head on a trained recogniser of faces; the recogniser stays as it is.

    vea enrich landmarks data/fer2013plus --whole && vea enrich landmarks data/captions
    python finetune/units.py data/fer2013plus data/captions --model expression --out units.safetensors --test

What is imitated is ``vea.taxonomy.action_units.read_units`` of MediaPipe's blendshapes, which the sidecar holds; faces
that its network does not see (presence below .5) are left out. The head learns from the sets' training splits; the
validation split of the first set chooses the pass, and which units are kept (correlation ``--least`` and more). Its
test split is looked at with ``--test`` alone. ``vea.load`` finds the file beside a model's weights.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vea.data.shards.reader import ShardReader
from vea.data.shards.sidecars import Sidecar
from vea.data.views.decode import decode
from vea.data.views.views import Views
from vea.errors import VeaError, command
from vea.inference.readings import probe
from vea.models.units import UnitHead
from vea.storage import atomic
from vea.tasks.saved import SavedModel, open_model
from vea.taxonomy.action_units import UNITS, read_units

PRESENT, BATCH = 0.5, 256


def faces_of(root: Path, split: str, model: SavedModel) -> tuple[list[np.ndarray], np.ndarray, dict[str, Any]]:
    """Returns (crops as evaluation cuts them, targets (N, U), what the sidecar says of its teacher) of one split."""
    reader = ShardReader(str(root), split)
    sidecar = Sidecar(reader, "landmarks", made_by="landmarks")
    names = sidecar.meta["options"]["blendshapes"]
    views = Views(model.task.config.augment, seed=0, channels=model.task.config.model.channels, train=False)
    crops, targets = [], []
    for place in range(len(reader)):
        row = sidecar.row(place)
        kept = [k for k, presence in enumerate(row["presence"]) if presence >= PRESENT]
        image = decode(reader.read(place)[1]) if kept else None
        for k in kept:
            assert image is not None
            crops.append(views.face(image, tuple(row["boxes"][k])))
            targets.append(list(read_units(dict(zip(names, row["blendshapes"][k]))).values()))
    return crops, np.array(targets, np.float32).reshape(-1, len(UNITS)), sidecar.meta["model"]


@torch.inference_mode()
def features_of(model: SavedModel, crops: list[np.ndarray], *, fast: bool) -> Tensor:
    """Returns the pooled features (N, F); ``fast`` computes in bf16, which is good enough to learn from."""
    found = []
    for start in range(0, len(crops), BATCH):
        images = torch.from_numpy(np.stack(crops[start : start + BATCH])).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            found.append(model.task.features(model.task.normalise(images)).float())
    return torch.cat(found)


def prepared(root: Path, split: str, model: SavedModel, cache: Path | None) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Returns (features, targets, teacher) of a split; with ``cache`` they are kept, for this network alone."""
    known, file = probe(model.task), cache / f"{model.folder.name}-{root.name}-{split}.npz" if cache else None
    if file and file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            if np.allclose(kept["probe"], known.numpy(), atol=1e-4):
                teacher = json.loads(str(kept["teacher"]))
                return torch.from_numpy(kept["features"]), torch.from_numpy(kept["targets"]), teacher
    crops, targets, teacher = faces_of(root, split, model)
    if not crops:
        raise VeaError(f"{root}: the landmarks of split {split} hold no face")
    found = features_of(model, crops, fast=split == "train")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic.new_file(file) as partial, partial.open("wb") as stream:
            np.savez(stream, features=found.numpy(), targets=targets, probe=known.numpy(), teacher=json.dumps(teacher))
    return found, torch.from_numpy(targets), teacher


def agreement(found: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns (Pearson's r, R squared) of each column: R squared is 1 - sum of squared errors / that of the mean."""
    a, b = found.double().numpy(), targets.double().numpy()
    a0, b0 = a - a.mean(0), b - b.mean(0)
    scale = np.sqrt((a0**2).sum(0) * (b0**2).sum(0))
    return (a0 * b0).sum(0) / np.maximum(scale, 1e-12), 1 - ((a - b) ** 2).sum(0) / np.maximum((b0**2).sum(0), 1e-12)


def train(
    found: Tensor, targets: Tensor, held: tuple[Tensor, Tensor], *, passes: int, hidden: int, seed: int
) -> tuple[UnitHead, int]:
    """Returns the head of the pass with the best mean correlation on ``held``, and that pass.

    Each unit's squared error is divided by the unit's variance, so that rare ones count as much as smiles.
    """
    torch.manual_seed(seed)
    head = UnitHead(found.shape[1], tuple(UNITS), hidden=hidden)
    head.mean.copy_(found.mean(0))
    head.std.copy_(found.std(0).clamp(min=1e-3))
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.05)
    steps = passes * -(-len(found) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    variance = targets.var(0).clamp(min=1e-4)
    best, chosen, kept = -1.0, 0, head.state_dict()
    for number in range(1, passes + 1):
        for rows in torch.randperm(len(found)).split(BATCH):
            seen = torch.nn.functional.dropout(found[rows], 0.2)
            loss = ((head(seen) - targets[rows]) ** 2 / variance).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.inference_mode():
            score = float(agreement(head(held[0]), held[1])[0].mean())
        if score > best:
            best, chosen, kept = score, number, {name: value.clone() for name, value in head.state_dict().items()}
    head.load_state_dict(kept)
    return head.eval(), chosen


def narrowed(head: UnitHead, kept: list[int]) -> UnitHead:
    """Returns the head with the units of these places alone."""
    weights = head.state_dict()
    smaller = UnitHead(len(head.mean), tuple(head.units[k] for k in kept), hidden=head.hidden.out_features)
    weights |= {name: weights[name][kept] for name in ("out.weight", "out.bias")}
    smaller.load_state_dict(weights)
    return smaller.eval()


def table(head: UnitHead, found: Tensor, targets: Tensor) -> dict[str, list[float]]:
    """Returns {unit: [r, R squared]} over faces whose targets are of all ``UNITS``; prints it."""
    columns = [list(UNITS).index(name) for name in head.units]
    with torch.inference_mode():
        r, share = agreement(head(found), targets[:, columns])
    for name, a, b in zip(head.units, r, share):
        print(f"  {name:28} r {a:.2f}  R2 {b:.2f}")
    print(f"  {'mean':28} r {r.mean():.3f}  R2 {share.mean():.3f}", flush=True)
    return {name: [round(float(a), 3), round(float(b), 3)] for name, a, b in zip(head.units, r, share)}


@command
def main(argv: list[str]) -> None:
    """Fits, chooses, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, help="prepared sets with the sidecar landmarks")
    parser.add_argument("--model", default="expression", help="a recogniser of faces")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file")
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--least", type=float, default=0.5, help="correlation on validation from which a unit is kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="score the test split of the first set")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="keep features here, for another try")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = open_model(given.model)
    if not model.reads_faces:
        raise VeaError(f"{given.model} reads whole pictures; action units are of faces")
    parts = [prepared(root, "train", model, given.cache) for root in given.sets]
    found, targets = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    val = prepared(given.sets[0], "val", model, given.cache)
    head, chosen = train(found, targets, val[:2], passes=given.passes, hidden=given.hidden, seed=given.seed)
    r = agreement(head(val[0]).detach(), val[1])[0]
    kept = [k for k, value in enumerate(r) if value >= given.least]
    if not kept:
        raise VeaError(f"no unit has a correlation of {given.least} on the validation split")
    dropped = {name: round(float(value), 3) for name, value in zip(UNITS, r) if value < given.least}
    head = narrowed(head, kept)
    print(f"{len(found)} faces of training, {len(val[0])} of validation; pass {chosen} of {given.passes}; validation:")
    described: dict[str, Any] = {
        "teacher": parts[0][2],
        "faces": {"train": [len(part[0]) for part in parts], "val": len(val[0])},
        "pass": chosen,
        "seed": given.seed,
        "val": table(head, val[0], val[1]),
        "dropped": dropped,
        "probe": [round(value, 4) for value in probe(model.task).tolist()],
    }
    print(f"left out, below {given.least}: {dropped}")
    if given.test:
        test = prepared(given.sets[0], "test", model, given.cache)
        print(f"{len(test[0])} faces of test:")
        described["faces"]["test"] = len(test[0])
        described["test"] = table(head, test[0], test[1])
    head.described = described
    with atomic.new_file(given.out) as partial:
        head.write(partial)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
