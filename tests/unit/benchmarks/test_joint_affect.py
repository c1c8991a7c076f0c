"""The comparison of teachers is paired by seed, and each arm is the config with what its name says."""

import importlib.util
import json

import pytest

from vea.config import load_config


@pytest.fixture
def benchmark(repository, monkeypatch):
    monkeypatch.chdir(repository)
    spec = importlib.util.spec_from_file_location("vea_joint_affect_script", repository / "benchmarks/joint_affect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gains_are_paired_by_seed(benchmark, monkeypatch, tmp_path, capsys):
    asked = []

    def evaluated(folder, recipe, config, *overrides):
        made = load_config(config, list(overrides))
        asked.append((made.seed, made.distill.models, made.distill.only_labelled))
        value = 0.3 + 0.1 * made.seed + (0.02 if made.distill.models else 0)
        names = {"expression": "accuracy", "valence": "ccc", "arousal": "ccc"}
        return {"targets": {name: {"metrics": {metric: value}} for name, metric in names.items()}}

    monkeypatch.setattr(benchmark, "evaluated", evaluated)
    said = tmp_path / "said.json"
    assert not benchmark.main(["--seeds", "0", "1", "--out", str(tmp_path), "--json", str(said)])
    each = ["expression", "scene"]
    assert asked == [(0, [], True), (0, each, True), (1, [], True), (1, each, True)]
    assert json.loads(said.read_text())["results"]["labels"][1]["valence"] == 0.4
    assert "2.0 ± 0.0" in capsys.readouterr().out
