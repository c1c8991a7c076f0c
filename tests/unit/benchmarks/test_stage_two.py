"""The experiment's arms are valid configs that differ, labels stay out, and rows are compared with the start."""

import importlib.util
import sys

import pytest

from vea.config import load_config


@pytest.fixture(scope="module")
def script(repository):
    spec = importlib.util.spec_from_file_location("vea_stage_two_script", repository / "benchmarks" / "stage_two.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def configs(script, repository):
    path = repository / "configs" / "pretrain" / "stage_two.yaml"
    return {arm: load_config(path, overrides) for arm, overrides in script.ARMS.items()}


def test_every_arm_is_a_config_and_no_two_are_the_same(configs):
    assert len({config.model_dump_json() for config in configs.values()}) == len(configs)


def test_no_arm_reads_a_label_or_a_picture_of_oasis_other_splits(configs):
    for config in configs.values():
        assert config.prompt.source == "caption" and not config.prompt.emotion
        assert {(ref.path, ref.split) for ref in config.data.train} == {
            ("data/captions", "train"),
            ("data/oasis", "train"),
        }
        assert all("oasis" not in ref.path for ref in config.data.val)


def test_rows_are_compared_with_the_start_split_by_split(script, capsys):
    start = {"valence": [0.2, 0.3], "arousal": [0.4, 0.4], "face linear": 0.5, "face knn": 0.4}
    better = {"valence": [0.3, 0.2], "arousal": [0.5, 0.6], "face linear": 0.6, "face knn": 0.4}
    rows = {"start|0": {"end": start}} | {f"full|{seed}": {"end": better, "half": start} for seed in (1, 2)}
    told = script.compared(rows)
    assert told[0] == (
        "full, end, minus start: valence 0.0 ± 0.0 (2 of 4 up), arousal 15.0 ± 0.0 (4 of 4 up), "
        "face linear 10.0 ± 0.0 (2 of 2 up), face knn 0.0 ± 0.0 (0 of 2 up)"
    )
    assert "valence 0.0 ± 0.0 (0 of 4 up)" in told[1]
    script.show(rows, 60)
    assert "shuffled" not in capsys.readouterr().out, "an arm without a row is not shown"
