"""The ablation's arms are valid configs, and it calls a difference only what exceeds the spread."""

import importlib.util
import sys

import pytest

from vea.config import load_config


@pytest.fixture(scope="module")
def ablation(repository):
    spec = importlib.util.spec_from_file_location("vea_ablation_script", repository / "benchmarks" / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_arm_is_a_config_and_no_two_are_the_same(ablation, repository):
    path = repository / "configs" / "pretrain" / "mixed_cpu.yaml"
    configs = [load_config(path, overrides).model_dump_json() for overrides in ablation.ARMS.values()]
    assert len(set(configs)) == len(configs)


def test_a_difference_counts_where_it_exceeds_both_spreads(ablation):
    def rows(*values):
        return [dict.fromkeys(ablation.COLUMNS, 0.5) | {"valence": value} for value in values]

    told = ablation.differences({"a": rows(0.30, 0.32), "b": rows(0.40, 0.42), "c": rows(0.31, 0.39)})
    assert [sentence.split(" by ")[0] for sentence in told] == ["valence: b over a"]
    assert ablation.differences({"a": rows(0.1), "b": rows(0.9)}) == []  # one seed has no spread
