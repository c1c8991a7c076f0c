"""How strong an emotion is in a face, and its valence and arousal, beside what people say.

    VEA_DATA=... python benchmarks/intensity.py [--model RUN] [--out FILE] [--split test] [--json FILE]

The directions of ``vea.inference.intensity`` are fitted on FER+'s training faces (``--out`` keeps them). On held-out
faces each emotion's value is ranked against the share of the taggers who chose it (Spearman), over all faces and over
those whose most frequent vote is that emotion or neutral; beside it the softmax probability of either head and 100
random directions. Then the mean neutral face walks along each direction: does the votes head answer more of it?

Valence is judged on emoji (``emoji_affect``: two designs, the whole picture as a face) against the polarity that people
gave them. The table that turns shares into valence and arousal is judged without any picture on ``news_face_series``:
py-feat's expressions through the table, against py-feat's own valence and arousal.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.sources.fer2013plus import Fer2013Plus
from vea.data.views.pictures import read_image
from vea.errors import VeaError, command
from vea.faces.align import crop_square
from vea.inference.intensity import Intensity, affect
from vea.inference.readings import probe
from vea.losses.classification import soft_targets
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model
from vea.taxonomy.words import map_expressions

CARDS = Path(__file__).resolve().parents[1] / "datasets" / "cards"
BATCH, RANDOM, STEPS = 256, 100, (0.0, 0.5, 1.0, 1.5, 2.0)
FACES = {
    *range(0x1F600, 0x1F638),
    *range(0x1F641, 0x1F645),
    *range(0x1F910, 0x1F918),
    *range(0x1F920, 0x1F930),
}  # emoji
PY_FEAT = ("Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Anger")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rank correlation of two rows."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def faces_and_votes(root: Path, split: str) -> tuple[Tensor, Tensor]:
    """Returns uint8 faces (N, 1, 48, 48) and the vote shares (N, 8) of those that have votes."""
    card = find_card("fer2013plus", CARDS)
    images, votes = [], []
    for sample in Fer2013Plus(card).samples(root, split):
        if isinstance(sample, Sample) and sample.labels.get("votes") is not None:
            images.append(cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_GRAYSCALE))
            votes.append(sample.labels["votes"])
    shares = soft_targets(torch.tensor(votes), field=card.label_fields["votes"])
    kept = shares.sum(1) > 0
    return torch.from_numpy(np.stack(images))[:, None][kept], shares[kept]


@torch.inference_mode()
def read(task: RecogniseTask, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns (features (N, F), {head: probabilities})."""
    found, answers = [], []
    for part in images.split(BATCH):
        found.append(task.features(task.normalise(part)).float())
        answers.append(task.answers(task.heads(found[-1])))
    return torch.cat(found), {name: torch.cat([row[name] for row in answers]) for name in answers[0]}


def judge(values: np.ndarray, shares: np.ndarray, near: np.ndarray) -> tuple[float, float]:
    """Returns Spearman's rho over all faces, and over those near the emotion."""
    return spearman(values, shares), spearman(values[near], shares[near])


def walk(task: RecogniseTask, intensity: Intensity, row: int, column: int) -> list[float]:
    """Returns the votes head's probability of an emotion as the mean neutral face moves along its direction."""
    length = intensity.high[row]
    steps = [intensity.neutral + step * length * intensity.directions[row, 0] for step in STEPS]
    return task.answers(task.heads(torch.stack(steps)))["votes"][:, column].tolist()


