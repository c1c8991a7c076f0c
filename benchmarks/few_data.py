"""Evaluation where data are few: splits that are repeated and stratified, ensembles by member, other domains.

    python datasets/prepare.py oasis --out data/oasis
    VEA_DATA=RAW python benchmarks/few_data.py --data data/oasis --json few_data.json

Ridge regression on what the scene model that ships gives its heads, on OASIS. Ten times a fifth of the photographs is
held out, themes never cross: at random, and stratified, so that the five quantile bins of the label are held out in
equal shares (as WASSA's systems, arXiv 2407.18496, for values; here by whole themes). An ensemble is the mean of
members that are calibrated each; what a member brings is the ensemble with it less the one without, on the same splits.
Other domains, by the model as it ships: BASS (silhouettes) and emoji (two designs of the same 118, valence by people).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from recipes import spread
from scene_model import NORMS, correlation, fit, groups_of, read, read_bass, words_of

from vea.errors import VeaError, command
from vea.inference.scene import SceneReader, load_scene
from vea.metrics import concordance
from vea.storage.atomic import write_text
from vea.tasks.saved import open_model

BINS, SHARE, REPEATS, FOLDS, PENALTIES = 5, 0.2, 10, 5, (0.1, 0.3, 1.0, 3.0)
Rows = np.ndarray


def random_groups(groups: Rows, seed: int) -> Rows:
    """Returns bool (N,): a fifth of the groups, drawn."""
    names = np.unique(groups)
    chosen = np.random.default_rng(seed).permutation(names)[: round(SHARE * len(names))]
    return np.isin(groups, chosen)


def stratified_groups(y: Rows, groups: Rows, seed: int) -> Rows:
    """Returns bool (N,): groups, in drawn order, each taken if it brings the held-out counts of the label's quantile
    bins nearer to a fifth of each bin (sum of absolute differences)."""
    bins = np.digitize(y, np.quantile(y, np.linspace(0, 1, BINS + 1)[1:-1]))
    wanted = SHARE * np.bincount(bins, minlength=BINS)
    held, chosen = np.zeros(BINS), []
    for name in np.random.default_rng(seed).permutation(np.unique(groups)):
        more = held + np.bincount(bins[groups == name], minlength=BINS)
        if np.abs(more - wanted).sum() < np.abs(held - wanted).sum():
            held = more
            chosen.append(name)
    return np.isin(groups, chosen)


def ccc(predicted: Rows, y: Rows) -> float:
    """Returns the concordance of two series."""
    return float(concordance(np.stack([predicted, y], 1)[None])[0])


def by_member(members: dict[str, Rows], y: Rows, groups: Rows, held: Rows) -> dict[str, Rows]:
    """Returns each member's calibrated predictions of the rows that are held out."""
    found = {}
    for name, x in members.items():
        weights, bias, _ = fit(x[~held], y[~held], groups[~held], folds=FOLDS, penalties=PENALTIES)
        found[name] = x[held] @ weights + bias
    return found


def emoji(raw: Path, reader: SceneReader) -> dict[str, float]:
    """Returns Pearson's r of the predicted valence with people's polarity (-5 to 5), by design."""
    lines = (raw / "emoji_affect" / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rated = [row for row in map(json.loads, lines) if row["valence_polarity"] is not None]
    found = {}
    for design in ("twitter", "google"):
        views, polarity = [], []
        for row in rated:
            if design not in row["images"]:
                continue
            pixels = cv2.imread(str(raw / "emoji_affect" / row["images"][design]), cv2.IMREAD_UNCHANGED)
            alpha = pixels[..., 3:].astype(np.float32) / 255
            on_white = (pixels[..., 2::-1] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
            views.append(reader.view(on_white))
            polarity.append(row["valence_polarity"])
        found[design] = correlation(reader.values(views)[:, 0], np.array(polarity, float))
        found[f"{design}, emoji"] = len(views)
    return found


@command
def main(argv: list[str]) -> None:
    """Reads, fits and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/oasis"))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not os.environ.get("VEA_DATA"):
        raise VeaError("set VEA_DATA to the folder of the raw data: oasis/oasis.csv there names the theme groups")
    raw, task = Path(os.environ["VEA_DATA"]), open_model("scene").task
    parts = [read(given.data, split, task) for split in ("train", "val", "test")]
    rows = [row for part in parts for row in part[0]]
    x, colours = (np.concatenate([part[k] for part in parts]) for k in (1, 2))
    groups, words = groups_of(rows, raw), words_of(rows)
    head = x.shape[1] - 1280
    members = {"stages five and six": x[:, :head], "the head's 1,280": x[:, head:], "colours": colours, "words": words}
    pictures = [name for name in members if name != "words"]  # a photograph alone has no caption
    record: dict = {"pictures": len(rows), "themes": len(np.unique(groups)), "repeats": given.repeats, "targets": {}}
    for target in NORMS:
        y = np.array([row["labels"][target] for row in rows], np.float64)
        found: dict[str, list[float]] = {}

        def keep(name: str, value: float, found: dict[str, list[float]] = found) -> None:
            found.setdefault(name, []).append(value)

        for seed in range(given.repeats):
            for how in ("random", "stratified"):
                held = random_groups(groups, seed) if how == "random" else stratified_groups(y, groups, seed)
                answers = by_member({"ships": x}, y, groups, held)
                keep(f"{how}: CCC of the features that ship, one ridge", ccc(answers["ships"], y[held]))
                keep(f"{how}: share held out", float(held.mean()))
                keep(f"{how}: |mean held out - mean|, points / 100", abs(float(y[held].mean() - y.mean())) / 100)
                if how == "random":
                    continue
                answers = by_member(members, y, groups, held)
                for name, row in answers.items():
                    keep(f"alone: {name}", ccc(row, y[held]))
                for title, several in (("ensemble", pictures), ("with words", list(members))):
                    whole = ccc(np.mean([answers[name] for name in several], 0), y[held])
                    keep(f"{title}: mean of {len(several)}", whole)
                    for name in several:
                        others = np.mean([answers[other] for other in several if other != name], 0)
                        keep(f"{title}: what {name} brings", whole - ccc(others, y[held]))
        record["targets"][target] = found
        print(f"\n{target}, x 100, mean ± deviation over {given.repeats} splits")
        for name, values in found.items():
            print(f"| {name} | {spread(values)} |")
    reader = load_scene()
    features, norms = read_bass(raw, task)
    with torch.no_grad():
        answers = task.heads(torch.from_numpy(features).float())
    record["BASS, pearson"] = {name: correlation(answers[name][:, 0].numpy(), norms[name]) for name in NORMS}
    record["emoji, pearson of valence"] = emoji(raw, reader)
    print(json.dumps({name: record[name] for name in ("BASS, pearson", "emoji, pearson of valence")}, indent=1))
    if given.json:
        write_text(given.json, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
