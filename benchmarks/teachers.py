"""Teachers on the official Flickr8k test: recall at 1, 5 and 10 both ways, and agreement with its three experts.

    python datasets/prepare.py captions_apart --out data/captions_apart
    python datasets/prepare.py oasis --out data/oasis
    python benchmarks/teachers.py --data data --runs runs/teachers --seeds 0 1 2 --json teachers.json

Trains ``configs/pretrain/align_dino.yaml`` (today's dino-minilm) and ``align_joined.yaml`` on the same pictures, none
of them of the test, chooses weights by validation, and scores each teacher once on ``VEA_DATA/flickr8k_test``: 1,000
pictures, 5,000 captions. The experts: Kendall's tau-c of the cosine of picture and caption with the mean of the
three scores. A run that is whole is not trained again; features are kept in RUNS/features.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cv2
import torch
from scipy.stats import kendalltau
from torch import Tensor

from vea.config import TeacherConfig
from vea.data.views.geometry import crop_resize
from vea.errors import RunError, VeaError, command
from vea.metrics import retrieval_recall
from vea.models.feature_cache import KeptFeatures
from vea.models.teachers.load import load_teacher
from vea.models.teachers.two_tower import TwoTowerTeacher
from vea.storage.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
ARMS = {"dino-minilm (today)": "align_dino", "joined": "align_joined"}


def train(name: str, config: str, given: argparse.Namespace, seed: int) -> Path:
    """Returns the folder of a teacher, trained where it is not there yet."""
    run = given.runs / f"{config}-{seed}"
    if not (run / "teacher/config.json").is_file():
        sets = [given.data / "captions_apart", given.data / "oasis"]
        paths = [f"data.{part}.{i}.path={path}" for part in ("train", "val") for i, path in enumerate(sets)]
        extra = [f"out={run}", f"name={config}-{seed}", f"seed={seed}", f"model.cache_dir={given.runs / 'features'}",
                 f"train.precision={given.precision}", "tracking.backend=none", *paths]  # fmt: skip
        line = [sys.executable, str(ROOT / "pretrain/align.py"), str(ROOT / f"configs/pretrain/{config}.yaml"), *extra]
        if subprocess.run(line, check=False).returncode:
            raise RunError(f"training {name} failed: {' '.join(line)}")
    return run / "teacher"


class Judge:
    """The test as published; features of a frozen tower are computed once for all teachers that have it."""

    def __init__(self, folder: Path, precision: str, kept: Path) -> None:
        lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
        self.rows = [json.loads(line) for line in lines]
        with (folder / "expert_judgements.csv").open(encoding="utf-8", newline="") as file:
            self.judged = list(csv.DictReader(file))
        self.folder = folder
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.place = {Path(row["file"]).name: number for number, row in enumerate(self.rows)}
        self.texts = sorted({t for row in self.rows for t in row["captions"]} | {r["caption"] for r in self.judged},
                            key=lambda text: (len(text), text))  # fmt: skip
        self.kept = KeptFeatures(kept)

    def pictures(self, which: list[int], size: int) -> Tensor:
        """Returns uint8 (B, 3, size, size)."""
        found = []
        for row in (self.rows[number] for number in which):
            pixels = cv2.cvtColor(cv2.imread(str(self.folder / "images" / Path(row["file"]).name)), cv2.COLOR_BGR2RGB)
            whole = (0, 0, pixels.shape[1], pixels.shape[0])
            found.append(torch.from_numpy(crop_resize(pixels, whole, size=size, interpolation="area")).permute(2, 0, 1))
        return torch.stack(found)

    @torch.no_grad()
    def embed(self, teacher: TwoTowerTeacher) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns unit rows of the pictures, and of each text; features of frozen towers come from the kept ones."""
        teacher.in_precision(self.dtype)
        form = json.dumps([teacher.forms, teacher.standardise, str(self.dtype)])
        names = [f"official|{form}|{name}" for name in self.place]
        rows = []
        for start in range(0, len(names), 32):
            make = partial(self.look, teacher, start)
            rows.append(self.kept.get(names[start : start + 32], make))
        sentences = []
        for start in range(0, len(self.texts), 64):
            group = self.texts[start : start + 64]
            keys = [f"official|{teacher.tokenizer.name_or_path}|{teacher.standardise}|{text}" for text in group]
            make = partial(self.read, teacher, group)
            sentences.append(self.kept.get(keys, make))
        teacher.float()
        unit = torch.nn.functional.normalize
        mapped = unit(teacher.text_map(torch.cat(sentences)), dim=-1)
        return unit(teacher.image_map(torch.cat(rows)), dim=-1), dict(zip(self.texts, mapped))

    def look(self, teacher: TwoTowerTeacher, start: int, which: list[int]) -> Tensor:
        """Returns the towers' features of some of the pictures from ``start`` on."""
        pictures = self.pictures([start + i for i in which], teacher.image_size[0])
        return teacher.joined(teacher.preprocess(pictures).to(self.dtype)).float()

    def read(self, teacher: TwoTowerTeacher, group: list[str], which: list[int]) -> Tensor:
        """Returns the text tower's features of some of a group."""
        return teacher.sentences([group[i] for i in which], length=None).float()

    def score(self, folder: Path) -> dict[str, float]:
        """Returns recalls and ``expert_tau_c`` of a teacher."""
        teacher = load_teacher(TeacherConfig(name=str(folder)))
        assert isinstance(teacher, TwoTowerTeacher)
        image, text = self.embed(teacher)
        captions = torch.stack([text[caption] for row in self.rows for caption in row["captions"]])
        owner = torch.tensor([number for number, row in enumerate(self.rows) for _ in row["captions"]])
        found = retrieval_recall(image, captions, owner, ranks=(1, 5, 10))
        known = [row for row in self.judged if row["image"] in self.place]
        ours = [float(image[self.place[row["image"]]] @ text[row["caption"]]) for row in known]
        people = [sum(float(row[f"rater{k}"]) for k in (1, 2, 3)) / 3 for row in known]
        return {**found, "expert_tau_c": float(kendalltau(ours, people, variant="c").statistic), "pairs": len(known)}


