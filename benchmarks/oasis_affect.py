"""Valence and arousal of OASIS photographs: what frozen encoders know beyond the mean and beyond plain colour.

    python benchmarks/oasis_affect.py --vea runs/faces --timm vit_small_patch14_dinov2=FILE.safetensors --json out.json

Ridge regression on the features of each encoder; validation chooses the penalty, the test split is scored once. The
random encoder (the network of --vea with fresh weights) is the mean over --seeds; nothing else here is random.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Table

from vea.config import ClassifierConfig
from vea.data.shards import ShardReader
from vea.data.transforms import decode
from vea.errors import VeaError, command
from vea.metrics import VALUE_STATISTICS, bootstrap_interval
from vea.models.weights import load_encoder
from vea.tasks.expression import STATISTICS, build_trunk
from vea.training.checkpoint import load_weights

TARGETS = ("valence", "arousal")
PENALTIES = 10.0 ** np.arange(-2, 6)
Encode = Callable[[torch.Tensor], torch.Tensor]


def read(path: str, *, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 images (N, size, size, 3) (whole pictures, squeezed) and ratings (N, 2)."""
    reader = ShardReader(path, split)
    images, ratings = [], []
    for index in range(len(reader)):
        _, image, metadata = reader.read(index)
        images.append(cv2.resize(decode(image), (size, size), interpolation=cv2.INTER_AREA))
        ratings.append([metadata["labels"][name] for name in TARGETS])
    return np.stack(images), np.array(ratings)


def colour(images: np.ndarray) -> np.ndarray:
    """Returns (N, 2) brightness and colorfulness (Hasler and Suesstrunk 2003) of (N, H, W, 3)."""
    r, g, b = np.moveaxis(images.reshape(len(images), -1, 3).astype(float), -1, 0)
    rg, yb = r - g, (r + g) / 2 - b
    colorful = np.hypot(rg.std(1), yb.std(1)) + 0.3 * np.hypot(rg.mean(1), yb.mean(1))
    return np.stack([images.reshape(len(images), -1).mean(1), colorful], 1)


@torch.inference_mode()
def features(images: np.ndarray, encoder: torch.nn.Module, *, size: int) -> np.ndarray:
    """Returns (N, D): mean patch token of a ViT, beside its class token where it has one."""
    encoder.eval()
    mean, std = (torch.tensor(row).view(1, 3, 1, 1) for row in STATISTICS[3])
    rows = []
    for start in range(0, len(images), 32):
        part = [cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA) for image in images[start : start + 32]]
        x = torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 255
        tokens = encoder.forward_features((x - mean) / std)  # type: ignore[operator]
        prefix = encoder.num_prefix_tokens
        rows.append(torch.cat([tokens[:, 0], tokens[:, prefix:].mean(1)], 1))  # type: ignore[misc]
    return torch.cat(rows).numpy()


def ridge(train: tuple, val: tuple, test: tuple) -> np.ndarray:
    """Returns (N, 2) test predictions; each target's penalty is the one with the best CCC on validation."""
    mean, deviation = train[0].mean(0), train[0].std(0) + 1e-6
    x, x_val, x_test = ((part[0] - mean) / deviation for part in (train, val, test))
    left, s, right = np.linalg.svd(x, full_matrices=False)
    predictions = []
    for column in range(len(TARGETS)):
        y = train[1][:, column]
        projected = left.T @ (y - y.mean())
        weights = [right.T @ (s / (s**2 + penalty) * projected) for penalty in PENALTIES]
        pairs = np.stack([np.stack([x_val @ w + y.mean(), val[1][:, column]], 1) for w in weights])
        best = int(VALUE_STATISTICS["ccc"](pairs).argmax())
        predictions.append(x_test @ weights[best] + y.mean())
    return np.stack(predictions, 1)


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/oasis")
    parser.add_argument("--vea", help="pretraining run whose encoder is a ViT")
    parser.add_argument("--timm", help="NAME=FILE: a timm ViT and its weights")
    parser.add_argument("--size", type=int, default=224, help="image side for --timm, a multiple of its patch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    sets = {split: read(arguments.data, split=split, size=arguments.size) for split in ("train", "val", "test")}
    truth = sets["test"][1]

    def score(make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return ridge(*((make(images), ratings) for images, ratings in sets.values()))

    arms: dict[str, list[np.ndarray]] = {
        "mean of the training set": [np.broadcast_to(sets["train"][1].mean(0), truth.shape)],
        "brightness and colorfulness": [score(colour)],
    }
    if arguments.vea:
        weights, state = load_weights(arguments.vea)
        saved = state["config"]
        size = saved["augment"]["image_size"]
        model = ClassifierConfig.model_validate({"encoder": {**saved["model"]["encoder"], "pretrained": None}})
        random = []
        for seed in arguments.seeds:
            torch.manual_seed(seed)
            encoder = build_trunk(model, image_size=size)
            random.append(score(lambda images, e=encoder: features(images, e, size=size)))
        arms[f"random encoder of {Path(arguments.vea).name}"] = random
        load_encoder(encoder, weights, where=str(arguments.vea))
        arms[f"frozen {Path(arguments.vea).name}"] = [score(lambda images: features(images, encoder, size=size))]
    if arguments.timm:
        name, equals, file = arguments.timm.partition("=")
        if not equals or not Path(file).is_file():
            raise VeaError(f"--timm {arguments.timm}: give NAME=FILE, a timm model and a weight file that is there")
        pretrained = {"pretrained_cfg_overlay": {"file": file}, "dynamic_img_size": True, "num_classes": 0}
        vit = timm.create_model(name, pretrained=True, **pretrained)
        arms[f"frozen {name}"] = [score(lambda images: features(images, vit, size=arguments.size))]

    table = Table(title=f"{arguments.data}, test split, {len(truth)} pictures; CCC with 95 % bootstrap interval")
    for column in ("", *(f"{name} {metric}" for name in TARGETS for metric in VALUE_STATISTICS)):
        table.add_column(column)
    record: dict[str, dict] = {}
    for arm, runs in arms.items():
        cells, record[arm] = [], {}
        for column, target in enumerate(TARGETS):
            pairs = np.stack([np.stack([run[:, column], truth[:, column]], 1) for run in runs])
            values = {name: formula(pairs).tolist() for name, formula in VALUE_STATISTICS.items()}
            low, high = bootstrap_interval(pairs[0], VALUE_STATISTICS["ccc"])
            record[arm][target] = {**values, "ccc_interval": [low, high]}
            spread = (
                f" ± {np.std(values['ccc'], ddof=1):.3f} over seeds" if len(runs) > 1 else f" ({low:.2f}-{high:.2f})"
            )
            cells += [f"{np.mean(values[name]):.3f}{spread if name == 'ccc' else ''}" for name in VALUE_STATISTICS]
        table.add_row(arm, *cells)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    sys.exit(main())
