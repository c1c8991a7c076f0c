"""What the fine-tuning recipes share: config -> runtime -> data -> task -> fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from vea.config import ExplainConfig, FinetuneConfig, InstructConfig, RecogniseConfig, TemporalConfig
from vea.data.loading.loader import eval_loader, train_loader
from vea.data.shards.index import read_index
from vea.data.streams.stream import stream_fields
from vea.data.streams.urls import is_stream
from vea.distributed.runtime import Runtime
from vea.errors import VeaError
from vea.tasks.base import Task
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model
from vea.taxonomy.fields import LabelField, merged_fields
from vea.training.engine import Summary, fit


def label_fields(config: FinetuneConfig) -> dict[str, LabelField]:
    """Returns the label fields of all sets together; those that share a target must have the same classes in order."""
    if not config.data.train or not config.data.val:
        raise VeaError("name a set in data.train and one in data.val, e.g. [{path: data/fer2013plus, split: val}]")
    fields = {
        ref.path: stream_fields(ref) if is_stream(ref.path) else read_index(ref.path).fields
        for ref in [*config.data.train, *config.data.val]
    }
    return merged_fields(fields, used=config.labels)


def class_counts(config: RecogniseConfig, *, fields: dict[str, LabelField]) -> dict[str, list[float]]:
    """Returns {target: samples per class} of the training sets, as their indexes count them; a stream has none."""
    counts = {name: [0.0] * len(fields[name].classes) for name in config.targets if name in fields}
    for ref in config.data.train:
        if is_stream(ref.path):
            continue
        for shard in read_index(ref.path).split(ref.split)["shards"]:
            for name, row in counts.items():
                seen = shard["label_counts"].get(name, {})
                counts[name] = [n + seen.get(word, 0) for n, word in zip(row, fields[name].classes)]
    return counts


def recogniser(config: RecogniseConfig, fields: dict[str, LabelField]) -> RecogniseTask:
    """Returns the task of ``config`` with the teachers it names."""
    with torch.random.fork_rng(devices=[]):  # the first weights are the same with and without teachers
        teachers = [open_model(name).task for name in config.distill.models]
    return RecogniseTask(config, fields=fields, counts=class_counts(config, fields=fields), teachers=teachers)


def build_task(config: FinetuneConfig, fields: dict[str, LabelField]) -> Task:
    """Returns the task of ``config``, by its recipe."""
    if isinstance(config, ExplainConfig):
        from vea.tasks.explain import ExplainTask  # it needs transformers

        return ExplainTask(config, fields=fields)
    if isinstance(config, TemporalConfig):
        from vea.tasks.temporal import TemporalTask

        return TemporalTask(config, fields=fields)
    if isinstance(config, InstructConfig):
        if config.model.kind == "hf":
            from vea.tasks.instruct_whole import InstructWholeTask

            return InstructWholeTask(config)
        from vea.tasks.instruct import InstructTask  # so do they

        return InstructTask(config)
    assert isinstance(config, RecogniseConfig)
    return recogniser(config, fields)


def fine_tune(config: FinetuneConfig, runtime: Runtime) -> Summary:
    """Returns what became of the run that ``config`` describes: data -> task -> fit.

    Raises:
        VeaError: data, weights and config do not fit.
    """
    fields = label_fields(config)
    torch.manual_seed(config.seed)  # the same first weights on every rank, and in a run that is started again
    task = build_task(config, fields)

    place: dict[str, Any] = {"rank": runtime.rank, "world_size": runtime.world_size}
    validation = partial(
        eval_loader,
        config,
        task.item_spec(),
        refs=config.data.val,
        batch_size=min(config.eval_batch_size, 2 * config.data.global_batch_size),
        **place,
    )
    return fit(
        task,
        config=config,
        runtime=runtime,
        train_batches=lambda start_step, micro_batch: train_loader(
            config, task.item_spec(), start_step=start_step, micro_batch=micro_batch, **place
        ),
        eval_batches=validation,
    )
