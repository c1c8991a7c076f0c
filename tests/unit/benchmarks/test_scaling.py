"""The arithmetic of the model of many GPUs in benchmarks/scaling.py."""

import dataclasses
import importlib.util
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vea.losses.contrastive import contrastive_similarity


@pytest.fixture(scope="module")
def scaling(repository):
    place = importlib.util.spec_from_file_location("scaling", repository / "benchmarks/scaling.py")
    module = importlib.util.module_from_spec(place)
    sys.modules["scaling"] = module  # dataclasses look themselves up
    place.loader.exec_module(module)
    return module


def test_all_reduce(scaling):
    machine = scaling.Machine(node_gbytes=100, network_gbps=400, latency_us=0)
    assert scaling.all_reduce_seconds(1e9, 1, machine) == 0
    assert scaling.all_reduce_seconds(1e9, 8, machine) == pytest.approx(2 * 7 / 8 * 1e9 / 100e9)
    assert scaling.all_reduce_seconds(1e9, 16, machine) == pytest.approx(2 * 15 / 16 * 1e9 / 50e9), "the network"
    slow = dataclasses.replace(machine, latency_us=10)
    assert scaling.all_reduce_seconds(0, 16, slow) == pytest.approx(2 * 4 * 10e-6)


@pytest.fixture(scope="module")
def model(scaling):
    return scaling.Model("a student", parameters=100e6, gflop_per_image=80.0)


def test_one_gpu_has_nobody_to_talk_to_and_more_are_never_more_efficient(scaling, model):
    machine = scaling.Machine(checkpoint_every=10**9, loader_cpu_ms=0.1)
    alone = scaling.predict(model, 1, batch=64, machine=machine)
    assert alone["exposed"] == alone["gather"] == 0
    assert alone["efficiency"] == pytest.approx(1, abs=0.01), "the contrastive matrices of 64 samples are all it adds"
    assert alone["images_per_s"] == pytest.approx(989e12 * 0.4 / 80e9, rel=0.01)
    found = [scaling.predict(model, n, batch=64 * n, machine=machine)["efficiency"] for n in (1, 8, 16, 64, 512)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.7


def test_the_slowest_term_decides(scaling, model):
    starved = scaling.Machine(loader_cpu_ms=100.0)
    found = scaling.predict(model, 8, batch=512, machine=starved)
    assert found["loader"] > found["compute"] and found["images_per_s"] < 8 * 8 / 0.1 + 1
    free = scaling.predict(model, 64, batch=4096, machine=scaling.Machine(overlap=1.0))
    bound = scaling.predict(model, 64, batch=4096, machine=scaling.Machine(overlap=0.0))
    assert free["exposed"] < bound["exposed"] == bound["all_reduce"]


@pytest.mark.parametrize(
    ("gpus", "changed", "first"),
    [
        (8, {"loader_cpu_ms": 13.0}, "loader"),
        (16, {"loader_cpu_ms": 0.1}, "exposed"),
        (512, {"loader_cpu_ms": 0.1, "overlap": 1.0, "network_gbps": 1000.0, "latency_us": 0.0}, "gather"),
        (512, {"loader_cpu_ms": 0.1, "overlap": 1.0, "network_gbps": 1e6, "memory_tbytes": 0.01}, "relations"),
        (1, {"loader_cpu_ms": 0.1, "checkpoint_every": 5}, "checkpoint"),
        (1, {"loader_cpu_ms": 0.1, "checkpoint_every": 10**9}, "compute"),
    ],
)
def test_first_to_break(scaling, model, gpus, changed, first):
    found = scaling.predict(model, gpus, batch=64 * gpus, machine=scaling.Machine(**changed))
    assert scaling.first_to_break(found)[0] == first


def test_gather_and_relations_grow_with_the_global_batch(scaling, model):
    machine = scaling.Machine(latency_us=0)
    half, whole = (scaling.predict(model, 64, batch=batch, machine=machine) for batch in (2048, 4096))
    assert whole["gather"] == pytest.approx(4096 * 4 * (2 * 512 + 1) * 63 / 64 / 50e9)
    assert whole["gather"] == pytest.approx(2 * half["gather"])
    assert whole["relations"] == pytest.approx(4 * half["relations"])
    fewer = scaling.predict(model, 16, batch=4096, machine=machine)
    assert fewer["relations"] == pytest.approx(4 * whole["relations"]), "a rank has only the rows of its own samples"


class MatrixPasses(TorchDispatchMode):
    """Counts reads and writes of matrices of ``size`` x ``size``."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if not func.is_view and "_unsafe_view" not in str(func):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, made)) if isinstance(leaf, torch.Tensor)]
            self.count += sum(tensor.numel() == self.size**2 for tensor in tensors)
        return made


def test_the_contrastive_loss_costs_what_the_model_says(scaling):
    count, width = 96, 16
    gamma, image, text = (torch.randn(count, width) for _ in range(3))
    gamma.requires_grad_()
    with MatrixPasses(count) as passes, FlopCounterMode(display=False) as counter:
        contrastive_similarity(gamma, image, text, paired=torch.ones(count)).backward()
    assert counter.get_total_flops() == scaling.MATRIX_PRODUCTS * 2 * count**2 * width
    assert passes.count == pytest.approx(scaling.MATRIX_PASSES, rel=0.1), "torch decomposes it a little differently"


def test_recipe_is_counted(scaling, repository):
    found = scaling.count(str(repository / scaling.RECIPES[0]))
    assert 111e6 < found.parameters < 113e6, "ViT-B and the decoder of MAE"
    assert 70 < found.gflop_per_image < 90
