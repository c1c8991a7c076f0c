"""Configs: what is accepted, what is refused, and the sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vea.config import (
    RECIPES,
    PretrainConfig,
    RecogniseConfig,
    apply_override,
    config_from_command_line,
    load_config,
    read_yaml,
    to_yaml,
)
from vea.errors import VeaError

ROOT = Path(__file__).resolve().parents[3]
# files under configs/wandb describe dashboards, not runs
CONFIGS = sorted(path for folder in ("pretrain", "finetune") for path in (ROOT / "configs" / folder).rglob("*.yaml"))

MINIMAL = {"recipe": "pretrain", "name": "x", "data": {"train": [{"path": "data/a"}]}, "train": {"steps": 10}}


def write(path: Path, content: dict | str) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return write(tmp_path / "run.yaml", MINIMAL)


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(VeaError) as caught:
        load_config(path, list(overrides))
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message  # one sentence
    return message


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.relative_to(ROOT / "configs").as_posix())
def test_every_config_of_the_repository_loads_and_survives_a_round_trip(path: Path, tmp_path: Path):
    text = path.read_text()
    overrides = [] if "name:" in text or "base:" in text else ["name=x", "data.train=[]"]  # a base names no run
    config = load_config(path, overrides)
    assert type(config) is RECIPES[config.recipe]
    again = load_config(write(tmp_path / "again.yaml", to_yaml(config)))
    assert again == config


def test_configs_are_found():
    assert len(CONFIGS) >= 8
    assert {"demo.yaml", "demo_expression.yaml"} <= {path.name for path in CONFIGS}


def test_names_of_runs_are_unique():
    names = [read_yaml(path).get("name") for path in CONFIGS if path.stem not in ("base", "expression_base")]
    assert len(set(names)) == len(names), "two configs would write to one run folder"


def test_defaults_and_the_run_folder(minimal: Path):
    config = load_config(minimal)
    assert isinstance(config, PretrainConfig)
    assert config.seed == 0
    assert config.train.betas == (0.9, 0.95)
    assert config.run_dir == Path("runs/x")
    assert load_config(minimal, ["out=elsewhere/y"]).run_dir == Path("elsewhere/y")


@pytest.mark.parametrize(
    ("override", "key", "near"),
    [
        ("train.stps=3", "train.stps", "steps"),
        ("train.lerning_rate=1", "train.lerning_rate", ""),
        ("objective.reconstructon=0", "objective.reconstructon", "reconstruction"),
        ("model.encoder.nam=vit", "model.encoder.nam", "name"),
        ("teacher.pretraned=x", "teacher.pretraned", "pretrained"),
        ("data.train.0.weigth=2", "data.train.0.weigth", "weight"),
        ("sed=1", "sed", "seed"),
    ],
)
def test_an_unknown_key_names_its_nearest_neighbour(minimal: Path, override: str, key: str, near: str):
    message = refusal(minimal, override)
    assert str(minimal) in message
    assert f"unknown key {key!r}" in message
    if near:
        assert f"did you mean {near!r}?" in message
    else:
        assert "did you mean" in message or "choose from:" in message


def test_a_typo_in_the_file_itself(tmp_path: Path):
    message = refusal(write(tmp_path / "a.yaml", {**MINIMAL, "train": {"steps": 3, "warm_up_steps": 1}}))
    assert "'train.warm_up_steps'" in message
    assert "did you mean 'warmup_steps'?" in message


def test_a_wrong_recipe_and_a_missing_one(minimal: Path):
    assert "did you mean 'pretrain'?" in refusal(minimal, "recipe=pretrian")
    assert "recipe None is not known" in refusal(minimal, "recipe=null")
    with pytest.raises(VeaError, match="recipe 'pretrain', not for this command"):
        load_config(minimal, schema=RecogniseConfig)


def test_a_missing_file_names_its_nearest_neighbour(tmp_path: Path, minimal: Path):
    assert "did you mean 'run.yaml'?" in refusal(tmp_path / "runn.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", "a: b: c\n"])
def test_files_that_are_no_mapping(tmp_path: Path, text: str):
    message = refusal(write(tmp_path / "bad.yaml", text))
    assert "bad.yaml" in message


def test_required_keys(tmp_path: Path):
    message = refusal(write(tmp_path / "a.yaml", {key: value for key, value in MINIMAL.items() if key != "name"}))
    assert "'name' is required and not set" in message


# ------------------------------------------------------------------------------------------------------------- base


def test_base_files_are_merged_underneath_relative_to_the_file(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "low.yaml", {**MINIMAL, "seed": 1, "train": {"steps": 10, "base_lr": 0.5, "weight_decay": 0.2}})
    write(tmp_path / "middle.yaml", {"base": "low.yaml", "seed": 2, "train": {"base_lr": 0.25}})
    top = write(tmp_path / "deep/top.yaml", {"base": "../middle.yaml", "train": {"steps": 20}})
    config = load_config(top)
    assert (config.seed, config.train.steps, config.train.base_lr, config.train.weight_decay) == (2, 20, 0.25, 0.2)


def test_the_later_of_several_bases_wins_and_lists_are_replaced(tmp_path: Path):
    write(tmp_path / "a.yaml", {**MINIMAL, "seed": 1, "data": {"train": [{"path": "a"}, {"path": "b"}], "workers": 7}})
    write(tmp_path / "b.yaml", {"seed": 5, "data": {"train": [{"path": "c"}]}})
    config = load_config(write(tmp_path / "c.yaml", {"base": ["a.yaml", "b.yaml"]}))
    assert config.seed == 5
    assert [ref.path for ref in config.data.train] == ["c"]
    assert config.data.workers == 7


def test_a_missing_base_is_named(tmp_path: Path):
    assert "no config file" in refusal(write(tmp_path / "a.yaml", {"base": "gone.yaml", **MINIMAL}))


# -------------------------------------------------------------------------------------------------------- overrides


def test_overrides_reach_into_lists_and_mappings(minimal: Path):
    config = load_config(
        minimal, ["data.train.0.path=data/b", "data.train.0.weight=2.5", "model.encoder.args.depth=3", "notes=a=b"]
    )
    assert config.data.train[0].path == "data/b"
    assert config.data.train[0].weight == 2.5
    assert config.model.encoder.args == {"depth": 3}
    assert config.notes == "a=b"


def test_overrides_take_yaml_values(minimal: Path):
    overrides = ["data.val=[{path: v, split: test}]", "teacher=null", "train.compile=true", "train.betas=[0.8, 0.9]"]
    config = load_config(minimal, overrides)
    assert (config.data.val[0].path, config.data.val[0].split) == ("v", "test")
    assert config.teacher is None
    assert config.train.compile is True
    assert config.train.betas == (0.8, 0.9)


@pytest.mark.parametrize("written", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_a_rate_may_be_written_in_any_way(minimal: Path, tmp_path: Path, written: str):
    assert load_config(minimal, [f"train.base_lr={written}"]).train.base_lr == 1e-4
    text = yaml.safe_dump({**MINIMAL, "train": {"steps": 10}}).replace("steps: 10", f"steps: 10\n  base_lr: {written}")
    assert load_config(write(tmp_path / "in_file.yaml", text)).train.base_lr == 1e-4


@pytest.mark.parametrize(
    "override", ["train.steps", "=3", "data.train.4.path=x", "data.train.first.path=x", "name.a=1"]
)
def test_overrides_that_do_not_fit(minimal: Path, override: str):
    assert repr(override) in refusal(minimal, override)


def test_apply_override_makes_sections_on_the_way():
    data: dict = {}
    apply_override(data, "a.b.c=3")
    assert data == {"a": {"b": {"c": 3}}}


# ------------------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.steps=many", ["train.steps", "'many'"]),
        ("train.steps=0", ["train.steps", "greater than or equal to 1"]),
        ("train.steps=1.5", ["train.steps", "1.5"]),
        ("train.base_lr=-1", ["train.base_lr", "greater than 0"]),
        ("train.optimizer=adam", ["train.optimizer", "'adamw'"]),
        ("train.compile=perhaps", ["train.compile", "'perhaps'"]),
        ("train.betas=[0.9]", ["train.betas"]),
        ("model.mask_ratio=1", ["model.mask_ratio", "less than 1"]),
        ("data.train=data/a", ["data.train", "list"]),
        ("data.train.0.fraction=2", ["data.train.0.fraction", "less than or equal to 1"]),
        ("model.fusion=hard", ["model.fusion", "'easy'"]),
        ("train=3", ["train", "3"]),
    ],
)
def test_wrong_values_are_named_with_their_place(minimal: Path, override: str, parts: list[str]):
    message = refusal(minimal, override)
    assert all(part in message for part in parts), message


def test_warm_up_longer_than_the_run(minimal: Path):
    assert "warmup_steps (11) is larger than steps (10)" in refusal(minimal, "train.warmup_steps=11")
    assert load_config(minimal, ["train.warmup_steps=10"]).train.warmup_steps == 10


def test_the_batch_is_a_multiple_of_the_readers(minimal: Path):
    message = refusal(minimal, "data.global_batch_size=30", "data.virtual_readers=8")
    assert "global_batch_size (30) must be a multiple of virtual_readers (8)" in message


def test_values_are_checked_again_when_assigned(minimal: Path):
    config = load_config(minimal)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        config.data.workers = -1


# ------------------------------------------------------------------------------------------------------ command line


def test_the_command_line_of_a_recipe(minimal: Path, capsys: pytest.CaptureFixture[str]):
    config = config_from_command_line("Trains.", [str(minimal), "train.steps=7", "seed=3"], PretrainConfig)
    assert (config.train.steps, config.seed) == (7, 3)
    with pytest.raises(SystemExit) as caught:
        config_from_command_line("Trains a model.", [], PretrainConfig)
    assert caught.value.code == 2
    assert "Trains a model." in capsys.readouterr().err
