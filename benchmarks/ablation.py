"""What each part of UniEmoX brings: the same budget and data, several seeds, judged by probes and by fine-tuning.

    python benchmarks/ablation.py --json ablation.json       # the whole table: about five hours on two cores
    python benchmarks/ablation.py --quick --out runs/quick   # every stage once, a few steps: a check, no result
    python benchmarks/ablation.py --anchor DINOV2_S14_FILE tf_efficientnet_lite0=FILE    # networks of others, frozen
    python benchmarks/ablation.py --arms --anchor DINOV2_S14_FILE                        # these alone

Each arm is pretrained, probed frozen on faces (FER2013: all labels, 10 %) and OASIS (valence, arousal), and fine-tuned
on faces. What is complete is not repeated: run the same command again and it goes on where it stopped. Every choice is
made on validation splits; the table shows test splits. A difference counts where it exceeds the spread of both arms.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

from recipes import check_finished, evaluated, run, summary
from rich.console import Console
from rich.table import Table

from vea.config import load_config
from vea.errors import VeaError, command

NO_FUSION, NO_TEACHER = "model.fusion=none", ["objective.similarity=0", "objective.contrastive=0"]
ARMS: dict[str, list[str]] = {
    # one step at a rate that changes nothing: the weights every other arm starts from
    "random": [*NO_TEACHER, NO_FUSION, "train.base_lr=1.0e-12", "train.warmup_steps=0", "train.steps=1"],
    "mae": [*NO_TEACHER, NO_FUSION],
    "+similarity": ["objective.contrastive=0", NO_FUSION],
    "+contrastive": [NO_FUSION],
    "+fusion (full)": [],
    "released": ["model.variant=released"],
    "full, soft labels": ["objective.distillation=1"],
    "full, focal InfoNCE": ["objective.infonce=0.5", "objective.focal=0.5"],
    "full, salient masks": ["model.salient={probability: 0.9}"],
    "full, bank": ["model.bank={codes: 48}"],
    "full, captions": ["objective.caption_fused=0.5"],
    "full, captions, mixed pairs": ["objective.caption_fused=0.5", "captions.mix=pair"],
    "full, captions, mixed list": ["objective.caption_fused=0.5", "captions.mix=list"],
}
COLUMNS = ("face linear", "face knn", "face linear 10%", "valence", "arousal", "face fine-tuned")


def probed(encoder: Path | str, out: Path, *, data: str, targets: list[str], row: str,
           size: int | None) -> dict[str, Any]:  # fmt: skip
    """Returns the rows of ``pretrain/probe.py``, which runs where it has not yet."""
    if not out.is_file():
        sized = ["--image-size", str(size)] if size else []
        run("pretrain/probe.py", str(encoder), "--data", data, "--target", *targets, "--json", str(out), "--rows",
            row, *sized)  # fmt: skip
    return json.loads(out.read_text(encoding="utf-8"))["rows"]


def probe_columns(encoder: Path | str, folder: Path, given: argparse.Namespace, *, size: int | None = None,
                  row: str = "last") -> dict[str, float]:  # fmt: skip
    """Returns the columns of the table that need no training of the encoder."""
    faces = probed(encoder, folder / "probe_faces.json", data=given.faces, targets=["expression"],
                   row=row, size=size)  # fmt: skip
    oasis = probed(encoder, folder / "probe_oasis.json", data=given.oasis, targets=["valence", "arousal"],
                   row=row, size=size)  # fmt: skip
    face, rated = faces[row]["expression"], oasis[row]
    values = {f"face {name}": face[name]["test"] for name in ("linear", "knn", "linear 10%")}
    return values | {name: rated[name]["linear"]["test"] for name in ("valence", "arousal")}


def measure(arm: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Returns one arm's columns for one seed: pretrain, probe, fine-tune, each unless it is done."""
    folder = given.out / f"{''.join(c if c.isalnum() else '-' for c in arm)}-s{seed}"
    budget = [f"train.steps={given.steps}", f"train.warmup_steps={given.steps // 8}"]
    common = [f"out={folder}", "name=ablation", f"seed={seed}", "data.val=[]", f"runtime.threads={given.threads}"]
    words = [given.config, *common, *budget, *ARMS[arm], *given.overrides]
    if (folder / "final" / "state.json").is_file():
        check_finished(folder, *words)
    else:
        run("pretrain/train.py", *words)
    values = probe_columns(folder, folder, given)
    tuned = folder / "tuned"
    encoder = load_config(given.config).model.encoder
    size = load_config(given.config).augment.image_size
    form = [f"model.encoder.name={encoder.name}", f"model.encoder.args={json.dumps(encoder.args)}"]
    steps = [f"train.steps={given.tune_steps}", f"train.warmup_steps={given.tune_steps // 10}",
             f"train.eval_every={max(1, given.tune_steps // 2)}", f"augment.image_size={size}"]  # fmt: skip
    data = [f"data.train.0.path={given.faces}", f"data.val.0.path={given.faces}", f"runtime.threads={given.threads}"]
    record = evaluated(
        tuned, "finetune/train.py", given.tune_config, "name=ablation-tuned", f"seed={seed}",
        f"train.init_from={folder}", *form, *steps, *data,
    )  # fmt: skip
    return values | {"face fine-tuned": record["targets"]["expression"]["metrics"]["accuracy"]}


