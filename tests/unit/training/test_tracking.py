"""Tracking: what a record says, what a view is sent, and that no view stops a training run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vea.config import PretrainConfig, RecogniseConfig, RunConfig, load_config
from vea.errors import VeaError
from vea.training import tracking
from vea.training.log import MetricsLog
from vea.training.tracking import Watchdog, last_life, predictions_table, read_records, run_id, values_of

ROOT = Path(__file__).resolve().parents[3]
SWEEPS = sorted((ROOT / "configs" / "wandb").glob("sweep_*.yaml"))


def record(kind: str, step: int, loss: float) -> dict[str, Any]:
    return {"kind": kind, "step": step, "samples": 8 * step, "loss": loss, "time": 1.0}


class FakeRun:
    """A run of a tracker that keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.alerts: list[tuple[str, str]] = []
        self.finished = 0

    def log(self, row: dict[str, Any], *, step: int) -> None:
        self.rows.append((step, row))

    def alert(self, *, title: str, text: str, level: str) -> None:
        self.alerts.append((title, level))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return PretrainConfig(
        name="x",
        out=str(tmp_path),
        data={"train": [{"path": "data/a"}], "global_batch_size": 8, "virtual_readers": 4},
        train={"steps": 40},
        tracking={"backend": "trackio"},
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """The run that every view opened in the test sends to; a new view knows how far the run has come."""
    run = FakeRun()
    api = SimpleNamespace(
        __name__="fake", AlertLevel=SimpleNamespace(INFO="info", WARN="warn", ERROR="error"), Image=lambda path: path
    )

    def opened(*_: Any, **__: Any) -> tracking.View:
        return tracking.View(api, run, first_step=run.rows[-1][0] + 1 if run.rows else 0)

    monkeypatch.setattr(tracking, "open_view", opened)
    return run


# ---------------------------------------------------------------------------------------------------------- the record


def test_the_last_life_counts():
    first = [record("train", 10, 1.0), record("val", 10, 1.5), record("train", 20, 2.0), record("train", 25, 9.0)]
    second = [record("train", 20, 2.5), record("val", 20, 2.75), record("train", 30, 3.0)]
    kept = [(r["kind"], r["step"], r["loss"]) for r in last_life(first + second)]
    assert kept == [("train", 10, 1.0), ("val", 10, 1.5), ("train", 20, 2.5), ("val", 20, 2.75), ("train", 30, 3.0)]


def test_an_owed_validation_takes_nothing_away():
    kept = last_life([record("train", 10, 1.0), record("train", 20, 2.0), record("val", 20, 3.0)])
    assert [(r["kind"], r["step"]) for r in kept] == [("train", 10), ("train", 20), ("val", 20)]


def test_a_cut_line_is_left_out(tmp_path: Path):
    (tmp_path / "m.jsonl").write_text(json.dumps(record("train", 1, 2.0)) + '\n{"kind": "tra')
    assert read_records(tmp_path / "m.jsonl") == [record("train", 1, 2.0)]
    assert read_records(tmp_path / "none.jsonl") == []


def test_values_of_records():
    assert values_of(record("val", 3, 0.5)) == {"samples": 24, "val/loss": 0.5}
    event = {"kind": "event", "step": 3, "samples": 24, "event": "resumed", "text": "at step 3 of 9", "time": 1.0}
    assert values_of(event) == {"samples": 24, "event/resumed": "at step 3 of 9"}


def test_predictions_by_their_class_names():
    sets = {"target": [[0, 1], None], "prediction": [[], [1]], "confidence": [0.5, 0.25]}
    values = {"target": [0.5, None], "prediction": [0.25, 1.0], "confidence": [1.0, 1.0]}
    made = {
        "targets": {"moods": {"classes": ["calm", "glad"]}, "valence": {}},
        "predictions": {"keys": ["a", "b"], "moods": sets, "valence": values},
    }
    assert predictions_table(made, target="moods")[1] == [["a", "calm, glad", "", 0.5], ["b", None, "glad", 0.25]]
    assert predictions_table(made, target="valence")[1] == [["a", 0.5, 0.25, 1.0], ["b", None, 1.0, 1.0]]


# ------------------------------------------------------------------------------------------------------------ the view


def test_one_row_for_each_step_over_two_lives(config: RunConfig, fake: FakeRun, tmp_path: Path):
    log = MetricsLog(tmp_path, config, start_step=0)
    log.write(record("train", 10, 1.0))
    log.write(record("val", 10, 1.5))
    log.write(record("train", 20, 2.0))
    log.close(exit_code=75, reason="stopped by SIGTERM at step 20")
    assert [step for step, _ in fake.rows] == [10]  # step 20 owes its validation
    assert fake.alerts == [] and fake.finished == 1

    log = MetricsLog(tmp_path, config, start_step=20, owes_validation=True)
    log.write(record("val", 20, 2.5))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "grid.png").write_bytes(b"")
    log.show_pictures(tmp_path / "pictures")
    log.write(record("train", 30, 3.0))
    log.close()
    assert [step for step, _ in fake.rows] == [10, 20, 30]
    assert fake.rows[0][1] == {"samples": 80, "train/loss": 1.0, "val/loss": 1.5}
    assert fake.rows[1][1] == {
        "samples": 160,
        "train/loss": 2.0,
        "val/loss": 2.5,
        "event/preempted": "stopped by SIGTERM at step 20",
        "event/resumed": "at step 20 of 40",
        "pictures/grid": str(tmp_path / "pictures" / "grid.png"),
    }
    assert fake.alerts == [("done", "info")]


