"""How far people agree on the 40 categories of EmoNet-Face, and which emotions the shipped model takes for neighbours.

    VEA_DATA=... python benchmarks/face_labels.py [--json FILE]

Agreement (emonet_face_binary: experts answer whether a face shows an emotion). Who reads the answers as votes is
misled: a second expert was asked where the first said yes, and hardly ever where the first said no, so that pairs of
two and three answers hold a yes by design and Krippendorff's alpha of them is negative. What can be read off is q, how
often a second expert confirms a first yes, beside p, how often a first expert says yes: kappa = (q - p) / (1 - p), for
exchangeable raters is the intraclass kappa of two answers (Bloch and Kraemer 1989); its 95 % interval is that of q. No
model is scored: the pictures are not here. What scores one must stand beside q, the human ceiling of a yes, and leave
categories whose interval holds kappa = .1 and less out of its headline.

Neighbours (DICE-Talk's check): cosines between the class weights of the FER+ head, centred over classes, and between
the mean features of test faces by their top vote, against how often taggers' votes fall on both classes of a face (the
correlation of vote shares over FER+'s test faces); Spearman over the 28 pairs, and its place among 2,000 permutations
of the classes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from intensity import faces_and_votes, read, spearman

from vea.errors import VeaError, command
from vea.metrics.agreement import krippendorff_alpha
from vea.tasks.saved import open_model

PERMUTATIONS, LOW = 2000, 0.1


def agreement(folder: Path) -> dict[str, Any]:
    """Returns how the answers run, alpha of all pairs as if they were votes, and p, q and kappa of every category."""
    answers: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "binary.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):  # in the order in which they were given
            emotion = "Helplessness" if row["emotion"] == "Hopelessness" else row["emotion"]
            answers[emotion][row["path"]].append(row["value"] == "True")
    runs = [values for pictures in answers.values() for values in pictures.values()]
    types = Counter(" ".join("yes" if value else "no" for value in values) for values in runs)
    ratings = np.full((3, len(runs)), np.nan)
    for column, values in enumerate(runs):
        ratings[: len(values), column] = values
    table: dict[str, Any] = {}
    for emotion, pictures in sorted(answers.items()):
        first = np.mean([values[0] for values in pictures.values()])
        second = [values[1] for values in pictures.values() if values[0] and len(values) > 1]
        q, reach = np.mean(second), 1.96 * np.std(second) / np.sqrt(len(second))
        kappa = [(value - first) / (1 - first) for value in (q, q - reach, q + reach)]
        table[emotion] = {
            "p": round(float(first), 3), "q": round(float(q), 3), "seconds": len(second),
            "kappa": [round(float(value), 3) for value in kappa],
        }  # fmt: skip
    return {
        "answers": dict(types.most_common()),
        "alpha_as_if_votes": round(krippendorff_alpha(ratings, level="nominal"), 3),
        "categories": table,
    }


def neighbours(name: str, data: Path) -> dict[str, Any]:
    """Returns Spearman's rho of weights and of means with the votes, and the share of permutations below it."""
    task = open_model(name).task
    images, shares = faces_and_votes(data / "fer2013plus", "test")
    found, _ = read(task, images)
    weights = task.heads.layers["votes"].weight.detach().double().numpy()
    top = shares.argmax(1)
    means = np.stack([found[top == k].mean(0).double().numpy() for k in range(shares.shape[1])])
    votes = np.corrcoef(shares.double().numpy().T)
    pairs = np.triu_indices(len(votes), 1)
    rng, answer = np.random.default_rng(0), {}
    for what, rows in (("weights", weights), ("means", means)):
        centred = rows - rows.mean(0)
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        alike = unit @ unit.T
        rho = spearman(alike[pairs], votes[pairs])
        orders = [rng.permutation(len(votes)) for _ in range(PERMUTATIONS)]
        below = np.mean([spearman(alike[np.ix_(order, order)][pairs], votes[pairs]) < rho for order in orders])
        answer[what] = {"rho": round(rho, 3), "above_permutations": round(float(below), 4)}
    return answer


@command
def main(argv: list[str]) -> None:
    """Prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=["expression", "expression-nano"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with emonet_face_binary/ and fer2013plus/")
    data = Path(os.environ["VEA_DATA"])
    torch.set_num_threads(1)
    record: dict[str, Any] = {"agreement": agreement(data / "emonet_face_binary")}
    print(record["agreement"]["answers"], "alpha as if votes", record["agreement"]["alpha_as_if_votes"])
    for emotion, row in sorted(record["agreement"]["categories"].items(), key=lambda item: -item[1]["kappa"][0]):
        flag = "" if row["kappa"][1] > LOW else "  (low: not for a headline)"
        print(f"{emotion:44} p {row['p']:.2f}  q {row['q']:.2f} of {row['seconds']:4}  kappa {row['kappa']}{flag}")
    for name in given.model:
        record[name] = neighbours(name, data)
        print(name, record[name], flush=True)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
