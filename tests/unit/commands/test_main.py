"""``vea VERB``: exit codes, what is printed where, and the verbs that live in vea.commands.main."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import vea
from vea.commands.main import VERBS, main
from vea.commands.runs import HEADER, duration, run_row
from vea.config import TrainConfig
from vea.errors import VeaError

ROOT = Path(__file__).resolve().parents[3]
DEMO = str(ROOT / "configs/pretrain/demo.yaml")


def run(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vea.commands.main", *argv], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_a_typo_in_a_config_is_one_line_on_stderr_and_exit_code_2():
    result = run("config", DEMO, "train.stps=3")
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "'train.stps'" in line
    assert "did you mean 'steps'?" in line


@pytest.mark.parametrize("script", ["pretrain/train.py", "finetune/train.py"])
def test_a_recipe_refuses_a_typo_in_the_same_way(script: str, tmp_path: Path):
    config = DEMO if script.startswith("pretrain") else str(ROOT / "configs/finetune/demo_expression.yaml")
    command = [sys.executable, str(ROOT / script), config, "train.waight_decay=0.1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert "did you mean 'weight_decay'?" in line
    assert list(tmp_path.iterdir()) == []  # a refused config leaves nothing behind


def test_an_unknown_verb_names_the_nearest():
    result = run("confg")
    assert result.returncode == 2
    assert result.stderr == "error: vea has no verb 'confg' (did you mean 'config'?)\n"


def test_debug_keeps_the_traceback(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(VeaError, match="no verb"):
        main(["confg", "--debug"])
    with pytest.raises(VeaError, match="no prepared data set"):  # a guarded main below does not swallow it
        main(["--debug", "shards", "stats", "nowhere"])
    assert main(["shards", "stats", "nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(argv: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(argv) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all(f"\n  {name} " in printed.out for name in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vea {vea.__version__}\n"


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_loads_and_has_help(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: vea {name}" in capsys.readouterr().out


def test_config_prints_yaml_that_is_a_config_again(capsys: pytest.CaptureFixture[str]):
    assert main(["config", DEMO, "train.steps=50", "train.base_lr=1e-4"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["train"]["steps"] == 50
    assert printed["train"]["base_lr"] == 1e-4
    in_file = yaml.safe_load(Path(DEMO).read_text())["train"]["checkpoint_every"]
    assert printed["train"]["checkpoint_every"] == in_file != TrainConfig(steps=1).checkpoint_every
    assert printed["train"]["clip_grad"] is None  # a default, written out


def test_report_of_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no run folder" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- runs


def make_run(folder: Path, *, record: dict | str, checkpoints: tuple[str, ...] = ()) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("recipe: pretrain\n")
    (folder / "state.json").write_text(record if isinstance(record, str) else json.dumps(record))
    for name in checkpoints:
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "state.json").write_text("{}")


def test_runs_lists_state_step_best_and_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    best = {"metric": "expression/accuracy", "value": 0.51239, "step": 80}
    done = {"state": "done", "step": 100, "steps": 100, "best": best}
    make_run(tmp_path / "a", record=done, checkpoints=("step_00000050", "step_00000100"))
    make_run(tmp_path / "sweep/b", record={"state": "running", "step": 3, "steps": 9, "best": None})
    (tmp_path / "a/checkpoints/step_00000200").mkdir()  # no state.json: a killed writer's leftover
    assert main(["runs", str(tmp_path)]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "run" and header.split() == " ".join(HEADER).split()
    best_shown = "expression/accuracy 0.5124 at step 80"
    assert first.split() == ["a", "done", "100/100", "-", "-", "-", *best_shown.split(), "step_00000100"]
    assert second.split() == ["sweep/b", "running", "3/9", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("age", "interval", "alive", "state"),
    [
        (4, 2, None, "running"),
        (299, 2, None, "running"),
        (400, 2, None, "stopped"),  # another machine's run that says nothing
        (400, 100, None, "running"),  # a slow one
        (4, 2, False, "stopped"),  # this machine's, and its process is gone
        (400, 2, True, "running, silent"),
    ],
)
def test_runs_does_not_believe_a_dead_run(age, interval, alive, state, tmp_path: Path):
    where = {} if alive is None else {"host": platform.node(), "pid": os.getpid() if alive else dead_pid()}
    record = {"state": "running", "step": 0, "steps": 90, "best": None, **where}
    make_run(tmp_path / "a", record=record)
    now = time.time()
    lines = [{"kind": "train", "step": step, "images_per_s": 99.6, "eta_s": 1000.0} for step in (7, 8)]
    for line, moment in zip(lines, (now - age - interval, now - age)):
        line["time"] = moment
    (tmp_path / "a/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')
    os.utime(tmp_path / "a/state.json", (now - 5000, now - 5000))
    name, shown, step, rate, eta, told, *_ = run_row(tmp_path / "a", name="a")
    assert (name, shown, step, rate) == ("a", state, "8/90", "100")
    assert eta == (duration(1000 - age) if state == "running" else "-")
    assert told == f"{duration(age)} ago"


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_runs_of_hundreds_is_quick_and_imports_no_torch(tmp_path: Path):
    line = json.dumps({"kind": "train", "step": 1, "time": time.time(), "loss": 0.123456789}) + "\n"
    for number in range(300):
        make_run(tmp_path / f"group/{number:03}", record={"state": "done"}, checkpoints=("step_00000001",))
        (tmp_path / f"group/{number:03}/metrics.jsonl").write_text(line * 2000)
    start = time.perf_counter()
    result = run("runs", str(tmp_path))
    assert len(result.stdout.splitlines()) == 301
    assert time.perf_counter() - start < 10
    code = f"import sys; from vea.commands.main import main; main(['runs', {str(tmp_path)!r}])"
    code += "; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0


def test_runs_of_a_broken_state_and_of_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_run(tmp_path / "runs/a", record='{"state": "do')
    assert main(["runs", str(tmp_path / "runs")]) == 0
    assert "unreadable state.json" in capsys.readouterr().out
    assert main(["runs", str(tmp_path / "nowhere")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["runs", str(tmp_path / "empty")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "no folder" in errors[0]
    assert "no run below" in errors[1]
