"""Is the region that ``vea explain`` names one that the scene model's answer hangs on?

    VEA_DATA=DIR python benchmarks/scene_evidence.py --json docs/results/scene_evidence.json

Over OASIS's test split: the named region is found as ``vea explain`` finds it, by filling each cell of a grid with the
mean colour. That it moves the answer more than other cells under that filling is so by its choice and shows nothing.
So it is hidden in three other ways (blurred, filled with noise, its pixels shuffled), and compared with squares of the
same size at random places off the grid. Control: the same with a cell that was drawn in place of the named one, whose
difference should be about none.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.inference.evidence import cells, filled, find_region, moved
from vea.inference.scene import SceneReader, load_scene
from vea.metrics import bootstrap_interval

Box = tuple[int, int, int, int]
RANDOM = 3  # random squares a picture and way


def blurred(view: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    """Returns the view with the box blurred beyond recognition."""
    x0, y0, x1, y1 = box
    hidden = view.copy()
    hidden[y0:y1, x0:x1] = cv2.GaussianBlur(view, (0, 0), 16)[y0:y1, x0:x1]
    return hidden


def noisy(view: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    """Returns the view with the box full of noise."""
    x0, y0, x1, y1 = box
    hidden = view.copy()
    hidden[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3))
    return hidden


def shuffled(view: np.ndarray, box: Box, rng: np.random.Generator) -> np.ndarray:
    """Returns the view with the pixels of the box in another order: its colours stay, what it shows does not."""
    x0, y0, x1, y1 = box
    hidden = view.copy()
    hidden[y0:y1, x0:x1] = rng.permutation(view[y0:y1, x0:x1].reshape(-1, 3)).reshape(y1 - y0, x1 - x0, 3)
    return hidden


WAYS: dict[str, Callable[[np.ndarray, Box, np.random.Generator], np.ndarray]] = {
    "mean colour (as named)": lambda view, box, rng: filled(view, box),
    "blurred": blurred,
    "noise": noisy,
    "shuffled": shuffled,
}


def measure(reader: SceneReader, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, bool]:
    """Returns (moves (ways, 3) of the named cell, a drawn one and random squares; whether the named one stands out)."""
    view = reader.view(image)
    region = find_region(reader, view)
    boxes = cells(reader.size)
    named = boxes[region.place]
    drawn = boxes[rng.integers(len(boxes))]
    width, height = named[2] - named[0], named[3] - named[1]
    (answer,), rows = reader.values([view]), []
    for hide in WAYS.values():
        corners = [(int(rng.integers(reader.size - width + 1)), int(rng.integers(reader.size - height + 1)))
                   for _ in range(RANDOM)]  # fmt: skip
        squares = [named, drawn, *((x, y, x + width, y + height) for x, y in corners)]
        hidden = reader.values([hide(view, box, rng) for box in squares])
        moves = moved(hidden, answer, reader.sd)
        rows.append((moves[0], moves[1], moves[2:].mean()))
    return np.array(rows), region.stands_out


def summary(found: np.ndarray, there: np.ndarray) -> dict[str, dict]:
    """Returns {way: figures} of (N, ways, 3) and which pictures have a named region."""
    record = {}
    for number, way in enumerate(WAYS):
        named, drawn, random = found[:, number].T
        record[way] = {}
        for which, rows in (("all", np.ones(len(there), bool)), ("named", there)):
            difference, control = (named - random)[rows], (drawn - random)[rows]
            record[way][which] = {
                "named": float(named[rows].mean()),
                "random": float(random[rows].mean()),
                "difference": float(difference.mean()),
                "interval": bootstrap_interval(difference),
                "larger": float((difference > 0).mean()),
                "control": float(control.mean()),
                "control interval": bootstrap_interval(control),
            }
    return record


@command
def main(argv: list[str]) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="look at each n-th picture of the split only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    raw = os.environ.get("VEA_DATA")
    if not raw:
        raise VeaError("set VEA_DATA to the folder of the raw data: oasis/oasis.csv and its images are read")
    folder = Path(raw) / "oasis"
    with (folder / "oasis.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"][:: given.every]
    if not rows:
        raise VeaError(f"{folder / 'oasis.csv'} has no picture of the test split")
    reader, rng = load_scene(), np.random.default_rng(given.seed)
    found, there = [], []
    for number, row in enumerate(rows, start=1):
        moves, stands_out = measure(reader, read_image(folder / "images" / row["file"]), rng)
        found.append(moves)
        there.append(stands_out)
        if number % 20 == 0:
            print(f"{number} of {len(rows)}", file=sys.stderr)
    record = {
        "pictures": len(rows),
        "every": given.every,
        "seed": given.seed,
        "random squares": RANDOM,
        "with a named region": float(np.mean(there)),
        "ways": summary(np.array(found), np.array(there)),
    }
    print(f"{len(rows)} pictures; a region is named in {np.mean(there):.0%}. Moves in units of the model's error.")
    print("| way | pictures | named | random | difference (95 %) | larger in | drawn cell - random (95 %) |")
    print("|---|---|---|---|---|---|---|")
    for way, both in record["ways"].items():
        for which, row in both.items():
            ours, control = (
                f"{row[name]:+.3f} ({row[between][0]:+.3f} to {row[between][1]:+.3f})"
                for name, between in (("difference", "interval"), ("control", "control interval"))
            )
            means = f"{row['named']:.3f} | {row['random']:.3f}"
            print(f"| {way} | {which} | {means} | {ours} | {row['larger']:.0%} | {control} |")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
