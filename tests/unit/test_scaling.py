"""The arithmetic of the model of many GPUs in benchmarks/scaling.py."""

import dataclasses
import importlib.util
import sys

import pytest


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


def test_one_gpu_has_nobody_to_talk_to_and_more_are_never_more_efficient(scaling):
    machine = scaling.Machine(checkpoint_every=10**9)
    for model in scaling.MODELS:
        alone = scaling.predict(model, 1, batch=64, machine=machine)
        assert alone["efficiency"] == pytest.approx(1) and alone["exposed"] == alone["gather"] == 0
        efficiencies = [
            scaling.predict(model, n, batch=64 * n, machine=machine)["efficiency"] for n in (1, 8, 16, 64, 512)
        ]
        assert efficiencies == sorted(efficiencies, reverse=True) and efficiencies[-1] < 1
        assert alone["images_per_s"] == pytest.approx(989e12 * 0.4 / (model.gflop_per_image * 1e9))


def test_the_slowest_term_decides(scaling):
    starved = scaling.Machine(loader_cpu_ms=100.0)
    found = scaling.predict(scaling.MODELS[0], 8, batch=512, machine=starved)
    assert found["loader"] > found["compute"] and found["images_per_s"] < 8 * 8 / 0.1 + 1
    free = scaling.predict(scaling.MODELS[0], 64, batch=4096, machine=scaling.Machine(overlap=1.0))
    bound = scaling.predict(scaling.MODELS[0], 64, batch=4096, machine=scaling.Machine(overlap=0.0))
    assert free["exposed"] < bound["exposed"] == bound["all_reduce"]
