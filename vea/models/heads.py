"""Heads: one linear layer per target on pooled features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


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
        soft = {"multilabel": torch.sigmoid, "value": torch.tanh}
        seen = [soft.get(kind, lambda x: x.softmax(1))(logits[name]) for name, kind in self.kinds.items()]
        with torch.autocast(features.device.type, enabled=False):
            logits[self.first] = logits[self.first] + self.module(torch.cat(seen, dim=1))
        return logits


def pool_tokens(features: Tensor, *, pool: str, num_prefix_tokens: int = 1) -> Tensor:
    """Returns (B, D) of a transformer's (B, N, D): the class token (``cls``) or the mean patch token (``avg``)."""
    return features[:, 0] if pool == "cls" else features[:, num_prefix_tokens:].mean(1)
