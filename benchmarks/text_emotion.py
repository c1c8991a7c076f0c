"""Train and judge the reader of texts that ships: a linear map from MiniLM's features to GoEmotions' 28 classes.

    VEA_DATA=RAW python benchmarks/text_emotion.py --keep runs/text --out runs/text/reader --json text.json

Official splits. Rate, epochs and decay are chosen on the development split, as is each class's threshold; what a
threshold is worth there is estimated by halves (chosen on one, scored on the other). The test split is scored once, by
the first seed. Beside it, from the same split: TF-IDF and logistic regression with thresholds chosen alike (the form of
vea's EA judge), and naming the classes by their frequency.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vea import __version__
from vea.errors import VeaError, command
from vea.inference.text import encoder, features
from vea.storage import atomic
from vea.storage.checkpoint import save_weights

PARTS = ("train", "dev", "test")
TRIED = [(rate, epochs, decay) for rate in (1e-3, 3e-3) for epochs in (4, 8) for decay in (1e-4, 0.1)]
BATCH, DRAWS = 256, 1000


def read(root: Path, part: str) -> tuple[list[str], np.ndarray]:
    """Returns (texts, labels (N, 28) of 0 and 1)."""
    names = (root / "labels.txt").read_text(encoding="utf-8").split()
    rows = [line.split("\t") for line in (root / f"{part}.tsv").read_text(encoding="utf-8").splitlines()]
    labels = np.zeros((len(rows), len(names)), np.float32)
    for place, row in enumerate(rows):
        labels[place, [int(label) for label in row[1].split(",")]] = 1
    return [row[0] for row in rows], labels


def kept_features(keep: Path, part: str, texts: list[str]) -> Tensor:
    """Returns the features of a split, computed once (about ten minutes of one core for the training split)."""
    file = keep / f"{part}.npy"
    if not file.is_file():
        tower, rows = encoder(), []
        for start in range(0, len(texts), 2048):
            rows.append(features(*tower, texts[start : start + 2048]).half().numpy())
            print(f"{part}: {min(start + 2048, len(texts))} of {len(texts)} texts", flush=True)
        keep.mkdir(parents=True, exist_ok=True)
        with atomic.new_file(file) as partial, partial.open("wb") as stream:
            np.save(stream, np.concatenate(rows))
    return torch.from_numpy(np.load(file)).float()


def f1(truth: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Returns (C,) F1 of each class; a class that nobody has and nobody names has 0."""
    return 2 * (truth * named).sum(0) / np.maximum(truth.sum(0) + named.sum(0), 1)


