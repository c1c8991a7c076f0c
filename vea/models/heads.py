"""Heads: one linear layer per target on pooled features, and two ways in which the first one sees the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vea.config import BankConfig, ClassifierConfig
from vea.errors import VeaError
from vea.models.bank import PrototypeBank


class LinearHeads(nn.Module):
    """One linear head per target; called with features (B, D), returns {target: logits (B, C) in fp32}."""

    def __init__(self, features: int, *, classes: Mapping[str, int], drop_rate: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(drop_rate)
        self.layers = nn.ModuleDict({name: nn.Linear(features, count) for name, count in classes.items()})
        for layer in self.layers.values():
            nn.init.trunc_normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of every target; computed in fp32 under autocast as well."""
        with torch.autocast(features.device.type, enabled=False):
            features = self.dropout(features.float())
            return {name: layer(features) for name, layer in self.layers.items()}


class BankedHeads(LinearHeads):
    """Linear heads on an embedding plus its nearest prototype (``vea.models.bank``), DICE-Talk's emotion bank.

    y = V (e + U c_k) + b, k = argmin_k |W e - c_k|: so prototype k adds V U c_k, the same for all faces that choose it.
    """

    def __init__(self, features: int, *, bank: BankConfig, classes: Mapping[str, int], drop_rate: float = 0.0):
        super().__init__(features, classes=classes, drop_rate=drop_rate)
        self.bank = PrototypeBank(bank, width=features)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of every target."""
        return super().forward(self.bank(features, step=None).embedding)

    def learn(self, features: Tensor, *, step: int, slot: Tensor, batch_size: int) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the logits, and what holds embeddings near their prototypes (B,); the bank counts what it sees."""
        banked = self.bank(features, step=step, slot=slot, batch_size=batch_size)
        return super().forward(banked.embedding), banked.commitment

    @torch.no_grad()
    def affinities(self, name: str) -> Tensor:
        """Returns (K, C) fp32: what each prototype adds to the logits of target ``name``."""
        return (self.layers[name].weight @ self.bank.up.weight @ self.bank.codes.T).T  # type: ignore[operator]


class AttributeHeads(LinearHeads):
    """Linear heads whose first one is helped by the others: what they predict is added to its logits by a small net.

    A form of vea's own: EmoSet's paper has an attribute module, whose form we do not know. The net's last layer starts
    at zero: training starts as without the module.
    """

    def __init__(self, features: int, *, kinds: Mapping[str, str], classes: Mapping[str, int], drop_rate: float = 0.0):
        super().__init__(features, classes=classes, drop_rate=drop_rate)
        self.first, *others = classes
        self.kinds = {name: kinds[name] for name in others}
        self.module = nn.Sequential(
            nn.Linear(sum(classes[name] for name in others), 64), nn.GELU(), nn.Linear(64, classes[self.first])
        )
        nn.init.zeros_(self.module[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.module[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of every target."""
        logits = super().forward(features)
        with torch.autocast(features.device.type, enabled=False):
            logits[self.first] = logits[self.first] + self.module(activations(logits, self.kinds))
        return logits


class BottleneckHeads(nn.Module):
    """The first target is a linear function of what is predicted for the others, by no other path: y = W s + b.

    s (B, A) are the attributes' activations, in [0, 1] or, of values, in [-1, 1], W is (C, A): to set one attribute by
    hand moves the logits by its column of W times the change. After SESA (arXiv 1708.03246: items in named dimensions)
    and concept bottlenecks (Koh et al., ICML 2020, sections 3.1 and 3.2).

    Args:
        features: width D of the pooled features.
        kinds: {target: kind of its field}; the first one is what the others explain.
        classes: {target: outputs of its head}.
        drop_rate: of dropout before the attributes' heads.
        joint: the loss of the first target also teaches the attributes. Attributes can then carry what their names do
            not say (Mahinpei et al., arXiv 2106.13314, call it leakage); False: it teaches W and b alone.
    """

    def __init__(
        self,
        features: int,
        *,
        kinds: Mapping[str, str],
        classes: Mapping[str, int],
        drop_rate: float = 0.0,
        joint: bool = False,
    ):
        super().__init__()
        self.first, *others = classes
        self.kinds = {name: kinds[name] for name in others}
        self.joint = joint
        self.attributes = LinearHeads(features, classes={name: classes[name] for name in others}, drop_rate=drop_rate)
        self.weights = nn.Linear(sum(classes[name] for name in others), classes[self.first])
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)

    def explained(self, seen: Tensor) -> Tensor:
        """Returns the first target's logits (B, C), fp32, of activations (B, A) in the order of the other targets."""
        with torch.autocast(seen.device.type, enabled=False):
            return self.weights(seen.float())

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Returns the logits of every target."""
        logits = self.attributes(features)
        seen = activations(logits, self.kinds)
        return {self.first: self.explained(seen if self.joint else seen.detach()), **logits}


def activations(logits: Mapping[str, Tensor], kinds: Mapping[str, str]) -> Tensor:
    """Returns (B, A): what is predicted for the targets of ``kinds``, side by side: a sigmoid a member of a label set,
    the softmax of classes (the same without the one number that sigmoids of exclusive classes leave free), tanh of a
    value."""
    soft = {"multilabel": torch.sigmoid, "value": torch.tanh}
    return torch.cat([soft.get(kind, lambda x: x.softmax(1))(logits[name]) for name, kind in kinds.items()], dim=1)


def pool_tokens(features: Tensor, *, pool: str, num_prefix_tokens: int = 1) -> Tensor:
    """Returns (B, D) of a transformer's (B, N, D): the class token (``cls``) or the mean patch token (``avg``)."""
    return features[:, 0] if pool == "cls" else features[:, num_prefix_tokens:].mean(1)


def build_heads(
    model: ClassifierConfig, features: int, *, kinds: Mapping[str, str], classes: Mapping[str, int]
) -> nn.Module:
    """Returns the heads on ``features`` pooled numbers; ``kinds`` and ``classes`` (outputs) are by target.

    Raises:
        VeaError: the config contradicts itself, or the first target has no other to learn from.
    """
    if model.bank is not None:
        if model.attribute_module or model.bottleneck != "off":
            raise VeaError("model.bank goes with plain heads; unset model.attribute_module and model.bottleneck")
        return BankedHeads(features, bank=model.bank, classes=classes, drop_rate=model.drop_rate)
    if not model.attribute_module and model.bottleneck == "off":
        return LinearHeads(features, classes=classes, drop_rate=model.drop_rate)
    if model.attribute_module and model.bottleneck != "off":
        raise VeaError("model.attribute_module and model.bottleneck exclude each other; set one of them")
    if len(classes) < 2:
        key = "attribute_module" if model.attribute_module else "bottleneck"
        raise VeaError(f"model.{key} needs a second target to learn from; add attributes to targets")
    given: dict[str, Any] = {"kinds": kinds, "classes": classes, "drop_rate": model.drop_rate}
    if model.attribute_module:
        return AttributeHeads(features, **given)
    return BottleneckHeads(features, **given, joint=model.bottleneck == "joint")