def differences(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Returns a sentence for each pair of arms whose means differ by more than both standard deviations together."""
    found = []
    for column in COLUMNS:
        for one, other in combinations(results, 2):
            if min(len(results[one]), len(results[other])) < 2:
                continue
            (a, spread_a), (b, spread_b) = (summary([row[column] for row in results[arm]]) for arm in (one, other))
            if abs(a - b) > spread_a + spread_b:
                high, low = (one, other) if a > b else (other, one)
                found.append(f"{column}: {high} over {low} by {100 * abs(a - b):.1f} (spread "
                             f"{100 * (spread_a + spread_b):.1f})")  # fmt: skip
    return found


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/pretrain/mixed_cpu.yaml")
    parser.add_argument("--tune-config", default="configs/finetune/expression_faces_vit.yaml")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of pretraining, in every arm")
    parser.add_argument("--tune-steps", type=int, default=223, help="of fine-tuning; one pass over the faces")
    parser.add_argument("--faces", default="data/fer2013plus")
    parser.add_argument("--oasis", default="data/oasis")
    parser.add_argument("--anchor", nargs="*", default=[], metavar="FILE", help="weight files of timm's ViTs, or "
                        "NAME=FILE of any timm model; probed at --anchor-size")  # fmt: skip
    parser.add_argument("--anchor-size", type=int, default=98)
    parser.add_argument("--quick", action="store_true", help="8 steps on drawn scenes: shows that every stage works")
    parser.add_argument("--threads", type=int, default=2, help="of every run")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--set", dest="overrides", nargs="*", default=[], metavar="a.b=c", help="for every pretraining")
    given = parser.parse_args(argv)
    if given.quick:
        given.seeds, given.steps, given.tune_steps = given.seeds[:1], 8, 8
        given.config, given.faces, given.oasis = "configs/pretrain/smoke.yaml", "data/synthetic", "data/synthetic"
    for arm in given.arms:  # a typo stops here, before any run
        load_config(given.config, [*ARMS[arm], *given.overrides])
    load_config(given.tune_config)
    anchors = {anchor: Path(anchor.rpartition("=")[2]) for anchor in given.anchor}
    for path in anchors.values():
        if not path.is_file():
            raise VeaError(f"--anchor: no weight file {path}")

    results: dict[str, list[dict[str, float]]] = {arm: [] for arm in given.arms}
    for seed in given.seeds:  # seed by seed: a table that was stopped is whole for the seeds it has
        for arm in given.arms:
            results[arm].append(measure(arm, seed, given))
    for anchor, path in anchors.items():
        folder = given.out / f"anchor-{path.stem}-{given.anchor_size}"
        folder.mkdir(parents=True, exist_ok=True)
        results[f"frozen {path.stem}"] = [probe_columns(anchor, folder, given, size=given.anchor_size, row="file")]

    table = Table(title=f"{given.config}, {given.steps} steps, seeds {given.seeds}: test, percent (accuracy; CCC for "
                        "valence and arousal), mean ± sd", title_justify="left")  # fmt: skip
    for column in ("arm", *COLUMNS):
        table.add_column(column)
    for arm, rows in results.items():
        cells = []
        for column in COLUMNS:
            mean, spread = summary([row[column] for row in rows]) if column in rows[0] else (None, 0.0)
            cells.append("-" if mean is None else f"{100 * mean:.1f} ± {100 * spread:.1f}")
        table.add_row(arm, *cells)
    Console(width=120).print(table)
    told = differences({arm: rows for arm, rows in results.items() if arm in ARMS})
    if given.arms:
        print("\n".join(["differences beyond the spread:", *(told or ["none"])]))
    if given.json:
        record = {"config": given.config, "steps": given.steps, "tune_steps": given.tune_steps, "seeds": given.seeds,
                  "results": results, "differences": told}  # fmt: skip
        given.json.write_text(json.dumps(record, indent=1))
        print(f"wrote {given.json}")


if __name__ == "__main__":
    sys.exit(main())
