"""Heads over time: from embeddings of frames to a number a frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vea.config.temporal import TemporalHeadConfig


class TemporalHead(nn.Module):
    """Maps embeddings (B, T, F) to numbers (B, T) in (-1, 1).

    ``gru``: gated recurrent units (Cho et al. 2014) both ways, so that a frame knows what comes after it. ``conv``:
    residual convolutions over time. ``frame``: neither, each frame alone.
    """

    def __init__(self, config: TemporalHeadConfig, *, features: int) -> None:
        super().__init__()
        self.kind, width = config.head, config.width
        self.inside = nn.Sequential(nn.LayerNorm(features), nn.Dropout(config.drop_rate), nn.Linear(features, width))
        out = width
        self.over_time: nn.Module | None = None
        if config.head == "gru":
            self.over_time = nn.GRU(width, width, config.layers, batch_first=True, bidirectional=True)
            out = 2 * width
        elif config.head == "conv":
            half = config.kernel // 2
            self.over_time = nn.ModuleList(
                nn.Conv1d(width, width, config.kernel, padding=half, padding_mode="replicate")
                for _ in range(config.layers)
            )
        self.outside = nn.Sequential(nn.Dropout(config.drop_rate), nn.Linear(out, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Returns (B, T) of (B, T, F)."""
        x = self.inside(embeddings.float())
        if self.kind == "gru":
            assert self.over_time is not None
            x = self.over_time(torch.nn.functional.gelu(x))[0]
        elif self.kind == "conv":
            for layer in self.over_time:  # type: ignore[union-attr]
                x = x + layer(torch.nn.functional.gelu(x).transpose(1, 2)).transpose(1, 2)
        return self.outside(torch.nn.functional.gelu(x))[..., 0].tanh()
