"""Paired differences and a table over eval runs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vea
from vea.commands.main import main
from vea.errors import VeaError
from vea.evals.compare import leaderboard_rows, paired


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    entries = []
    for i in range(6):
        Image.fromarray(np.full((8, 8, 3), i * 30, np.uint8)).save(tmp_path / f"{i}.png")
        rows = [{"statement": f"{i} {j}", "label": "correct", "class": "scene context"} for j in range(4)]
        entries.append({"image_id": str(i), "statement_list": rows})
    (tmp_path / "s.json").write_text(json.dumps(entries))
    for name in ("oracle", "uniform", "constant:Incorrect"):
        vea.evaluate(name, f"statements:{tmp_path / 's.json'}", out=tmp_path / "runs" / name.partition(":")[0])
    return tmp_path / "runs"


def test_paired_difference(runs: Path, capsys):
    found = paired(runs / "constant", runs / "oracle")
    assert found["n"] == 24 and (found["a"], found["b"], found["low"], found["high"]) == (0, 1, 1, 1)
    half = paired(runs / "uniform", runs / "oracle")
    assert half["low"] < half["b"] - half["a"] < half["high"]
    assert main(["compare", str(runs / "uniform"), str(runs / "oracle")]) == 0
    assert "paired bootstrap by picture" in capsys.readouterr().out


def test_leaderboard(runs: Path, capsys):
    models = [row[2] for row in leaderboard_rows(runs) if row[1] == "text"]
    assert models == ["oracle", "uniform", "constant:Incorrect"]
    assert main(["leaderboard", str(runs)]) == 0 and "uniform" in capsys.readouterr().out


def test_nothing_in_common_is_one_sentence(runs: Path, tmp_path: Path):
    with pytest.raises(VeaError, match="vea eval"):
        paired(tmp_path, runs / "oracle")
    with pytest.raises(VeaError, match="not a task"):
        paired(runs / "oracle", runs / "uniform", task="choice")
    (runs / "oracle" / "judged_statements.jsonl").write_text("{")
    with pytest.raises(VeaError, match="not readable"):
        paired(runs / "oracle", runs / "uniform")
