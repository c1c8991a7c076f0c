"""Which runs can be sent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vea.commands.sync import read_run
from vea.errors import VeaError

OLD = Path(__file__).resolve().parents[2] / "data/old/run"


def run_with(folder: Path, **changes) -> Path:
    config = yaml.safe_load((OLD / "config.yaml").read_text())
    config.update(changes)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("")
    return folder


def test_settings_that_this_version_does_not_know_keep_no_run_from_being_sent(tmp_path, capsys):
    plain = yaml.safe_load((OLD / "config.yaml").read_text())
    train = {**plain["train"], "of_tomorrow": 1}
    run = run_with(tmp_path, own_note={"a": [1]}, train=train)
    assert read_run(run).name == plain["name"]
    told = capsys.readouterr().err
    assert "own_note" in told and "train.of_tomorrow" in told


def test_a_value_that_cannot_be_is_still_a_sentence(tmp_path):
    with pytest.raises(VeaError, match="seed"):
        read_run(run_with(tmp_path, seed="many"))