def thresholds(shares: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns (C,) the share of each class from which naming it has the best F1."""
    found = []
    for share, true in zip(shares.T, truth.T):
        order = np.argsort(-share, kind="stable")
        score = 2 * np.cumsum(true[order]) / (np.arange(1, len(order) + 1) + true.sum())
        found.append(share[order[int(score.argmax())]])
    return np.array(found, np.float32)


def by_halves(shares: np.ndarray, truth: np.ndarray) -> float:
    """Returns macro F1 with thresholds of the other half."""
    even = np.arange(len(truth)) % 2 == 0
    return float(np.mean([f1(truth[b], shares[b] >= thresholds(shares[a], truth[a])).mean()
                          for a, b in ((even, ~even), (~even, even))]))  # fmt: skip


def fitted(x: Tensor, y: Tensor, *, rate: float, epochs: int, decay: float, seed: int) -> tuple[Tensor, Tensor]:
    """Returns (weight (C, F), bias (C,)) of features as they are: binary cross-entropy, AdamW, cosine, standardised."""
    torch.manual_seed(seed)
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    layer = torch.nn.Linear(x.shape[1], y.shape[1])
    torch.nn.init.constant_(layer.bias, -3.0)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=rate, weight_decay=decay)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for part in torch.randperm(len(x))[: steps // epochs * BATCH].view(-1, BATCH):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(layer((x[part] - mean) / deviation), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        weight = layer.weight / deviation
        return weight, layer.bias - weight @ mean


def shares_of(x: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    """Returns (N, C)."""
    return torch.sigmoid(x @ weight.T + bias).detach().numpy()


def scores(truth: np.ndarray, named: np.ndarray) -> dict[str, Any]:
    """Returns macro and micro F1 with 95 % intervals of the macro one, texts drawn with replacement."""
    rng, rows = np.random.default_rng(0), np.arange(len(truth))
    drawn = [f1(truth[i], named[i]).mean() for i in (rng.choice(rows, len(rows)) for _ in range(DRAWS))]
    micro = 2 * (truth * named).sum() / (truth.sum() + named.sum())
    return {"macro_f1": float(f1(truth, named).mean()), "interval": np.percentile(drawn, [2.5, 97.5]).tolist(),
            "micro_f1": float(micro)}  # fmt: skip


def tf_idf(texts: dict[str, list[str]], labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the shares of words and pairs of words with logistic regression, a class at a time."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", min_df=2)
    train = words.fit_transform(texts["train"])
    models = [LogisticRegression(C=10.0, max_iter=300).fit(train, column) for column in labels["train"].T]
    return {part: np.stack([model.predict_proba(words.transform(texts[part]))[:, 1] for model in models], 1)
            for part in ("dev", "test")}  # fmt: skip


@command
def main(argv: list[str]) -> None:
    """Trains, judges and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, default=Path("runs/text"), help="features are kept here")
    parser.add_argument("--out", type=Path, help="write the reader here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not os.environ.get("VEA_DATA"):
        raise VeaError("set VEA_DATA to the folder of the raw data, which has goemotions/")
    root = Path(os.environ["VEA_DATA"]) / "goemotions"
    texts, labels = map(dict, zip(*(((part, one[0]), (part, one[1])) for part, one in
                                    ((part, read(root, part)) for part in PARTS))))  # fmt: skip
    x = {part: kept_features(given.keep, part, texts[part]) for part in PARTS}
    y = torch.from_numpy(labels["train"])
    tried = []
    for rate, epochs, decay in TRIED:
        fit = fitted(x["train"], y, rate=rate, epochs=epochs, decay=decay, seed=given.seeds[0])
        tried.append((by_halves(shares_of(x["dev"], *fit), labels["dev"]), rate, epochs, decay))
        print(f"rate {rate}, {epochs} epochs, decay {decay}: dev macro F1 by halves {tried[-1][0]:.4f}", flush=True)
    _, rate, epochs, decay = max(tried)
    dev, rows = [], {}
    for seed in given.seeds:
        weight, bias = fitted(x["train"], y, rate=rate, epochs=epochs, decay=decay, seed=seed)
        shares = shares_of(x["dev"], weight, bias)
        dev.append(by_halves(shares, labels["dev"]))
        if seed == given.seeds[0]:
            least = thresholds(shares, labels["dev"])
            named = shares_of(x["test"], weight, bias) >= least
            rows["ours"] = scores(labels["test"], named)
            weights = {"weight": weight.detach(), "bias": bias.detach(), "threshold": torch.from_numpy(least)}
    words = tf_idf(texts, labels)
    rows["tf-idf"] = scores(labels["test"], words["test"] >= thresholds(words["dev"], labels["dev"]))
    chance = np.random.default_rng(0).random(labels["test"].shape) < labels["train"].mean(0)
    rows["by frequency"] = scores(labels["test"], chance)
    names = (root / "labels.txt").read_text(encoding="utf-8").split()
    record = {"chosen": {"rate": rate, "epochs": epochs, "decay": decay}, "dev_by_halves": dev, "test": rows,
              "f1": dict(zip(names, map(float, f1(labels["test"], named))))}  # fmt: skip
    print(json.dumps(record, indent=1))
    if given.out:
        save_weights(given.out, weights, {"classes": names, "data": "goemotions", **record["chosen"],
                                          "seed": given.seeds[0], "versions": {"vea": __version__}})  # fmt: skip
        atomic.write_text(given.out / "evaluation_test.json", json.dumps(record, indent=1) + "\n")
    if given.json:
        atomic.write_text(given.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
