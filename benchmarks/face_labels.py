"""How far people agree on the 40 categories of EmoNet-Face, and which emotions the shipped model takes for neighbours.

    VEA_DATA=... python benchmarks/face_labels.py [--json FILE]

Agreement (emonet_face_binary: experts answer whether a face shows an emotion): the share of pairs of picture and
emotion with two or three answers that are unanimous; Krippendorff's alpha (nominal) of each category, all pairs with
two answers and more; and the human ceiling, how often one expert gives the answer of the other two where those agree
(three answers). No model is scored: the pictures are not here. What scores one must stand beside that ceiling, and
leave categories of low alpha out of its headline.

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
from collections import defaultdict
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
    """Returns shares of unanimous pairs, alpha and ceiling by category."""
    answers: dict[str, dict[str, dict[str, bool]]] = defaultdict(lambda: defaultdict(dict))
    with (folder / "binary.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            emotion = "Helplessness" if row["emotion"] == "Hopelessness" else row["emotion"]
            answers[emotion][row["path"]][row["annotator"]] = row["value"] == "True"
    raters = sorted({name for pictures in answers.values() for votes in pictures.values() for name in votes})
    types = {"two: same": 0, "two: split": 0, "three: same": 0, "three: two to one": 0, "one": 0}
    table: dict[str, Any] = {}
    for emotion, pictures in sorted(answers.items()):
        ratings = np.full((len(raters), len(pictures)), np.nan)
        right = asked = 0
        for column, votes in enumerate(pictures.values()):
            values = list(votes.values())
            for name, value in votes.items():
                ratings[raters.index(name), column] = value
            if len(values) == 1:
                types["one"] += 1
            elif len(values) == 2:
                types["two: same" if values[0] == values[1] else "two: split"] += 1
            else:
                types["three: same" if len(set(values)) == 1 else "three: two to one"] += 1
                for k in range(3):
                    rest = values[:k] + values[k + 1 : 3]
                    if rest[0] == rest[1]:
                        asked, right = asked + 1, right + (values[k] == rest[0])
        table[emotion] = {
            "alpha": round(krippendorff_alpha(ratings, level="nominal"), 3),
            "pairs": int(((~np.isnan(ratings)).sum(0) >= 2).sum()),
            "yes": round(float(np.nanmean(ratings)), 3),
            "ceiling": round(right / asked, 3) if asked else None,
        }
    return {"raters": len(raters), "types": types, "categories": table}


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
    parser.add_argument("--model", nargs="+", default=["expression", "expression-nano"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with emonet_face_binary/ and fer2013plus/")
    data = Path(os.environ["VEA_DATA"])
    torch.set_num_threads(1)
    record: dict[str, Any] = {"agreement": agreement(data / "emonet_face_binary")}
    print(record["agreement"]["types"])
    for emotion, row in sorted(record["agreement"]["categories"].items(), key=lambda item: -item[1]["alpha"]):
        flag = "  (low: not for a headline)" if row["alpha"] < LOW else ""
        print(f"{emotion:32} alpha {row['alpha']:6.3f}  {row['pairs']:5} pairs  yes {row['yes']:.2f}  "
              f"ceiling {row['ceiling']}{flag}")  # fmt: skip
    for name in given.model:
        record[name] = neighbours(name, data)
        print(name, record[name], flush=True)
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
