"""The experiment that decides: does DINOv2-S/14 know more of emotion after stage two on captions, without any label?

    python benchmarks/stage_two.py --weights DINOV2_S14_FILE                  # go on: rows that are there are skipped
    python benchmarks/stage_two.py --weights DINOV2_S14_FILE --show           # the table of the rows there are
    python benchmarks/stage_two.py --weights DINOV2_S14_FILE --limit 1        # one row more

A row is an arm and a seed: stage two by configs/pretrain/stage_two.yaml (captions of Flickr8k, COCO and OASIS's
training split; no rating, and no picture of OASIS's other splits), then frozen features [class token, mean of patches]:

- OASIS valence and arousal: CCC of ridge regression on ten splits. Their test themes are drawn from those of OASIS's
  validation and test splits, which stage two never saw; all else trains the ridge. Themes never cross, and folds of
  themes choose the penalty.
- FER2013 (--face-fractions of its splits): linear and nearest-neighbour probes chosen on validation.

A row is about 15 minutes of one core by the count of its FLOPs, all of them about five hours of two: run the command
twice, with other --seeds, --rows and --out, or give --threads 2. Each row is read twice: the weights at the end, and
their mean with those of the start (``half``; WiSE-FT, arXiv 2109.01903). ``--rows`` is the result, written after each
row. The first rows are those that decide.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recipes import add_rows, kept_rows, run, spread
from rich.console import Console
from rich.table import Table
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vea.config import AugmentConfig, DataConfig, DatasetRef, PretrainConfig, RecogniseConfig, TrainConfig, load_config
from vea.data.loading.loader import eval_loader
from vea.data.shards.index import read_index
from vea.errors import VeaError, command
from vea.metrics.probes import ccc, grouped_ridge, linear_probe, nearest_probe
from vea.models.vit import build_encoder
from vea.models.weight_files import read_weight_file
from vea.models.weights import encoder_part, load_encoder
from vea.storage import atomic
from vea.storage.checkpoint import load_weights
from vea.tasks.items import LabelItems

NO_CAPTIONS = ["objective.caption_scene=0", "objective.caption_fused=0", "model.fusion=none", "teacher=null"]
ARMS: dict[str, list[str]] = {
    "full": [],
    "shuffled captions": ["captions.shuffled=true"],
    "no captions": NO_CAPTIONS,
    "scene path alone": ["objective.reconstruction=0", "objective.caption_fused=0", "model.fusion=none"],
    "fused path alone": ["objective.reconstruction=0", "objective.caption_scene=0"],
    "half the captions": ["captions.share=0.5"],
    "soft positives": ["captions.positives=soft"],
    "phrases too": ["objective.caption_phrases=0.5"],
    "salient masks": ["model.salient={probability: 0.9}"],
    "mixed negatives, pairs": ["captions.mix=pair"],
    "mixed negatives, list": ["captions.mix=list"],
    "bank": ["model.bank={codes: 48}"],
    "bank, quick": ["model.bank={codes: 48, decay: 0.8}"],  # at .95 no prototype starts again within 60 steps
    "a third predicted": ["model.predicted=0.34"],
    "a third predicted, small person view": ["model.predicted=0.34", "model.person_size=56"],
}
START = "start"
READINGS = ("end", "half")
COLUMNS = ("valence", "arousal", "face linear", "face knn")
RATED = ("valence", "arousal")
DRAWS = 10


class Judge:
    """What turns an encoder into the columns of the table: features are made once of each picture, blocks that no arm
    changes included.

    Args:
        given: the command line.
        config: of stage two.
    """

    def __init__(self, given: argparse.Namespace, config: PretrainConfig) -> None:
        self.given, self.form, self.frozen = given, config.model.encoder, config.model.frozen_blocks
        self.size = config.augment.image_size
        self.start = read_weight_file(given.weights)
        self.cache = given.out / "early"
        self.groups = self._groups()

    def encoder(self, weights: dict[str, Tensor]) -> VisionTransformer:
        """Returns the encoder with ``weights``, ready to evaluate."""
        form = self.form.model_copy(update={"pretrained": None})
        encoder = build_encoder(form, image_size=self.size).requires_grad_(False).eval()
        load_encoder(encoder, weights, where="weights")
        return encoder

    def _groups(self) -> dict[str, str]:
        raw = os.environ.get("VEA_DATA")
        if not raw:
            raise VeaError("set VEA_DATA to the folder of the raw data: oasis/oasis.csv there names the theme groups")
        with (Path(raw) / "oasis" / "oasis.csv").open(encoding="utf-8") as file:
            return {Path(row["file"]).stem: row["theme_group"] for row in csv.DictReader(file)}

    @torch.inference_mode()
    def early(self, data: Path, targets: list[str], split: str, fraction: float) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns (tokens after the blocks that stay frozen (N, 1 + P, D), keys and labels) of a split, kept."""
        identity = hashlib.sha256((data / "index.json").read_bytes()).hexdigest()
        words = (identity, split, fraction, self.size, self.frozen, targets)
        file = self.cache / f"{hashlib.sha256(repr(words).encode()).hexdigest()[:20]}.npy"
        labels = file.with_suffix(".json")
        if not labels.is_file():
            encoder = self.encoder(self.start)
            config = RecogniseConfig(
                name="probe", data=DataConfig(workers=0), augment=AugmentConfig(image_size=self.size, eval_crop=1.0),
                train=TrainConfig(steps=1), targets=dict.fromkeys(targets, 1.0),
            )  # fmt: skip
            mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            tokens, known = [], {"keys": [], **{name: [] for name in targets}}
            for batch in eval_loader(config, LabelItems(config), batch_size=64, rank=0, world_size=1,
                                     refs=[DatasetRef(path=str(data), split=split, fraction=fraction)]):  # fmt: skip
                valid = batch["valid"]
                x = encoder.patch_embed((batch["image"].float() / 255 - mean) / deviation)
                x = encoder.norm_pre(encoder._pos_embed(x))
                for block in encoder.blocks[: self.frozen]:
                    x = block(x)
                tokens.append(x[valid].numpy())
                known["keys"] += [key for key, good in zip(batch["keys"], valid.tolist()) if good]
                for name in targets:
                    known[name] += batch["labels"][name][valid].tolist()
            self.cache.mkdir(parents=True, exist_ok=True)
            with atomic.new_file(file) as partial, partial.open("wb") as stream:
                np.save(stream, np.concatenate(tokens))
            atomic.write_text(labels, json.dumps(known))
        return np.load(file, mmap_mode="r"), json.loads(labels.read_text())

    @torch.inference_mode()
    def features(self, encoder: VisionTransformer, data: Path, targets: list[str], split: str,
                 fraction: float = 1.0) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        """Returns ([class token, mean of patches] (N, 2 D), keys and labels) of a split."""
        tokens, known = self.early(data, targets, split, fraction)
        rows = []
        for first in range(0, len(tokens), 128):
            x = torch.from_numpy(np.array(tokens[first : first + 128]))
            for block in encoder.blocks[self.frozen :]:
                x = block(x)
            x = encoder.norm(x)
            rows.append(torch.cat([x[:, 0], x[:, 1:].mean(1)], 1))
        return torch.cat(rows), known

    def columns(self, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Returns the columns: ten CCC each for valence and arousal, two accuracies."""
        encoder = self.encoder(weights)
        parts = [self.features(encoder, self.given.oasis, list(RATED), split)
                 for split in ("train", "val", "test")]  # fmt: skip
        x = torch.cat([rows for rows, _ in parts])
        themes = [self.groups[key.split("/")[-1]] for _, known in parts for key in known["keys"]]
        seen = {self.groups[key.split("/")[-1]] for key in parts[0][1]["keys"]}
        names = sorted(set(themes))
        numbers = torch.tensor([names.index(theme) for theme in themes])
        rated = [[value for _, known in parts for value in known[name]] for name in RATED]
        y = torch.tensor(rated, dtype=torch.float64).T
        found: dict[str, Any] = {name: [] for name in RATED}
        for draw in range(DRAWS):
            fresh = [name for name in names if name not in seen]
            left_out = set(np.random.default_rng(draw).permutation(fresh)[: len(fresh) // 2].tolist())
            test = torch.tensor([theme in left_out for theme in themes])
            w, _ = grouped_ridge(x[~test], y[~test], numbers[~test])
            answers = x[test].double() @ w[:-1] + w[-1]
            for t, name in enumerate(RATED):
                found[name].append(ccc(answers[:, t], y[test, t]))
        field = read_index(str(self.given.faces)).fields["expression"]
        faces = []
        for split, fraction in zip(("train", "val", "test"), self.given.face_fractions):
            rows, known = self.features(encoder, self.given.faces, ["expression"], split, fraction)
            labels = torch.tensor(known["expression"])
            faces.append((rows[labels >= 0], labels[labels >= 0]))
        for name, make in (("face linear", linear_probe), ("face knn", nearest_probe)):
            answers = make(faces[0], faces[1], field=field).answer(faces[2][0])
            found[name] = float((answers.argmax(1) == faces[2][1]).double().mean())
        return found


def measured(arm: str, seed: int, given: argparse.Namespace, judge: Judge) -> dict[str, Any]:
    """Returns a row: stage two unless its run is complete, then both readings."""
    if arm == START:
        return {"end": judge.columns(judge.start)}
    folder = given.out / f"{''.join(c if c.isalnum() else '-' for c in arm)}-s{seed}"
    if not (folder / "final" / "state.json").is_file():
        run("pretrain/train.py", given.config, *settings(given), f"out={folder}", "name=stage-two", f"seed={seed}",
            f"runtime.threads={given.threads}", "tracking.backend=none", *ARMS[arm])  # fmt: skip
    trained = encoder_part(load_weights(folder / "final")[0])
    assert trained is not None
    start = judge.encoder(judge.start).state_dict()
    kept = ("patch_embed.", "cls_token", "pos_embed", *(f"blocks.{i}." for i in range(judge.frozen)))
    if changed := [name for name in start if name.startswith(kept) and not torch.equal(start[name], trained[name])]:
        raise VeaError(f"{folder}: {changed[0]} is not that of --weights; remove the run, or give its own")
    half = {name: (value + trained[name]) / 2 for name, value in start.items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "val"][-1]
    parts = ("reconstruction", "caption_scene", "caption_fused", "caption_phrases", "bank_perplexity")
    return {"end": judge.columns(trained), "half": judge.columns(half),
            "validation": {name: last[name] for name in parts if name in last}}  # fmt: skip


def settings(given: argparse.Namespace) -> list[str]:
    """Returns the words that every run has."""
    boxes = "persons: persons, faces: faces"
    sets = [f"{{path: {given.captions}, split: train, weight: 3, {boxes}}}",
            f"{{path: {given.oasis}, split: train, weight: 2, {boxes}}}"]  # fmt: skip
    return [f"data.train=[{', '.join(sets)}]", f"data.val=[{{path: {given.captions}, split: val, {boxes}}}]",
            "data.workers=0", f"model.encoder.pretrained={given.weights}", f"train.steps={given.steps}",
            f"train.warmup_steps={given.steps // 10}"]  # fmt: skip


def show(rows: dict[str, Any], steps: int) -> None:
    """Prints the table: mean and deviation over seeds of each column, times 100; of the start alone over its draws."""
    table = Table(title=f"{steps} steps; CCC and accuracy x 100, mean ± sd over seeds; OASIS: mean of {DRAWS} splits",
                  title_justify="left")  # fmt: skip
    for column in ("arm", "read", "seeds", *COLUMNS):
        table.add_column(column)
    for arm in (START, *ARMS):
        found = [row for key, row in sorted(rows.items()) if key.rpartition("|")[0] == arm]
        for reading in READINGS:
            values = [row[reading] for row in found if reading in row]
            if values:
                cells = [spread([float(np.mean(value[column])) for value in values]) for column in COLUMNS]
                table.add_row(arm, reading, str(len(values)), *cells)
    Console(width=120).print(table)
    print("\n".join(compared(rows) or ["no row beside the start yet"]))


def compared(rows: dict[str, Any]) -> list[str]:
    """Returns a sentence for each arm and reading, paired by split: minus the start; and of ``full`` minus the arm of
    the same seed."""
    told = []
    for arm in ARMS:
        seeds = [key.rpartition("|")[2] for key in sorted(rows) if key.rpartition("|")[0] == arm]
        for reading in READINGS:
            found = [rows[f"{arm}|{seed}"][reading] for seed in seeds]
            if found and f"{START}|0" in rows:
                told.append(f"{arm}, {reading}, minus start: {_gains(found, [rows[f'{START}|0']['end']] * len(found))}")
            both = [(f"full|{seed}", row) for seed, row in zip(seeds, found) if f"full|{seed}" in rows]
            if both and arm != "full":
                whole = [rows[key][reading] for key, _ in both]
                told.append(f"full minus {arm}, {reading}: {_gains(whole, [row for _, row in both])}")
    return told


def _gains(these: list[dict[str, Any]], those: list[dict[str, Any]]) -> str:
    words = []
    for column in COLUMNS:
        gains = [np.atleast_1d(np.subtract(a[column], b[column])) for a, b in zip(these, those)]
        wins, count = sum(int((gain > 0).sum()) for gain in gains), sum(gain.size for gain in gains)
        words.append(f"{column} {spread([float(gain.mean()) for gain in gains])} ({wins} of {count} up)")
    return ", ".join(words)


@command
def main(argv: list[str]) -> None:
    """Makes the rows that are missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="a file of timm's vit_small_patch14_dinov2")
    parser.add_argument("--config", default="configs/pretrain/stage_two.yaml")
    parser.add_argument("--captions", type=Path, default=Path("data/captions"), help="with sidecars persons and faces")
    parser.add_argument("--oasis", type=Path, default=Path("data/oasis"), help="with sidecars persons and faces")
    parser.add_argument("--faces", type=Path, default=Path("data/fer2013plus"))
    parser.add_argument("--face-fractions", type=float, nargs=3, default=[0.1, 0.2, 0.5], metavar="F",
                        help="of FER2013's train, validation and test")  # fmt: skip
    parser.add_argument("--arms", nargs="*", choices=[START, *ARMS], default=[START, *ARMS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--limit", type=int, help="most rows to make now")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/stage_two"))
    parser.add_argument("--rows", type=Path, default=Path("docs/results/stage_two.json"))
    parser.add_argument("--show", action="store_true", help="only the table")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    made = kept_rows(given.rows, {"steps": given.steps, "face_fractions": given.face_fractions})
    if not given.show:
        config = load_config(given.config, settings(given))
        arms = [arm for arm in given.arms if arm != START]
        for arm in arms:  # a typo stops here, before any run
            load_config(given.config, [*settings(given), *ARMS[arm]])
        judge = Judge(given, config)
        wanted = [(START, 0)] if START in given.arms else []
        wanted += [(arm, seed) for seed in given.seeds for arm in arms]
        add_rows(given.rows, made, wanted, lambda arm, seed: measured(arm, seed, given, judge), limit=given.limit)
    show(made["rows"], given.steps)


if __name__ == "__main__":
    sys.exit(main())
