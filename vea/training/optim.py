"""Parameter groups and optimizers: timm's grouping, torch's fused AdamW."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from vea.config import TrainConfig
from vea.tasks.base import Task


def _no_decay(module: nn.Module) -> set[str]:
    return set(module.no_weight_decay()) if hasattr(module, "no_weight_decay") else set()  # type: ignore[operator]


def parameter_groups(task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Returns groups with ``weight_decay`` (0 for biases and other 1-D tensors) and ``lr_scale`` (layer-wise decay).

    The trunk's layers are scaled by trunk_scale * layer_decay ** (depth from the top); everything else has scale 1.
    """
    trunk = task.trunk()
    inside = {id(parameter) for parameter in trunk.parameters()}
    groups: list[dict[str, Any]] = []
    apart = config.layer_decay < 1 or config.trunk_scale < 1
    if apart:
        layers = param_groups_layer_decay(
            trunk, config.weight_decay, tuple(_no_decay(trunk)), layer_decay=config.layer_decay
        )
        for layer in layers:
            scale = config.trunk_scale * layer["lr_scale"]
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
