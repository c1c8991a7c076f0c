"""Emotion and attributes by the scripts a user runs: a short run on drawn scenes learns more than chance."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import pytest
import yaml

from vea.commands.main import main as vea_main
from vea.data import synthetic
from vea.data.shards.plan import write_dataset

COUNTS = (("train", 64), ("val", 20), ("test", 20))
pytestmark = pytest.mark.slow


def test_attributes_are_learned_evaluated_and_listed(tmp_path, script, capsys):
    script("datasets/prepare.py", "synthetic", "--count", "800", "--size", "64", "--out", tmp_path / "data")
    words = ["finetune/train.py", "configs/finetune/attributes_synthetic.yaml", f"out={tmp_path / 'runs/a'}"]
    words += [f"data.{part}.0.path={tmp_path / 'data'}" for part in ("train", "val")]
    words += [
        "runtime.threads=1",
        "runtime.device=cpu",
        "tracking.backend=none",
        "train.steps=80",
        "data.workers=1",
        "data.global_batch_size=32",
    ]
    script(*words, "augment.image_size=48", "train.eval_every=80", "train.checkpoint_every=80")
    script("finetune/evaluate.py", str(tmp_path / "runs/a"), "--split", "test", "--calibrate")
    file = tmp_path / "runs/a/evaluation_test.json"
    before, record = file.stat(), json.loads(file.read_text())
    script("finetune/evaluate.py", str(tmp_path / "runs/a"), "--split", "test", "--flip", "--weights", "final")
    other = json.loads((tmp_path / "runs/a/evaluation_test_final_flip.json").read_text())
    assert other["flip"] and file.stat() == before, "another way of scoring replaces no result"
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
    capsys.readouterr()
    assert vea_main(["leaderboard", str(tmp_path / "runs")]) == 0
    assert "brightness" in capsys.readouterr().out
    assert vea_main(["compare", str(tmp_path / "runs/a"), str(tmp_path / "runs/a")]) == 0
    assert "B - A: +0.0000" in capsys.readouterr().out


def test_two_sets_without_a_common_label_make_one_model_that_each_of_them_scores(tmp_path, repository, script):
    drawn = {split: list(islice(synthetic.samples(count, split=split, size=48), count)) for split, count in COUNTS}
    own = {"faces": ("expression",), "scenes": ("valence", "arousal")}
    for name, labels in own.items():
        fields = {label: synthetic.FIELDS[label] for label in labels}
        kept = {
            split: [replace(s, labels={k: v for k, v in s.labels.items() if k in labels}) for s in samples]
            for split, samples in drawn.items()
        }
        write_dataset(kept, tmp_path / name, name=name, title=name, fields=fields, card=None, synthetic=True)
    sets = {part: [{"path": str(tmp_path / name), "split": part} for name in own] for part in ("train", "val")}
    config = {
        "base": str(repository / "configs/finetune/emotion_oasis.yaml"), "data": {**sets, "global_batch_size": 16},
        "targets": {"expression": 1.0}, "select_by": "expression/accuracy",
        "distill": {"models": ["expression"], "weight": 0.8, "only_labelled": True},
    }  # fmt: skip
    (tmp_path / "joint.yaml").write_text(yaml.safe_dump(config))
    words = ["train.steps=6", "train.warmup_steps=1", "train.eval_every=6", "runtime.device=cpu", "runtime.threads=1"]
    script("finetune/train.py", str(tmp_path / "joint.yaml"), *words, "tracking.backend=none",
        "data.workers=0", f"out={tmp_path / 'run'}")  # fmt: skip
    for name, labels in own.items():
        score = ["finetune/evaluate.py", str(tmp_path / "run"), "--split", "test"]
        script(*score, "--data", str(tmp_path / name))
        record = json.loads((tmp_path / f"run/evaluation_test_{name}.json").read_text())
        assert set(record["targets"]) == set(labels), "a set scores the labels that it has"
    script(*score)
    record = json.loads((tmp_path / "run/evaluation_test.json").read_text())
    assert set(record["targets"]) == {"expression", "valence", "arousal"}
    assert record["targets"]["valence"]["samples"] == 20 >= record["targets"]["expression"]["samples"] > 0
