"""The pupil's arms are valid configs that differ, and statements are calibrated on validation, kind by kind."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from vea.config import load_config


@pytest.fixture(scope="module")
def script(repository):
    sys.path.insert(0, str(repository / "benchmarks"))
    spec = importlib.util.spec_from_file_location(
        "vea_instruct_ablation", repository / "benchmarks/instruct_ablation.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


@pytest.fixture
def given(repository):
    return Namespace(config=repository / "configs/finetune/instruct_smollm2.yaml", data=Path("data"), model="m",
                     out=Path("runs"), steps=70, precision="bf16", threads=1)  # fmt: skip


def test_every_arm_is_a_config_with_the_same_budget_and_no_two_are_the_same(script, given):
    configs = {arm: load_config(given.config, script.settings(given, arm)) for arm in script.ARMS}
    assert len({config.model_dump_json() for config in configs.values()}) == len(configs)
    whole = load_config(given.config)
    budgets = {(c.train.steps, c.data.global_batch_size, c.train.base_lr) for c in configs.values()}
    assert budgets == {(70, whole.data.global_batch_size, whole.train.base_lr)}
    assert configs[script.TWIN].model.blind and not configs[script.ALL].model.blind
    assert configs[script.TWIN].data == configs[script.ALL].data
    assert [ref.path for ref in configs["expressions alone"].data.train] == ["data/lessons-fer"]
    assert all("texts" not in ref.path for ref in configs["without texts"].data.train)


def test_statements_are_read_above_the_share_that_validation_has(script):
    def rows(kind, shares):
        return [{"key": f"{kind}{i}", "group": str(i), "prompt": "", "class": kind, "truth": truth,
                 "probabilities": {"Correct": p, "Incorrect": 1 - p}, "points": {"probability": 0.0}}
                for i, (p, truth) in enumerate(shares)]  # fmt: skip

    shy = [(0.1 + 0.2 * (i % 2), "Correct" if i % 2 else "Incorrect") for i in range(60)]  # .3 says Correct
    bold = [(0.7 + 0.2 * (i % 2), "Correct" if i % 2 else "Incorrect") for i in range(60)]  # .7 says Incorrect
    known = [*rows("a", shy), *rows("b", bold)]
    judged = script.calibrated(known, known)
    assert sum(row["points"]["probability"] for row in judged) == 120
    few = script.calibrated(rows("a", shy[:4]), rows("a", shy[:4]))  # too few to fit: by their own shares
    assert [row["points"]["probability"] for row in few] == [1.0, 0.0, 1.0, 0.0]
