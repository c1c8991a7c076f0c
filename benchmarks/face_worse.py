"""Faces of news photographs made worse: how far the models that ship fall when a face is turned, blurred or small.

    VEA_DATA=... python benchmarks/face_worse.py [--model expression expression-nano] [--every 2] [--json FILE]

LFW's expressions (``lfw_expressions``: five classes, balanced; no part of vea is trained on or chosen by them), cropped
as ``predict`` crops, then: turned in the crop by 9 degrees a strength, to either side (``vea.metrics.corruptions``);
blurred by a Gaussian of 0.8 % of the side a strength; brought to fewer pixels and back to 48. Balanced accuracy of each
head; answers beside the five are wrong. ``predict`` turns leaning faces upright before the network sees them: what is
measured here is the network without that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from expression_peers import balanced, lfw_faces
from rich.console import Console
from rich.table import Table

from vea.errors import VeaError, command
from vea.metrics.corruptions import corrupt
from vea.storage.atomic import write_text
from vea.storage.provenance import git_state
from vea.tasks.saved import open_model

SIDES = (32, 24, 16, 12)  # pixels of a small face
STRENGTHS = (1, 3, 5)
Change = Callable[[np.ndarray, int], np.ndarray]  # grey face (48, 48) and its number to the same, worse


def small(side: int) -> Change:
    """Returns what a face of ``side`` pixels would be, enlarged again."""

    def change(face: np.ndarray, number: int) -> np.ndarray:
        return cv2.resize(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), face.shape[::-1])

    return change


def corrupted(kind: str, strength: int) -> Change:
    """Returns a corruption; to which side a face is turned depends on its number alone."""
    return lambda face, number: corrupt(face[..., None], kind=kind, strength=strength, seed=number)[..., 0]


CHANGES: dict[str, Change] = {
    "as it is": lambda face, number: face,
    **{f"turned by {9 * s} degrees": corrupted("rotation", s) for s in STRENGTHS},
    **{f"blurred, {0.384 * s:.1f} pixels": corrupted("blur", s) for s in STRENGTHS},
    **{f"{side} pixels": small(side) for side in SIDES},
}


@torch.inference_mode()
def measure(name: str, faces: list[tuple[np.ndarray, str]]) -> dict[str, dict[str, float]]:
    """Returns {change: {head: balanced accuracy in percent}} of one model."""
    task, truth = open_model(name).task, [label for _, label in faces]
    table = {}
    for change, make in CHANGES.items():
        images = np.stack([make(face, number) for number, (face, _) in enumerate(faces)])
        answers: dict[str, list[str]] = {}
        for part in torch.from_numpy(images)[:, None].split(256):
            for head, shares in task.answers(task.predict({"image": part})).items():
                classes = task.fields[head].classes
                answers.setdefault(head, []).extend(classes[int(k)] for k in shares.argmax(1))
        table[change] = {head: round(balanced(given, truth), 1) for head, given in answers.items()}
    return table


@command
def main(argv: list[str]) -> None:
    """Prints the table; writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["expression", "expression-nano"])
    parser.add_argument("--every", type=int, default=1, help="take only every so many-th face")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with lfw_expressions/")
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    faces = lfw_faces(Path(os.environ["VEA_DATA"]) / "lfw_expressions", None, every=given.every)
    found = {name: measure(name, faces) for name in given.model}
    heads = list(dict.fromkeys(head for table in found.values() for row in table.values() for head in row))
    columns = [(name, head) for name in found for head in heads]
    table = Table(f"{len(faces)} faces", *(f"{name}, {head}" for name, head in columns))
    for change in CHANGES:
        table.add_row(change, *(str(found[name][change].get(head, "-")) for name, head in columns))
    Console(width=120).print(table)
    if given.json:
        record: dict[str, Any] = {"git": git_state(), "faces": len(faces), "models": found}
        write_text(given.json, json.dumps(record, indent=1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
