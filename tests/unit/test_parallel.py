"""Gradients of several ranks that do not depend on when a process began."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from vea.runtime import Runtime
from vea.training.parallel import parallel_model

RANKS, RESUMED_AT, STEPS = 4, 2, 4


class Fork(nn.Module):
    """Its gradients are ready in another order than DDP expects, and fill more than one segment of a ring."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(300, 7), nn.Linear(500, 300), nn.Linear(16, 500)

    def forward(self, x):
        return self.last(self.middle(self.first(x).tanh()).tanh()).square().mean()


def train(rank, folder, first):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, init_method=f"file://{folder}/meeting-{first}")
    torch.manual_seed(0)
    network = Fork()
    if first:
        network.load_state_dict(torch.load(f"{folder}/step{first}.pt", weights_only=True))
    model = parallel_model(network, Runtime(torch.device("cpu"), rank, RANKS, rank), compiled=False)
    for step in range(first, STEPS):
        model(torch.randn(5, 16, generator=torch.Generator().manual_seed(100 * step + rank))).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter -= parameter.grad
                parameter.grad = None
        if rank == 0:
            torch.save(network.state_dict(), f"{folder}/{'again-' if first else ''}step{step + 1}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_ranks_that_start_again_end_with_the_same_bits(tmp_path):
    for first in (0, RESUMED_AT):
        mp.spawn(train, args=(str(tmp_path), first), nprocs=RANKS)
    for step in range(RESUMED_AT + 1, STEPS + 1):
        one, other = (torch.load(tmp_path / f"{name}step{step}.pt", weights_only=True) for name in ("", "again-"))
        assert all(torch.equal(one[name], other[name]) for name in one), f"step {step}"
