"""Judges on the statements built from OASIS: controls, and vea's judge from frozen features, three seeds.

    python benchmarks/statements.py --data /path/to/oasis --tower /path/to/dinov2-s14 --json statements.json

A seed changes which pictures are matched, and so the statements. Every judge learns on the training split and is
scored once on the test split. Intervals: pictures drawn with replacement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from vea.evals.backends.base import Backend, open_backend
from vea.evals.backends.baselines import Shuffled
from vea.evals.backends.judge import FeatureJudge, tower_features
from vea.evals.oasis import CLASSES, read_photos
from vea.evals.run import ask_all, needs_training
from vea.evals.tasks.statements import Statements


def main() -> None:
    """Prints a row a judge and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of OASIS")
    parser.add_argument("--tower", type=Path, required=True, help="folder of DINOv2 ViT-S/14")
    parser.add_argument("--language-model", type=Path, help="folder of a causal language model: the blind judge")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    files = [photo.file for photo in read_photos(arguments.data)]
    held = dict(zip(files, tower_features(files, arguments.tower)))
    language = open_backend(f"blind:{arguments.language_model}") if arguments.language_model else None
    record: dict[str, list[dict]] = {}
    for seed in arguments.seeds:
        task = Statements(data=arguments.data, seed=seed)
        judges: dict[str, Backend] = {
            name: open_backend(name, seed=seed) for name in ("oracle", "constant", "uniform", "text-only", "brightness")
        }
        judges["judge, another picture"] = Shuffled(FeatureJudge(None, seed=seed, features=held), seed=seed)
        judges["judge"] = FeatureJudge(None, seed=seed, features=held)
        if language is not None:
            judges["language model, blind"] = language
        test, train = task.questions("test"), task.questions("train")
        for name, judge in judges.items():
            judge.prepare(train if needs_training(judge) else [])
            answers, cost = ask_all(judge, test, ["probability"], None, label=name)
            scores = task.scores(test, answers, "probability")
            record.setdefault(name, []).append({"seed": seed, "scores": scores, "cost": cost, **task.context("test")})
    print("| judge | overall | " + " | ".join(CLASSES) + " | pairs |\n|---|" + "---|" * (len(CLASSES) + 2))
    for name, runs in record.items():
        cells = []
        for kind in ("overall", *CLASSES):
            values = [run["scores"]["parsers"]["conference"][kind]["accuracy"] for run in runs]
            low, high = np.mean([run["scores"]["intervals"][kind] for run in runs], axis=0)
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f} ({low:.3f} to {high:.3f})")
        pairs = np.mean([run["scores"]["pair_accuracy"] for run in runs])
        print(f"| {name} | {' | '.join(cells)} | {pairs:.3f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
