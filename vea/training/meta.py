"""The task of a config without memory: built on torch's meta device, its sizes are exact and nothing is computed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vea.config import (
    AlignConfig,
    ExplainConfig,
    FinetuneConfig,
    ObjectiveConfig,
    PretrainConfig,
    RecogniseConfig,
    RunConfig,
)
from vea.config.pretrain import WITH_TEACHER
from vea.errors import VeaError
from vea.models.uniemox import UniEmoX
from vea.tasks.align import ClipTask, training_words
from vea.tasks.base import Task
from vea.tasks.pretrain import PretrainTask

TEACHER_WIDTH = 512  # stands in for the teacher's own, which changes one small layer


@dataclass(frozen=True)
class Sizes:
    """What the model of a config takes, in bytes."""

    weights: int
    trained: int  # of them
    activations: int  # kept for the backward pass, per sample, fp32
    optimizer: int  # its state: two moments a parameter, or one
    checkpoint: int  # weights, their average, the optimizer's state
    flops: int  # of one sample's forward, a multiplication and an addition each; without a teacher


@dataclass
class _Key:
    """A config as what ``lru_cache`` can remember."""

    config: RunConfig

    def __hash__(self) -> int:
        return hash(self.config.model_dump_json())


def meta_task(config: RunConfig) -> Task:
    """Returns the task of ``config`` on the meta device; a pretraining task without its teacher.

    Raises:
        VeaError: the config's parts do not fit each other, the weights it names, or the data.
    """
    return _meta_task(_Key(config))


def sizes(config: RunConfig) -> Sizes:
    """Returns the bytes of the model of ``config``; raises as ``meta_task`` does."""
    return _sizes(_Key(config))


@lru_cache(maxsize=1)
def _meta_task(key: _Key) -> Task:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that are read have nowhere to go
        return build(key.config)


def build(config: RunConfig) -> Task:
    """Returns the task on the current device; a pretraining task without its teacher."""
    if isinstance(config, PretrainConfig):
        objective = {name: 0 for name in WITH_TEACHER} | {"reconstruction": 1, "norm_pix": config.objective.norm_pix}
        alone = config.model_copy(update={"objective": ObjectiveConfig.model_validate(objective)})
        task = PretrainTask(alone, teacher=None)
        width = TEACHER_WIDTH if config.objective.needs_teacher else None
        size = config.augment.image_size
        task.model = UniEmoX(config.model, image_size=size, objective=config.objective, teacher_width=width)
        return task
    if isinstance(config, FinetuneConfig):
        from vea.training.finetune import build_task, label_fields

        if isinstance(config, RecogniseConfig):  # models that are imitated have memory, and are looked at elsewhere
            config = config.model_copy(update={"distill": type(config.distill)()})
        return build_task(config, label_fields(config))
    if isinstance(config, AlignConfig) and config.model.clip:
        return ClipTask(config, training_words(config))
    raise VeaError(f"the model of recipe {config.recipe!r} is not known to the doctor")


@lru_cache(maxsize=1)
def _sizes(key: _Key) -> Sizes:
    task, config = meta_task(key.config), key.config
    weights = sum(tensor.nbytes for tensor in task.state_to_save().values())
    trained = sum(parameter.nbytes for parameter in task.parameters() if parameter.requires_grad)
    activations, flops = forward_cost(task, config)
    optimizer = (1 if config.train.optimizer in ("sgd", "muon") else 2) * trained
    return Sizes(
        weights=weights,
        trained=trained,
        activations=activations,
        optimizer=optimizer,
        checkpoint=weights * (2 if config.train.ema_decay else 1) + optimizer,
        flops=flops,
    )


def forward_cost(task: Task, config: RunConfig) -> tuple[int, int]:
    """Returns (bytes that a sample's forward keeps for its backward pass in fp32, its operations), on the meta device.

    Of a model that explains it is the image encoder's alone: transformers' decoders do not run there.
    """
    own = {parameter.untyped_storage()._cdata for parameter in task.parameters()}
    kept: dict[int, Any] = {}  # storages, kept alive so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    size, batch = config.augment.image_size, 2  # batch norm wants two
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        outputs: Any = None
        if isinstance(task, PretrainTask):
            views = torch.empty(batch, 3, size, size)
            outputs = task.model(views, views, torch.empty(batch, 2, task.model.mim.num_patches))
        elif isinstance(config, RecogniseConfig):
            encoder: Any = task.train().trunk()
            with torch.set_grad_enabled(config.model.train != "linear"):
                outputs = getattr(encoder, "forward_features", encoder)(
                    torch.empty(batch, config.model.channels, size, size)
                )
        elif isinstance(config, ExplainConfig):
            explainer: Any = task.train()
            outputs = explainer.encode(torch.empty(batch, 3, size, size))
        total = sum(storage.nbytes() for storage in kept.values())
        del outputs  # lived until here, and with it what is counted
    return total // batch, counter.get_total_flops() // batch
