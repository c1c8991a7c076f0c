"""What two switches bring to a recogniser of faces: labels calibrated by teachers, and a bank of prototypes.

    python benchmarks/face_switches.py --faces data/fer2013plus --json face_switches.json

Every arm is ``configs/finetune/expression_nano.yaml`` for ``--steps`` steps without imitation, same data and seeds:

labels      official labels and FER+ votes
calibrated  a label that the mean answer of ``--teachers`` disagrees with becomes that answer (SynFER, 2410.09865);
            they saw these labels in their own training, so what they bring is not the calibration's alone
bank        48 prototypes between features and heads (DICE-Talk)

Judged on the validation split alone; the test split is not read. Of the bank: perplexity; how many bits of the label
its codes hold, beside those of k-means with as many centres on the same features (fitted on the judged faces
themselves, which is generous to k-means); and neighbours, Spearman's rho between which emotions prototypes treat alike
and which ones taggers take for one another. Neighbours of the votes head's class weights stand beside it, for all arms.
What is complete is not repeated.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from recipes import evaluated, spread, summary
from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.data.loading.loader import eval_loader
from vea.errors import command
from vea.losses.classification import soft_targets
from vea.metrics.codes import information, neighbours
from vea.storage.atomic import write_text
from vea.storage.provenance import git_state
from vea.tasks.saved import open_model

CONFIG = "configs/finetune/expression_nano.yaml"
ARMS: dict[str, list[str]] = {
    "labels": ["distill.models=[]"],
    "calibrated": ["distill.weight=0", "distill.calibrate=true"],
    "bank": ["distill.models=[]", "model.bank={codes: 48}"],
}
ACCURACIES = ("expression", "votes")


@torch.inference_mode()
def structure(run: Path, *, centres: int | None) -> dict[str, float]:
    """Returns ``weights``, the neighbours of the votes head, and bits of a k-means with ``centres`` centres."""
    from sklearn.cluster import KMeans

    task = open_model(run).task
    found, shares, classes = [], [], []
    config = load_config(run / "config.yaml")
    for batch in eval_loader(config, task.item_spec(), refs=config.data.val, batch_size=256, rank=0, world_size=1):
        keep = batch["valid"].bool()
        found.append(task.features(task.normalise(batch["image"]))[keep])
        shares.append(soft_targets(batch["labels"]["votes"], field=task.fields["votes"])[keep])
        classes.append(batch["labels"]["expression"][keep])
    votes, labels = torch.cat(shares), torch.cat(classes)
    weight = task.heads.layers["votes"].weight.detach()
    told = {"weights": neighbours(weight.T, votes[votes.sum(1) > 0])}
    if centres:
        codes = KMeans(centres, n_init=1, random_state=0).fit_predict(torch.cat(found).numpy())
        told["kmeans"] = information(torch.from_numpy(codes).long()[labels >= 0], labels[labels >= 0])
    return told


def measure(arm: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Returns what one run has on validation faces, in shares, bits and rho."""
    folder = given.out / f"{arm}-s{seed}"
    steps = [f"train.steps={given.steps}", f"train.warmup_steps={given.steps // 10}", "train.ema_decay=null",
             f"train.eval_every={given.steps}", f"train.checkpoint_every={given.steps}"]  # fmt: skip
    data = [f"data.{part}.0.path={given.faces}" for part in ("train", "val")]
    own = ["name=face-switches", f"seed={seed}", "runtime.threads=1", "tracking.backend=none"]
    teachers = [f"distill.models=[{', '.join(given.teachers)}]"] if arm == "calibrated" else []
    words = [CONFIG, *own, *steps, *data, *teachers, *ARMS[arm], *given.overrides]
    record = evaluated(folder, "finetune/train.py", *words, split="val")
    row = {f"{name}": record["targets"][name]["metrics"]["accuracy"] for name in ACCURACIES}
    row |= {f"{name} nll": record["targets"][name]["metrics"]["nll"] for name in ACCURACIES}
    row |= {f"bank {name}": value for name, value in record.get("bank", {}).items()}
    bank = load_config(folder / "config.yaml").model.bank
    return row | structure(folder, centres=bank.codes if bank else None)


def shown(rows: list[dict[str, float]], name: str) -> str:
    """Returns a cell: accuracies in percent, others as they are."""
    values = [row[name] for row in rows if name in row]
    if name in ACCURACIES or not values:
        return spread(values)
    mean, deviation = summary(values)
    return f"{mean:.2f} ± {deviation:.2f}"


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", default="data/fer2013plus")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--teachers", nargs="+", default=["expression-nano"], help="of the calibrated arm")
    parser.add_argument("--out", type=Path, default=Path("runs/face-switches"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="a.b=c", help="for every run")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in given.arms}
    for seed in given.seeds:  # seed by seed: a table that was stopped is whole for the seeds it has
        for arm in given.arms:
            results[arm].append(measure(arm, seed, given))
            print(arm, seed, json.dumps(results[arm][-1]), flush=True)
    columns = list(dict.fromkeys(name for rows in results.values() for row in rows for name in row))
    table = Table("", *results, title=f"{given.steps} steps, seeds {given.seeds}: validation, mean ± sd")
    for name in columns:
        table.add_row(name, *(shown(rows, name) for rows in results.values()))
    Console(width=120).print(table)
    if given.json:
        record: dict[str, Any] = {"git": git_state(), "steps": given.steps, "seeds": given.seeds, "results": results}
        write_text(given.json, json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main())
