"""The reasons of faces: how often units and recogniser agree, and whether the text is true to its units.

    VEA_DATA=... python benchmarks/face_reason.py [--model expression] [--json FILE]

FER2013's private test faces, each as one face. Accuracy of the recogniser where its units agree, disagree or are
silent; the rule alone (the expression that most observed units are named for, neutral for none); mention F1 of each
text against its own units, and against those of the next face.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from vea.data.cards import find_card
from vea.data.sample import Sample
from vea.data.sources.fer2013plus import Fer2013Plus
from vea.errors import VeaError, command
from vea.inference.face_reason import reason
from vea.inference.predict import load
from vea.metrics import mention_scores, mentioned_units, shown_units
from vea.taxonomy.words import canonical_expression

CARDS = Path(__file__).resolve().parents[1] / "datasets" / "cards"


@command
def main(argv: list[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="expression")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("VEA_DATA is not set: the folder with fer2013plus/")
    torch.set_num_threads(1)
    images, truth = [], []
    for sample in Fer2013Plus(find_card("fer2013plus", CARDS)).samples(
        Path(os.environ["VEA_DATA"], "fer2013plus"), "test"
    ):
        if isinstance(sample, Sample) and sample.labels.get("expression"):
            images.append(cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR))
            truth.append(canonical_expression(str(sample.labels["expression"])))
    found = load(given.model).predict(images, detect_faces=False)
    told = [reason(face) for face in found]
    texts = [mentioned_units(one.text) for one in told]
    shown = [shown_units(face.units) for face in found]
    right = np.array([canonical_expression(one.expression) == label for one, label in zip(told, truth)])
    kinds = np.array([one.units for one in told])
    by_rule = []
    for one in told:
        counts: dict[str, int] = {}
        for unit in one.observations:
            for name in unit.may_mean:
                counts[name] = counts.get(name, 0) + 1
        by_rule.append(max(counts, key=counts.__getitem__) if counts else "neutral")
    record: dict[str, Any] = {"faces": len(told), "accuracy": round(float(right.mean()), 4)}
    for kind in ("agree", "disagree", "silent"):
        own = kinds == kind
        record[kind] = {"share": round(float(own.mean()), 4), "accuracy": round(float(right[own].mean()), 4)}
    record["rule_alone"] = round(float(np.mean([name == label for name, label in zip(by_rule, truth)])), 4)
    f1 = [mention_scores(said, own)["f1"] for said, own in zip(texts, shown)]
    other = [mention_scores(said, own)["f1"] for said, own in zip(texts, shown[1:] + shown[:1])]
    record["mention_f1"] = {"own": round(float(np.mean(f1)), 4), "next_face": round(float(np.mean(other)), 4)}
    print(json.dumps(record))
    if given.json:
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
