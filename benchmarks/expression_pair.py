"""How shares were chosen: expression models together, on FER2013's validation split alone.

    VEA_DATA=... python benchmarks/expression_pair.py [--models expression expression-nano RUN ...]

Accuracy in percent of each model and of their mean, of probabilities and of logits, in equal shares, and of the logits
of the first two in other shares; FER+ majority: faces with more than half of the votes on one emotion. In brackets:
gain over the first model and its standard error over faces. ``log loss``: of both labels, summed; the share that ships
has the least. ``mirrored``: the face and its mirror image. The test split is not read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from expression_peers import fer_faces
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import nll_loss

from vea.errors import VeaError, command
from vea.storage.atomic import write_text
from vea.tasks.saved import open_model

HEADS = {"expression": "FER2013", "votes": "FER+ majority"}
SHARES = (1.0, 1.5, 2.0, 3.0, 5.0)  # of the first model, to one of the second
Answers = dict[str, Tensor]  # head: log probabilities (N, C)


@torch.inference_mode()
def answers(name: str, images: Tensor) -> Answers:
    """Returns what a model says of grey faces (N, 1, 48, 48)."""
    task = open_model(name).task
    told = [task.predict({"image": part}) for part in images.split(256)]
    return {head: torch.cat([one[head] for one in told]).float().log_softmax(1) for head in HEADS}


def mean(told: list[Answers], shares: list[float], *, of: str) -> Answers:
    """Returns the mean of probabilities or of logits, as log probabilities."""
    parts = torch.tensor(shares) / sum(shares)
    joined = {}
    for head in HEADS:
        rows = torch.stack([one[head] for one in told])
        if of == "probabilities":
            joined[head] = (rows + parts.log()[:, None, None]).logsumexp(0)
        else:
            joined[head] = (rows * parts[:, None, None]).sum(0).log_softmax(1)
    return joined


def figures(told: Answers, first: Answers, truth: dict[str, Tensor]) -> dict[str, float]:
    """Returns accuracies and gains over ``first`` in percent, and the summed log loss; ``truth``: -1 if unknown."""
    found = {"log loss": 0.0}
    for head, name in HEADS.items():
        known = truth[head] >= 0
        labels = truth[head][known]
        found["log loss"] += float(nll_loss(told[head][known], labels))
        right, before = (one[head][known].argmax(1) == labels for one in (told, first))
        gain = right.double() - before.double()
        found |= {name: 100 * float(right.double().mean()), f"{name}, gain": 100 * float(gain.mean()),
                  f"{name}, error": 100 * float(gain.std() / len(gain) ** 0.5)}  # fmt: skip
    return found


@command
def main(argv: list[str]) -> None:
    """Prints the table; writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["expression", "expression-nano"])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if "VEA_DATA" not in os.environ:
        raise VeaError("set VEA_DATA to the folder that holds fer2013plus/")
    faces = fer_faces(Path(os.environ["VEA_DATA"]) / "fer2013plus", split="val")
    images = torch.from_numpy(np.stack([face for face, _, _ in faces]))[:, None]
    plain, mirrored = ([answers(name, side) for name in given.models] for side in (images, images.flip(3)))
    fields = open_model(given.models[0]).task.fields
    truth = {head: torch.tensor([fields[head].classes.index(face[k]) if face[k] else -1 for face in faces])
             for k, head in ((1, "expression"), (2, "votes"))}  # fmt: skip
    equal = [1.0] * len(plain)
    rows = dict(zip(given.models, plain))
    rows |= {f"equal shares of {of}": mean(plain, equal, of=of) for of in ("probabilities", "logits")}
    for share in SHARES if len(plain) > 1 else ():
        rows[f"{share:g} to 1 of logits, the first two"] = mean(plain[:2], [share, 1.0], of="logits")
    both = mean(plain + mirrored, 2 * equal, of="probabilities")
    rows |= {f"{given.models[0]}, mirrored": mean([plain[0], mirrored[0]], [1.0, 1.0], of="probabilities"),
             "equal shares, mirrored": both}  # fmt: skip
    found = {name: figures(told, plain[0], truth) for name, told in rows.items()}
    table = Table("", *HEADS.values(), "log loss", title=f"{len(faces)} faces of validation")
    for name, row in found.items():
        cells = [f"{row[head]:.1f} ({row[f'{head}, gain']:+.2f} ± {row[f'{head}, error']:.2f})"
                 for head in HEADS.values()]  # fmt: skip
        table.add_row(name, *cells, f"{row['log loss']:.4f}")
    Console(width=120).print(table)
    if given.json:
        write_text(given.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
