"""Parameter groups and optimizers: timm's grouping, torch's fused AdamW."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from vea.config import TrainConfig
from vea.tasks.base import Task


def _no_decay(module: nn.Module) -> set[str]:
    return set(module.no_weight_decay()) if hasattr(module, "no_weight_decay") else set()  # type: ignore[operator]


def _has_top(trunk: nn.Module) -> bool:
    """Returns whether parameters of the trunk stand beside a head in timm's counting of layers, as ``fc_norm`` does."""
    named = [*trunk.named_parameters(), ("head_of_the_task.weight", None)]
    whole: Any = SimpleNamespace(named_parameters=lambda: named)
    layers = group_parameters(whole, trunk.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    top = layers.pop("head_of_the_task.weight")
    return top in layers.values()


def parameter_groups(task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Returns groups with ``weight_decay`` (0 for biases and other 1-D tensors) and ``lr_scale`` (layer-wise decay).

    Layers are counted as timm counts those of the whole network (Bao et al. 2022, BEiT, section 2.5): what is outside
    the trunk, or above its last block, is the top layer with scale 1, the last block with its norm has ``layer_decay``.
    The trunk's layers are scaled by ``trunk_scale`` as well.
    """
    trunk = task.trunk()
    inside = {id(parameter) for parameter in trunk.parameters()}
    groups: list[dict[str, Any]] = []
    apart = config.layer_decay < 1 or config.trunk_scale < 1
    if apart:
        # timm counts a head as a layer, and the trunk has none
        above = config.trunk_scale * (1.0 if _has_top(trunk) else config.layer_decay)
        layers = param_groups_layer_decay(
            trunk, config.weight_decay, tuple(_no_decay(trunk)), layer_decay=config.layer_decay
        )
        for layer in layers:
            scale = above * layer["lr_scale"]
            groups.append({"params": layer["params"], "weight_decay": layer["weight_decay"], "lr_scale": scale})
    skip = _no_decay(trunk)
    skipped = {id(parameter) for name, parameter in trunk.named_parameters() if name in skip}
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for parameter in task.parameters():
        if not parameter.requires_grad or (id(parameter) in inside and apart):
            continue
        (no_decay if parameter.ndim <= 1 or id(parameter) in skipped else decay).append(parameter)
    groups.append({"params": decay, "weight_decay": config.weight_decay, "lr_scale": 1.0})
    groups.append({"params": no_decay, "weight_decay": 0.0, "lr_scale": 1.0})
    return [group for group in groups if group["params"]]


def build_optimizer(task: Task, config: TrainConfig) -> torch.optim.Optimizer:
    """Returns the optimizer; the engine sets every group's ``lr`` to schedule * ``lr_scale`` before each step."""
    groups = parameter_groups(task, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.base_lr, betas=config.betas, fused=True)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.base_lr, momentum=config.betas[0], nesterov=True)
    return create_optimizer_v2(groups, opt=config.optimizer, lr=config.base_lr)
