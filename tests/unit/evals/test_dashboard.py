"""What a dashboard of judged models is sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.errors import VeaError
from vea.evals.dashboard import COLUMNS, flat, show
from vea.evals.run import evaluate


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Path, dict]:
    generator = np.random.default_rng(0)
    for name in ("happy", "sad"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            pixels = generator.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{i}.png")
    out = tmp_path / "out"
    return out, evaluate("constant:happy", f"choice:{tmp_path / 'set'}", out=out)


def test_a_table_of_all_answers_is_sent(judged: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    out, records = judged
    monkeypatch.setenv("WANDB_MODE", "offline")
    show(out, records, project="test")
    (table,) = out.glob("wandb/offline-run-*/files/media/table/choice/answers_*.table.json")
    held = json.loads(table.read_text())
    assert held["columns"] == ["picture", *COLUMNS] and len(held["data"]) == 4
    assert {row[held["columns"].index("right, text")] for row in held["data"]} == {0.0, 1.0}


def test_without_a_key_one_sentence(judged: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    with pytest.raises(VeaError, match="WANDB_API_KEY"):
        show(*judged, project="test")


def test_scores_become_paths():
    assert dict(flat({"a": {"b": 1, "words": "x"}, "c": 0.5}, "t")) == {"t/a/b": 1.0, "t/c": 0.5}
