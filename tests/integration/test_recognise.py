"""Emotion and attributes by the scripts a user runs: a short run on drawn scenes learns more than chance."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run(repository, *words: str) -> str:
    result = subprocess.run([sys.executable, *words], cwd=repository, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def test_attributes_are_learned_evaluated_and_listed(tmp_path, repository):
    run(
        repository,
        "datasets/prepare.py",
        "synthetic",
        "--count",
        "800",
        "--size",
        "64",
        "--out",
        str(tmp_path / "data"),
    )
    words = ["finetune/attributes.py", "configs/finetune/attributes_synthetic.yaml", f"out={tmp_path / 'runs/a'}"]
    words += [f"data.{part}.0.path={tmp_path / 'data'}" for part in ("train", "val")]
    words += [
        "runtime.threads=1",
        "runtime.device=cpu",
        "tracking.backend=none",
        "train.steps=100",
        "data.workers=1",
        "data.global_batch_size=32",
    ]
    run(repository, *words, "augment.image_size=48", "train.eval_every=100", "train.checkpoint_every=100")
    run(repository, "finetune/evaluate.py", str(tmp_path / "runs/a"), "--split", "test", "--calibrate", "--flip")
    record = json.loads((tmp_path / "runs/a/evaluation_test.json").read_text())
    for name in ("brightness", "colorfulness", "scene"):
        result, blind = record["targets"][name], record["blind"][name]
        assert blind["majority"] == pytest.approx(max(result["samples_per_class"]) / result["samples"])
        assert result["metrics"]["accuracy"] > blind["majority"] + 0.05 > blind["chance"], name
    brightness = record["targets"]["brightness"]["intervals"]["accuracy"]
    assert brightness[0] > record["blind"]["brightness"]["majority"], "beyond what 80 scenes can show by luck"
    assert record["blind"]["object"]["metric"] == "mAP" and 0.05 < record["blind"]["object"]["majority"] < 0.3
    assert 0 <= record["targets"]["object"]["metrics"]["mAP"] <= 1
    assert record["calibration"]["emotion"]["temperature"] > 0
    assert (tmp_path / "runs/a/pictures/reliability_test.png").is_file()
    assert "brightness" in run(repository, "-m", "vea.cli", "leaderboard", str(tmp_path / "runs"))
    said = run(repository, "-m", "vea.cli", "compare", str(tmp_path / "runs/a"), str(tmp_path / "runs/a"))
    assert "B - A: +0.0000" in said
