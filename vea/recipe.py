"""What the fine-tuning recipes share: config -> runtime -> data -> task -> fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from vea import runtime as vea_runtime
from vea.config import ExplainConfig, ExpressionConfig
from vea.data.collate import merged_fields
from vea.data.loaders import eval_loader, train_loader
from vea.data.sample import LabelField
from vea.data.shards import read_index
from vea.errors import VeaError
from vea.hub import open_model
from vea.report import write_report
from vea.tasks.base import Task
from vea.tasks.expression import ExpressionTask
from vea.training.engine import fit

ConfigT = TypeVar("ConfigT", ExpressionConfig, ExplainConfig)


def label_fields(config: ExpressionConfig | ExplainConfig) -> dict[str, LabelField]:
    """Returns the label fields of all sets together; those that share a target must have the same classes in order."""
    if not config.data.train or not config.data.val:
        raise VeaError("name a set in data.train and one in data.val, e.g. [{path: data/fer2013plus, split: val}]")
    paths = dict.fromkeys(ref.path for ref in [*config.data.train, *config.data.val])
    return merged_fields({path: read_index(path).fields for path in paths}, used=config.targets)


def class_counts(config: ExpressionConfig, *, fields: dict[str, LabelField]) -> dict[str, list[float]]:
    """Returns {target: samples per class} of the training sets, as their indexes count them."""
    counts = {name: [0.0] * len(fields[name].classes) for name in config.targets if name in fields}
    for ref in config.data.train:
        for shard in read_index(ref.path).split(ref.split)["shards"]:
            for name, row in counts.items():
                seen = shard["label_counts"].get(name, {})
                counts[name] = [n + seen.get(word, 0) for n, word in zip(row, fields[name].classes)]
    return counts


def recogniser(config: ExpressionConfig, fields: dict[str, LabelField]) -> ExpressionTask:
    """Returns the task of ``config`` with the teachers it names."""
    with torch.random.fork_rng(devices=[]):  # the first weights are the same with and without teachers
        teachers = [open_model(name).task for name in config.distill.models]
    return ExpressionTask(config, fields=fields, counts=class_counts(config, fields=fields), teachers=teachers)


def fine_tune(
    config: ConfigT, build: Callable[[ConfigT, dict[str, LabelField]], Task], *, eval_batch_size: int = 256
) -> None:
    """Trains the run that ``config`` describes and writes its report.

    Args:
        config: of a fine-tuning recipe.
        build: makes the task, from the config and the label fields of the data.
        eval_batch_size: at most, on each rank.

    Raises:
        VeaError: data, weights and config do not fit.
    """
    runtime = vea_runtime.start(config.runtime, precision=config.train.precision)
    fields = label_fields(config)
    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = build(config, fields)
    if config.train.init_from:
        loaded = task.load_pretrained(config.train.init_from)
        if runtime.is_main:
            print(f"init_from {config.train.init_from}: {loaded}", flush=True)

    place: dict[str, Any] = {"rank": runtime.rank, "world_size": runtime.world_size}
    summary = fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, views="classify", start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=partial(
            eval_loader,
            config,
            views="classify",
            refs=config.data.val,
            batch_size=min(eval_batch_size, 2 * config.data.global_batch_size),
            **place,
        ),
    )

    if runtime.is_main:
        best = summary.best
        assert best is not None  # the last step always validates
        print(f"best: {best['metric']} {best['value']:.4f} at step {best['step']}, in {summary.run_dir / 'best'}")
        print(f"report: {write_report(summary.run_dir)}")
    vea_runtime.stop()
