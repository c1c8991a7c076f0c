"""Retrieval with a pretrained UniEmoX: does gamma, made of masked views, find the text of its picture?

    python pretrain/retrieve.py runs/mixed                                  # test split of the run's validation sets
    python pretrain/retrieve.py runs/mixed --data data/captions --split val --json retrieval.json

Pictures and texts are those of the objective: gamma against the teacher's text embeddings, recall at 1 and 5 among all
pairs of the split. Beside it the teacher's own image embedding, which gamma was taught by, the same network untrained,
and chance. Samples without a text are left out; of several captions the first is used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vea.config import DatasetRef, PretrainConfig, load_config
from vea.data.loading.loader import eval_loader
from vea.data.shards.index import read_index
from vea.errors import VeaError, command
from vea.metrics import retrieval_recall
from vea.models.teachers.load import load_teacher
from vea.storage.atomic import write_text
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.pretrain import WITH_TEXT, PretrainTask
from vea.training.ema import load_into


def open_run(run: Path) -> tuple[PretrainConfig, PretrainTask, dict[str, Tensor]]:
    """Returns the config, the untrained task with its teacher, and the trained weights of a pretraining run.

    Raises:
        VeaError: no pretraining run, or one that never met a text.
    """
    if not (run / "config.yaml").is_file():
        raise VeaError(f"no run at {run} (no config.yaml in it); give the folder that pretrain/train.py wrote")
    config = load_config(run / "config.yaml")
    if not isinstance(config, PretrainConfig) or not any(getattr(config.objective, name) for name in WITH_TEXT):
        raise VeaError(f"{run} has no objective with texts ({', '.join(WITH_TEXT)}); there is nothing to retrieve")
    if config.teacher is None or config.teacher.cache != "none":
        raise VeaError(f"{run} was trained on cached embeddings and names no live teacher: teacher.cache must be none")
    torch.manual_seed(config.seed)
    task = PretrainTask(config, teacher=load_teacher(config.teacher)).eval()
    return config, task, load_weights(find_weights(run, prefer="final"))[0]


@torch.inference_mode()
def embeddings(config: PretrainConfig, task: PretrainTask, refs: list[DatasetRef]) -> dict[str, Tensor]:
    """Returns gamma, image and text (N, D) of every sample with a text, rows of unit length."""
    rows: dict[str, list[Tensor]] = {"gamma": [], "image": [], "text": []}
    place = {"rank": 0, "world_size": 1}
    for batch in eval_loader(config, task.item_spec(), refs=refs, batch_size=64, **place):
        found = task.predict(batch)
        image = found["image"] if "image" in found else task.teacher.encode_image(batch["scene"])  # type: ignore[union-attr]
        keep = batch["valid"] & (found["paired"] > 0)
        for name, value in {**found, "image": image}.items():
            if name in rows:
                rows[name].append(F.normalize(value[keep].float(), dim=-1))
    return {name: torch.cat(parts) for name, parts in rows.items()}


def retrieval(run: Path, *, data: list[str] | None, split: str) -> tuple[dict[str, dict[str, float]], int]:
    """Returns recall by row (gamma, the teacher's image, the network untrained, chance) and the number of pairs.

    Raises:
        VeaError: a set has no such split, or fewer than six of its samples have a text.
    """
    config, task, weights = open_run(run)
    paths = data or list(dict.fromkeys(ref.path for ref in config.data.val))
    refs = [DatasetRef(path=path, split=split) for path in paths if data or split in read_index(path).splits]
    if not refs:
        raise VeaError(f"none of the run's validation sets has a split {split!r}; name a set with --data")
    untrained = embeddings(config, task, refs)
    count = len(untrained["text"])
    if count < 6:
        names = ", ".join(ref.path for ref in refs)
        raise VeaError(f"{split} of {names}: {count} samples have a text; recall at 5 needs at least six")
    load_into(task, weights, where=str(run))
    trained = embeddings(config, task, refs)
    own = torch.arange(count)
    rows = {"gamma": trained["gamma"], "teacher's image": trained["image"], "untrained": untrained["gamma"]}
    found = {name: retrieval_recall(image, trained["text"], own) for name, image in rows.items()}
    chance = {name: min(1.0, int(name[-1]) / count) for name in found["gamma"]}
    return {**found, "chance": chance}, count


@command
def main(argv: list[str]) -> None:
    """Makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run of pretrain/train.py whose objective has texts")
    parser.add_argument("--data", nargs="+", help="prepared sets; default: the run's validation sets")
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    found, count = retrieval(given.run, data=given.data, split=given.split)
    table = Table(title=f"{given.run}, {given.split}: recall in percent among {count} pairs", title_justify="left")
    names = list(found["gamma"])
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for row, values in found.items():
        table.add_row(row, *(f"{100 * values[name]:.1f}" for name in names))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if given.json:
        write_text(given.json, json.dumps({"pairs": count, "split": given.split, "recall": found}, indent=1))
        print(f"wrote {given.json}")


if __name__ == "__main__":
    sys.exit(main())