def of_emoji(task: RecogniseTask, root: Path) -> dict[str, Any]:
    """Returns rho of valence with people's polarity over the emoji that show a face."""
    rows = [json.loads(line) for line in (root / "index.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["valence_polarity"] is not None and int(row["codepoints"][:5], 16) in FACES]
    found = {}
    for design in ("twitter", "google"):
        pictures = [read_image(root / row["images"][design]) for row in rows]
        crops = [crop_square(image, (0, 0, image.shape[1], image.shape[0]), size=48) for image in pictures]
        _, answers = read(task, torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
        valence = affect(answers["votes"], classes=task.fields["votes"].classes)[:, 0].numpy()
        found[design] = round(spearman(valence, np.array([row["valence_polarity"] for row in rows])), 3)
    return {"emoji": len(rows), "valence": found}


def of_the_table(root: Path) -> dict[str, Any]:
    """Returns rho of the table's valence and arousal of py-feat's expressions with py-feat's own."""
    rows = list(csv.DictReader((root / "frames.csv").open(encoding="utf-8")))
    ours = affect(torch.tensor([[float(row[name]) for name in PY_FEAT] for row in rows]), classes=PY_FEAT).numpy()
    return {"frames": len(rows)} | {
        name: round(spearman(ours[:, column], np.array([float(row[name]) for row in rows])), 3)
        for column, name in enumerate(("valence", "arousal"))
    }


@command
def main(argv: list[str]) -> None:
    """Fits, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="expression")
    parser.add_argument("--split", default="test", help="of held-out faces: val or test")
    parser.add_argument("--centres", type=int, default=1, help="directions per emotion")
    parser.add_argument("--out", type=Path, help="safetensors file for the directions")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with fer2013plus/, emoji_affect/ and news_face_series/")
    base = Path(os.environ["VEA_DATA"])
    torch.set_num_threads(1)
    task = open_model(arguments.model).task
    classes = task.fields["votes"].classes

    images, shares = faces_and_votes(base / "fer2013plus", "train")
    found, _ = read(task, images)
    top = shares.max(1)
    labels = torch.where((shares == top.values[:, None]).sum(1) == 1, top.indices, -1)
    intensity = replace(Intensity.fit(found, labels, classes=classes, centres=arguments.centres), probe=probe(task))
    if arguments.out:
        intensity.write(arguments.out)

    images, shares = faces_and_votes(base / "fer2013plus", arguments.split)
    found, answers = read(task, images)
    values = intensity(found)
    generator = torch.Generator().manual_seed(0)
    chance = (found - intensity.neutral) @ torch.nn.functional.normalize(
        torch.randn(found.shape[1], RANDOM, generator=generator), dim=0
    )
    named = map_expressions(intensity.classes, task.fields["expression"].classes)
    winner = shares.argmax(1)
    neutral = classes.index("neutral")
    table: dict[str, Any] = {}
    print(f"{'':10} {'faces near':>10} {'direction':>13} {'votes head':>13} {'labels head':>13} {'|random|':>13} walk")
    for row, name in enumerate(intensity.classes):
        column = classes.index(name)
        truth = shares[:, column].numpy()
        near = ((winner == column) | (winner == neutral)).numpy()
        place = named[row]
        rows = {
            "direction": judge(values[:, row].numpy(), truth, near),
            "votes head": judge(answers["votes"][:, column].numpy(), truth, near),
            "labels head": None if place is None else judge(answers["expression"][:, place].numpy(), truth, near),
            "random": tuple(np.abs([judge(one.numpy(), truth, near) for one in chance.T]).mean(0)),
        }
        steps = walk(task, intensity, row, column)
        table[name] = {"near": int(near.sum()), "walk": [round(step, 3) for step in steps]} | {
            key: None if pair is None else [round(float(value), 3) for value in pair] for key, pair in rows.items()
        }
        shown = " ".join(f"{'-' if pair is None else f'{pair[0]:.2f} / {pair[1]:.2f}':>13}" for pair in rows.values())
        rises = "rises" if all(a < b for a, b in pairwise(steps)) else "does not rise"
        print(f"{name:10} {near.sum():10d} {shown} {rises} {steps[0]:.2f} to {steps[-1]:.2f}", flush=True)
    record = {"split": arguments.split, "faces": len(found), "intensity": table}
    record |= {"valence": of_emoji(task, base / "emoji_affect"), "table": of_the_table(base / "news_face_series")}
    print(f"{len(found)} faces of {arguments.split}; Spearman over all / over those near the emotion")
    print(f"valence of emoji: {record['valence']}; of the table: {record['table']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
