"""A head for action units on a recogniser's pooled features; the recogniser stays as it is.

Distilled (``finetune/units.py``): what it imitates is ``vea.taxonomy.action_units.read_units``, no person's codes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vea.errors import VeaError


class UnitHead(nn.Module):
    """Two layers; called with features (B, F), returns (B, K), each 0 to 1.

    Args:
        features: F.
        units: the K names, in order.
        hidden: width of the layer between.

    Attributes:
        described: how it was made and how well it imitates, for whoever opens the file.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, units: tuple[str, ...], *, hidden: int = 256) -> None:
        super().__init__()
        self.units = units
        self.described: dict[str, Any] = {}
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.hidden, self.out = nn.Linear(features, hidden), nn.Linear(hidden, len(units))

    def logits(self, features: Tensor) -> Tensor:
        """Returns (B, K)."""
        return self.out(torch.relu(self.hidden((features.float() - self.mean) / self.std)))

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(features))

    def write(self, path: Path) -> None:
        """Writes one safetensors file in fp16; names and ``described`` are in its metadata."""
        tensors = {name: value.half().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"units": json.dumps(self.units), "described": json.dumps(self.described)})

    @classmethod
    def read(cls, path: Path) -> UnitHead:
        """Returns what ``write`` wrote, in evaluation mode.

        Raises:
            VeaError: there is no such file, or it holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                known = file.metadata()
            hidden, features = weights["hidden.weight"].shape
            head = cls(features, tuple(json.loads(known["units"])), hidden=hidden)
            head.load_state_dict(weights)
            head.described = json.loads(known["described"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise VeaError(f"{path} holds no head for action units ({' '.join(str(error).split())[:200]}); write it "
                           "again with finetune/units.py") from None  # fmt: skip
        return head.eval()