def test_alerts_on_a_loss_that_is_not_finite(config: RunConfig, fake: FakeRun, tmp_path: Path):
    log = MetricsLog(tmp_path, config, start_step=0)
    log.write(record("train", 10, 1.0))
    log.close(exit_code=1, reason="the loss is not finite at step 11")
    assert fake.alerts == [("loss is not finite", "error")]
    assert fake.rows[-1][1]["event/failed"] == "the loss is not finite at step 11"


def test_alerts_once_when_a_run_stalls(
    config: RunConfig, fake: FakeRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    stalled = threading.Event()
    fake.alert = lambda *, title, text, level: (fake.alerts.append((title, level)), stalled.set())  # type: ignore
    config.tracking.stall_minutes = 0.05 / 60
    log = MetricsLog(tmp_path, config, start_step=0)
    assert stalled.wait(10)
    assert "the run stalls: nothing was logged" in capfd.readouterr().err
    log.close()
    assert fake.alerts == [("stalled", "warn"), ("done", "info")]


def test_a_watchdog_that_hears_something_is_quiet():
    barks: list[float] = []
    dog = Watchdog(5.0, barks.append)
    dog.hear()
    dog.close()
    assert barks == []


def test_a_failing_tracker_stops_nothing(config: RunConfig, fake: FakeRun, tmp_path: Path, capfd):
    def refuse(row: dict[str, Any], *, step: int) -> None:
        raise ConnectionError("no route to host")

    fake.log = refuse  # type: ignore[method-assign]
    log = MetricsLog(tmp_path, config, start_step=0)
    for step in (10, 20, 30):
        log.write(record("train", step, 1.0))
    log.close()
    said = capfd.readouterr().err
    assert said.count("trackio is off for this run (no route to host)") == 1
    kept = read_records(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in kept if r["kind"] == "train"] == [10, 20, 30]


def test_an_absent_tracker_stops_nothing(config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    monkeypatch.setitem(sys.modules, "trackio", None)
    log = MetricsLog(tmp_path, config, start_step=0)
    log.write(record("train", 10, 1.0))
    log.close()
    assert "trackio is off for this run" in capfd.readouterr().err
    assert len(read_records(tmp_path / "metrics.jsonl")) == 2  # the step and the end


def test_the_id_of_a_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert run_id(tmp_path) == run_id(tmp_path)
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    assert run_id(tmp_path) != "abc123"
    (tmp_path / "wandb_id").unlink()
    assert run_id(tmp_path) == "abc123"


# ------------------------------------------------------------------------------------------------- dashboard and sweeps


def test_dashboard_as_json_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb_workspaces", reason="pip install 'vea[dashboard]'")
    from vea.commands.dashboard import main

    for name in ("WANDB_API_KEY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    written = [tmp_path / "a.json", tmp_path / "b.json"]
    for path in written:
        assert main(["--project", "nights", "--out", str(path)]) == 0
    assert written[0].read_text() == written[1].read_text()
    spec = json.loads(written[0].read_text())
    assert spec["workspace"]["project"] == "nights" and spec["report"]["displayName"] == "nights: runs"

    def plots(node: Any) -> list[dict[str, Any]]:
        if isinstance(node, list):
            return [plot for child in node for plot in plots(child)]
        if not isinstance(node, dict):
            return []
        own = [node["config"]] if node.get("viewType") == "Run History Line Plot" else []
        return own + plots(list(node.values()))

    for part in ("workspace", "report"):
        found = plots(spec[part])
        assert {plot["xAxis"] for plot in found} == {"samples"}
        metrics = {metric for plot in found for metric in plot["metrics"]}
        assert {"train/loss", "val/loss", "train/lr", "train/grad_norm", "train/data_wait"} <= metrics
        assert "evaluation/test/expression/confusion_table" in json.dumps(spec[part])


def test_dashboard_says_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    from vea.commands.dashboard import build

    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(VeaError, match=r"pip install 'vea\[dashboard\]'"):
        build(entity="e", project="p", target="expression", split="test")


def choices(parameter: dict[str, Any]) -> list[Any]:
    return parameter.get("values") or [parameter[name] for name in ("min", "max", "value") if name in parameter]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_value_of_a_sweep_fits_its_config(path: Path):
    sweep = yaml.safe_load(path.read_text())
    assert (ROOT / sweep["program"]).is_file()
    [config_file] = [word for word in sweep["command"] if word.startswith("configs/")]
    overrides = {name: choices(parameter) for name, parameter in sweep["parameters"].items()}
    assert all(overrides.values())
    for name, values in overrides.items():
        for value in values:
            config = load_config(ROOT / config_file, [f"{name}={value}"])
            found: Any = config.model_dump()
            for part in name.split("."):
                found = found[part]
            assert found == value
    assert isinstance(config, (PretrainConfig, RecogniseConfig))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_of_a_sweep_as_wandbs_agent_runs_it(path: Path, tmp_path: Path):
    from wandb.sdk.launch.sweeps import utils

    sweep = yaml.safe_load(path.read_text())
    program = tmp_path / "program.py"
    program.write_text("import sys, json; print(json.dumps(sys.argv[1:]))")
    arguments = {name: {"value": choices(parameter)[0]} for name, parameter in sweep["parameters"].items()}
    filled = utils.create_sweep_command_args({"args": arguments})
    filled |= {"interpreter": [sys.executable], "program": [str(program)], "env": ["/usr/bin/env"]}
    line: list[str] = []
    for word in utils.create_sweep_command(list(sweep["command"])):  # as in wandb's Agent._command_run
        line += filled[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    environment = {**os.environ, "WANDB_RUN_ID": "abc", "WANDB_SWEEP_ID": "s1"}
    printed = subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout
    config_file, *overrides = json.loads(printed)
    config = load_config(ROOT / config_file, overrides)
    assert (config.name, config.tracking.group, config.tracking.mode) == ("sweep-abc", "sweep-s1", "online")


def test_sweeps_are_found():
    assert [path.stem for path in SWEEPS] == ["sweep_finetune", "sweep_pretrain"]


@pytest.mark.parametrize(
    ("environment", "config", "mode"),
    [
        ({}, "online", "online"),
        ({}, "offline", "offline"),
        ({"WANDB_MODE": ""}, "online", "online"),
        ({"WANDB_MODE": "offline"}, "online", "offline"),
        ({"WANDB_MODE": "dryrun"}, "online", "offline"),
        ({"WANDB_MODE": "online"}, "offline", "online"),
        ({"WANDB_MODE": "disabled"}, "online", "disabled"),
        ({"WANDB_DISABLED": "true"}, "online", "disabled"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "online", "disabled"),
        ({"WANDB_DISABLED": "false"}, "offline", "offline"),
    ],
)
def test_switches_of_the_environment_go_before_the_config(
    environment: dict[str, str], config: str, mode: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tracking.wandb_mode(config) == mode


@pytest.mark.parametrize("name", ["WANDB_MODE", "WANDB_DISABLED"])
def test_a_disabled_tracker_is_not_opened(
    name: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    opened: list[str] = []
    monkeypatch.setattr(tracking, "open_view", lambda *a, mode, **k: opened.append(mode))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv(name, "disabled" if name == "WANDB_MODE" else "true")
    config.tracking.backend = "wandb"
    tracking.Tracker(tmp_path, config, record=[])
    assert opened == []
