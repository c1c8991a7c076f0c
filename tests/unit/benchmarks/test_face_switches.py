"""The arms are valid configs that differ, and cells say what they hold."""

import importlib.util
import sys

import pytest

from vea.config import load_config


@pytest.fixture(scope="module")
def switches(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    spec = importlib.util.spec_from_file_location("vea_face_switches", repository / "benchmarks" / "face_switches.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


def test_every_arm_is_a_config_and_no_two_are_the_same(switches, repository):
    configs = [load_config(repository / switches.CONFIG, overrides) for overrides in switches.ARMS.values()]
    assert len({config.model_dump_json() for config in configs}) == len(configs) == 3
    assert [config.model.bank is not None for config in configs] == [False, False, True]
    assert [config.distill.calibrate for config in configs] == [False, True, False]


def test_cells(switches):
    rows = [{"expression": 0.5, "bank perplexity": 2.0}, {"expression": 0.52, "bank perplexity": 3.0}]
    assert switches.shown(rows, "expression") == "51.0 ± 1.4" and switches.shown(rows, "weights") == "-"
    assert switches.shown(rows, "bank perplexity") == "2.50 ± 0.71"