@command
def main(argv: list[str]) -> None:
    """Trains, scores, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of captions_apart and oasis, prepared")
    parser.add_argument("--runs", type=Path, default=Path("runs/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of the frozen towers")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if "VEA_DATA" not in os.environ:
        raise VeaError("the test is looked up in the folder that VEA_DATA names, and VEA_DATA is not set")
    given.data, given.runs = given.data.absolute(), given.runs.absolute()
    judge = Judge(Path(os.environ["VEA_DATA"]) / "flickr8k_test", given.precision, given.runs / "features")
    found: dict[str, list[dict[str, float]]] = {}
    for name, config in ARMS.items():
        for seed in given.seeds:
            found.setdefault(name, []).append(judge.score(train(name, config, given, seed)))
            print(f"{name}, seed {seed}: {json.dumps(found[name][-1])}", flush=True)
    names = [name for name in found[next(iter(found))][0] if name != "pairs"]
    print("| teacher | " + " | ".join(names) + " |\n|" + "---|" * (len(names) + 1))
    means = {arm: {n: sum(row[n] for row in rows) / len(rows) for n in names} for arm, rows in found.items()}
    for arm, rows in found.items():
        cells = [f"{means[arm][n]:.3f} ({min(r[n] for r in rows):.3f} to {max(r[n] for r in rows):.3f})" for n in names]
        print(f"| {arm} | " + " | ".join(cells) + " |")
    old, new = means.values()
    ratio = {name: new[name] / old[name] for name in names}
    print("ratio: " + ", ".join(f"{name} {value:.2f}" for name, value in ratio.items()))
    if given.json:
        write_text(given.json, json.dumps({"seeds": given.seeds, "scores": found, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
