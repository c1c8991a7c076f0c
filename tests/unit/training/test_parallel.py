"""Gradients of several ranks that do not depend on when a process began, and of a compiled model."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch._inductor.exc import InvalidCxxCompiler

from vea.config import PretrainConfig
from vea.distributed.runtime import Runtime
from vea.errors import RunError
from vea.tasks.pretrain import PretrainTask
from vea.training.parallel import compiling, parallel_model

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
        mp.start_processes(train, args=(str(tmp_path), first), nprocs=RANKS, start_method="forkserver")
    for step in range(RESUMED_AT + 1, STEPS + 1):
        one, other = (torch.load(tmp_path / f"{name}step{step}.pt", weights_only=True) for name in ("", "again-"))
        assert all(torch.equal(one[name], other[name]) for name in one), f"step {step}"


def small_task() -> tuple[PretrainTask, dict]:
    config = PretrainConfig.model_validate({
        "name": "test", "data": {"global_batch_size": 4, "virtual_readers": 1}, "augment": {"image_size": 16},
        "train": {"steps": 1}, "objective": {"similarity": 0, "contrastive": 0},
        "model": {"encoder": {"args": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}},
                  "decoder": {"width": 16, "depth": 1, "heads": 2}, "mask_ratio": 0.5, "fusion": "none"},
    })  # fmt: skip
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    scene = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    noise = torch.rand(4, 2, 4, generator=generator)
    return PretrainTask(config, teacher=None), {"scene": scene, "person": scene, "noise": noise, "text": [""] * 4}


def test_a_compiled_model_has_the_same_loss_and_gradients(monkeypatch):
    """Traced forward and backward as inductor gets them; what it makes of them in C++ is torch's to test."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    gradients, losses = [], []
    for compiled in (False, True):
        task, batch = small_task()
        loss = parallel_model(task, Runtime(torch.device("cpu"), 0, 1, 0), compiled=compiled)(batch, step=0)["loss"]
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: weight.grad for name, weight in task.named_parameters() if weight.requires_grad})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys()  # the names of checkpoints
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def test_without_a_compiler_one_sentence_says_so(monkeypatch):
    def no_compiler(graph, inputs):
        raise InvalidCxxCompiler

    model = torch.compile(nn.Linear(3, 2), backend=no_compiler)
    sentence = r"train.compile.*No working C\+\+ compiler.*train.compile=false"
    with pytest.raises(RunError, match=sentence), compiling(True):
        model(torch.randn(4, 3))
