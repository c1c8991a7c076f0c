"""Prepared sets, checkpoints and run folders that older code wrote are still read (tests/data/old/README.md)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vea
from vea.commands.main import main
from vea.config import load_config
from vea.models.mim import MaskedAutoencoder
from vea.storage.checkpoint import list_checkpoints, read_checkpoint

CHECKPOINT = "run/checkpoints/step_00000002"


@pytest.fixture
def old(tmp_path, repository, monkeypatch) -> Path:
    """A copy of the old files, and the current folder, for the run names its data relative to it."""
    shutil.copytree(repository / "tests/data/old", tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


def test_a_prepared_set(old, capsys):
    for split, count in (("train", 8), ("val", 4)):
        dataset = vea.open_dataset("set", split, encode=True)
        assert len(dataset) == count
        for sample in dataset:
            assert sample["image"].shape == (32, 32, 3) and sample["image"].std() > 0
            assert -1 <= sample["labels"]["expression"] < len(dataset.fields["expression"].classes)
    assert main(["shards", "check", "set"]) == 0


def test_a_checkpoint(old):
    weights, ema, optimizer, state = read_checkpoint(CHECKPOINT)
    assert ema is not None and weights.keys() == ema.keys()
    assert state["step"] == 2 and state["recipe"] == "expression" and optimizer
    assert [found.step for found in list_checkpoints(Path("run"))] == [2]


def test_a_run_folder_opens_everywhere(old, capsys):
    config = load_config("run/config.yaml")
    assert config.recipe == "expression" and config.train.steps == 4
    model = vea.from_pretrained("run")
    assert model.image_size == 16 and list(model.fields) == ["expression"]
    picture = np.full((20, 20, 3), 90, np.uint8)
    (result,) = vea.load("run").predict(picture, detect_faces=False)
    assert result.expression in model.fields["expression"].classes
    assert main(["runs", "."]) == 0
    assert "4/4" in capsys.readouterr().out


def test_a_pretrained_encoder(old):
    model = MaskedAutoencoder.from_pretrained("pretrained")
    assert model.num_patches == 4
    output = model(torch.zeros(1, 3, 16, 16), noise=torch.rand(1, 4))
    assert torch.isfinite(output.loss)


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(old, script):
    expected = load_file("run/final/model.safetensors")
    shutil.rmtree("run/final")
    os.remove("run/state.json")
    assert "resuming at step 2 of 4" in script("finetune/train.py", "run/config.yaml", cwd=old)
    found = load_file("run/final/model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():  # the same bits on one machine; others add in another order
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_run_is_evaluated(old, script):
    script("finetune/evaluate.py", "run", "--split", "val", "--weights", "final", cwd=old)
    record = json.loads(Path("run/evaluation_val_final.json").read_text("utf-8"))
    then = json.loads(Path("run/state.json").read_text("utf-8"))["metrics"]
    now = record["targets"]["expression"]["metrics"]
    for name in ("accuracy", "macro_f1", "nll", "ece"):  # then: of the averaged weights, of four steps
        assert now[name] == pytest.approx(then[f"expression/{name}"], abs=1e-3)
