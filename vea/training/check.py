"""What ``vea doctor`` says about a run: its targets, its model, the weights it starts from, and where it goes on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vea.config import ExplainConfig, FinetuneConfig, PretrainConfig, RecogniseConfig, RunConfig
from vea.config.findings import Finding, collect
from vea.distributed.check import announced_world_size
from vea.errors import VeaError, did_you_mean
from vea.storage import checkpoint
from vea.tasks.recognise import RecogniseTask
from vea.tasks.saved import open_model, shipped_models
from vea.taxonomy.fields import check_same_classes
from vea.training.effects import without_effect
from vea.training.meta import meta_task, sizes
from vea.training.resume import advised_changes, check_same_run
from vea.training.steps import micro_batch_size


def check_targets(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the targets are labels of every set, with the same classes in the same order."""
    if not isinstance(config, FinetuneConfig):
        return
    from vea.training.finetune import label_fields

    fields = label_fields(config)
    for name in config.labels:
        if name not in fields:
            near = did_you_mean(name, fields)
            yield Finding("missing", "targets", f"the data has no label {name!r}{near}", "change targets or the data")
        else:
            classes = f", {len(fields[name].classes)} classes" if fields[name].classes else ""
            yield Finding("ok", "targets", f"{name}: {fields[name].kind}{classes}")


def check_distill(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the recognisers that a run imitates can be opened."""
    if isinstance(config, RecogniseConfig):
        for name in config.distill.models:
            known = open_model(name).task.fields
            yield Finding("ok", "distill", f"{name} knows {', '.join(known)}")


def check_model(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the model can be built with the weights it names, its size, and how a step is divided."""
    if not isinstance(config, PretrainConfig | RecogniseConfig | ExplainConfig):
        yield Finding("warning", "model", f"the doctor does not know the model of recipe {config.recipe!r}")
        return
    counted = sizes(config)
    text = f"{counted.weights / 4e6:.2f} M parameters, {counted.trained / 4e6:.2f} M of them trained"
    pretrained = config.model.encoder.pretrained
    if pretrained and not config.model.encoder.name.startswith("vea_"):
        text += f", encoder from {pretrained}"
    yield Finding("ok", "model", text)
    ranks = announced_world_size()
    micro, accumulate = micro_batch_size(config, ranks)
    shape = f"{ranks} rank{'s' if ranks > 1 else ''} x {accumulate} x {micro} samples"
    yield Finding("ok", "batch", f"{config.data.global_batch_size} = {shape}")


def check_init_from(config: RunConfig) -> Iterator[Finding]:
    """Yields whether ``train.init_from`` is there and fits the encoder, and whether its classes are the data's."""
    path = config.train.init_from
    if path is None:
        return
    if not Path(path).exists() and isinstance(config, RecogniseConfig):
        path = str(shipped_models().get(path, path))
    if not Path(path).exists():
        how = "put them there; published MAE weights become such a folder by `vea import-weights mae FILE OUT`"
        yield Finding("missing", "init_from", f"no weights at {path}", how)
        return
    folder = checkpoint.find_weights(path) if not Path(path).is_file() else Path(path)
    task = meta_task(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied into a model without memory
        yield Finding("ok", "init_from", f"{folder}: {task.load_pretrained(path)}")
    theirs = _metadata(folder).get("classes", {})
    fields = task.fields if isinstance(task, RecogniseTask) else {}
    for name in sorted(set(theirs) & set(fields)):
        try:
            check_same_classes(theirs[name], fields[name].classes, f"label {name!r}")
        except VeaError as error:
            text = f"other classes than the data: {error}"
            yield Finding("warning", "init_from", text, "only its encoder is taken, the heads start anew")


def _metadata(weights: Path) -> dict[str, Any]:
    """Returns what the task said of itself when it saved the weights; nothing for a plain file."""
    beside = weights / "state.json" if weights.is_dir() else weights.with_name("state.json")
    return json.loads(beside.read_text(encoding="utf-8")).get("task", {}) if beside.is_file() else {}


def check_resume(config: RunConfig) -> Iterator[Finding]:
    """Yields from which checkpoint the run would go on, and whether that is the same run."""
    resume, run_dir = config.train.resume, config.run_dir
    found = checkpoint.list_checkpoints(run_dir)
    if resume in ("auto", "never"):
        chosen = found[-1].path if found and resume == "auto" else None
    else:
        chosen = Path(resume)
    if chosen is not None:
        changes = check_same_run(chosen, config=config, advised=advised_changes(run_dir))
        task = meta_task(config)
        if isinstance(task, RecogniseTask):  # a pretraining task would want its teacher for that
            task.check_metadata(_metadata(chosen))
        yield Finding("ok", "resume", "; ".join([f"goes on from {chosen}", *changes]))
    elif found:
        yield Finding("ok", "resume", f"starts anew; {run_dir} is kept beside it")


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about the run."""
    checks = {
        "targets": check_targets,
        "distill": check_distill,
        "model": check_model,
        "settings": without_effect,
    }
    return collect({**checks, "init_from": check_init_from, "resume": check_resume}, config)
