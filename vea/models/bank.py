"""A bank of prototypes: vector quantisation of an embedding, added to it (after DICE-Talk's emotion bank)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vea.config import BankConfig
from vea.distributed import collectives


class Banked(NamedTuple):
    """What the bank made of a batch."""

    embedding: Tensor  # (B, D): the embedding plus its prototype
    commitment: Tensor  # (B,) fp32: beta |z - c_k|^2, mean over channels
    codes: Tensor  # int64 (B,): k, the nearest prototype


class PrototypeBank(nn.Module):
    """out = e + U (z + sg(c_k - z)), z = W e, k = argmin_k |z - c_k|: the gradient passes straight through.

    Prototypes follow the average of the embeddings that chose them (VQ-VAE, arXiv 1711.00937, appendix A.1), once a
    step, with those of the whole global batch: they are buffers, so they are saved, every rank has the same, and
    neither ranks nor accumulation change them but for the order of sums. U starts at 0: at first nothing is added.
    After the first step the prototypes are embeddings of its batch; later one that is hardly used starts again.

    Args:
        config: number and width of prototypes, and how they move.
        width: D.
    """

    codes: Tensor
    use: Tensor
    sums: Tensor
    seen_use: Tensor
    seen_sums: Tensor
    candidates: Tensor
    seen_step: Tensor

    def __init__(self, config: BankConfig, *, width: int) -> None:
        super().__init__()
        self.config = config
        self.down = nn.Linear(width, config.width, bias=False)
        self.up = nn.Linear(config.width, width, bias=False)
        nn.init.zeros_(self.up.weight)
        shape = config.codes, config.width
        self.register_buffer("codes", torch.empty(shape).uniform_(-1 / config.codes, 1 / config.codes))
        self.register_buffer("use", torch.zeros(config.codes))  # average count a step; all 0: not started
        self.register_buffer("sums", torch.zeros(shape))
        self.register_buffer("seen_use", torch.zeros(config.codes))  # of the step that is being made
        self.register_buffer("seen_sums", torch.zeros(shape))
        self.register_buffer("candidates", torch.zeros(shape))
        self.register_buffer("seen_step", torch.tensor(-1))

    def forward(self, embedding: Tensor, *, step: int | None, slot: Tensor | None = None,
                batch_size: int = 1) -> Banked:  # fmt: skip
        """Returns the embedding with its prototype added.

        Args:
            embedding: (B, D).
            step: of training; None: nothing is counted.
            slot: int (B,), places in the global batch.
            batch_size: of the global batch.
        """
        with torch.autocast(embedding.device.type, enabled=False):
            z = self.down(embedding.float())
            if step is not None:
                assert slot is not None
                self._see(z.detach(), step, slot, batch_size)
            nearest = self.nearest(z)
            prototype = self.codes[nearest]
            through = z + (prototype - z).detach()
            commitment = self.config.commitment * (z - prototype).square().mean(-1)
        return Banked(embedding + self.up(through), commitment, nearest)

    def nearest(self, z: Tensor) -> Tensor:
        """Returns int64 (B,): the nearest prototype of each row; the first of those that are as near."""
        return (z.detach()[:, None] - self.codes).square().sum(2).argmin(1)  # ONNX has no cdist

    @torch.compiler.disable
    @torch.no_grad()
    def _see(self, z: Tensor, step: int, slot: Tensor, batch_size: int) -> None:
        """Moves the prototypes by the step before, once, at a step's first micro-batch; counts this micro-batch."""
        if step != int(self.seen_step):
            if int(self.seen_step) >= 0:
                self._move()
            self.seen_use.zero_()
            self.seen_sums.zero_()
            self.seen_step.fill_(step)
        rows, places = collectives.all_gather(z), collectives.all_gather(slot)
        one_hot = F.one_hot(self.nearest(rows), len(self.codes)).float()
        self.seen_use += one_hot.sum(0)
        self.seen_sums += one_hot.T @ rows
        # prototype k may start again from the sample in its place of the global batch, whichever micro-batch has it
        wanted = torch.arange(len(self.codes), device=z.device) * batch_size // len(self.codes)
        here = places[None] == wanted[:, None]
        found = here.any(1)
        self.candidates[found] = rows[here.int().argmax(1)[found]]

    def _move(self) -> None:
        if not self.use.any():  # nothing was learned yet: start from embeddings
            self.use.fill_(self.seen_use.sum() / len(self.use))
            self.codes.copy_(self.candidates)
            self.sums.copy_(self.use[:, None] * self.codes)
            return
        self.use.lerp_(self.seen_use, 1 - self.config.decay)
        self.sums.lerp_(self.seen_sums, 1 - self.config.decay)
        mean = self.use.mean()
        self.codes.copy_(self.sums / self.use.clamp(min=1e-6)[:, None])
        dead = self.use < self.config.restart * mean
        self.codes[dead] = self.candidates[dead]
        self.use[dead] = mean
        self.sums[dead] = mean * self.candidates[dead]
