"""The runner: nothing lost, nothing asked twice, whatever kills it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from server import Misbehaving

import vea
from vea.errors import RunError, VeaError
from vea.evals.run import limit_questions
from vea.evals.tasks import open_task


@pytest.fixture
def statements(tmp_path: Path) -> Path:
    """A file in the published form: eight pictures, five statements each."""
    folder = tmp_path / "mvei"
    folder.mkdir()
    kinds = ["sentiment polarity", "emotion interpretation", "scene context", "perception subjectivity"]
    entries = []
    for i in range(8):
        Image.fromarray(np.full((32, 32, 3), i * 20, np.uint8)).save(folder / f"p{i}.png")
        rows = [
            {"statement": f"claim {i} {j}", "label": "correct" if j % 2 else "incorrect", "class": kinds[j % 4]}
            for j in range(5)
        ]
        entries.append({"image_id": f"p{i}" if i % 2 else f"p{i}.png", "statement_list": rows})
    path = folder / "statements.json"
    path.write_text(json.dumps(entries))
    return path


def test_oracle_constant_and_report(statements: Path, tmp_path: Path):
    out = tmp_path / "out"
    record = vea.evaluate("oracle", f"statements:{statements}", out=out)["statements"]
    assert record["scores"]["text"]["accuracy"] == 1 == record["scores"]["probability"]["accuracy"]
    assert record["context"]["humans"] == 0.916
    record = vea.evaluate("constant:Correct", f"statements:{statements}", out=out)["statements"]
    assert record["scores"]["text"]["accuracy"] == 16 / 40
    assert record["scores"]["text"]["parsers"]["strict"]["overall"]["positive_ratio"] == 1
    page = (out / "report.html").read_text()
    assert (
        "constant:Correct" in page and "data:image/jpeg" in page and "http://" not in page.replace("http://www.w3", "")
    )


def test_a_second_run_asks_nothing(statements: Path, tmp_path: Path):
    server = Misbehaving(lambda n: None)
    first = vea.evaluate(server.url, f"statements:{statements}", out=tmp_path / "o", backoff=0.01)["statements"]
    assert server.requests == 40 and first["cost"]["asked"] == 40
    again = vea.evaluate(server.url, f"statements:{statements}", out=tmp_path / "o", backoff=0.01)["statements"]
    assert server.requests == 40 and again["cost"] == {**again["cost"], "asked": 0, "kept": 40}
    assert first["scores"] == again["scores"]
    vea.evaluate(server.url, f"statements:{statements}", out=tmp_path / "o", image_size=16)
    assert server.requests == 80  # other settings are other answers
    server.close()


def test_a_second_runner_says_who_holds_the_folder(statements: Path, tmp_path: Path):
    server = Misbehaving(lambda n: time.sleep(0.2))
    command = [sys.executable, "-m", "vea.commands.main", "eval", server.url, f"statements:{statements}"]
    command += ["--out", str(tmp_path / "o"), "--concurrency", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(vea.__file__).parents[1])}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "o" / "answers.jsonl").exists() and process.poll() is None:
            time.sleep(0.05)
        with pytest.raises(VeaError, match=f"process {process.pid} on .* is judging into"):
            vea.evaluate("oracle", f"statements:{statements}", out=tmp_path / "o")
    finally:
        process.kill()
        process.wait()
        server.close()
    vea.evaluate("oracle", f"statements:{statements}", out=tmp_path / "o")  # the system dropped its lock


def test_what_failed_is_asked_again(statements: Path, tmp_path: Path):
    server = Misbehaving(lambda n: 500 if n < 10 else None)
    options = {"out": tmp_path / "o", "backoff": 0.001, "retries": 0, "concurrency": 1}
    first = vea.evaluate(server.url, f"statements:{statements}", **options)["statements"]
    assert first["cost"]["failed"] == 10 and first["troubles"] == {"500": 10}
    again = vea.evaluate(server.url, f"statements:{statements}", **options)["statements"]
    assert again["cost"]["asked"] == 10 and again["cost"]["failed"] == 0 and server.requests == 50
    server.close()


def test_a_server_that_never_answers_is_one_sentence(statements: Path, tmp_path: Path):
    server = Misbehaving(lambda n: "nonsense")
    with pytest.raises(RunError, match="unreadable reply"):
        vea.evaluate(server.url, f"statements:{statements}", limit=1, out=tmp_path / "o", retries=0)
    server.close()


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(statements: Path, tmp_path: Path):
    draw = random.Random(0)

    def slow(number: int) -> None:
        time.sleep(0.05)

    server = Misbehaving(slow)
    command = [sys.executable, "-m", "vea.commands.main", "eval", server.url, f"statements:{statements}"]
    command += ["--out", str(tmp_path / "o"), "--concurrency", "2"]
    environment = {**os.environ, "PYTHONPATH": str(Path(vea.__file__).parents[1])}
    kept, kills = tmp_path / "o" / "answers.jsonl", 0
    for goal in (*(draw.randint(1, 2500) for _ in range(3)), None):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = kept.stat().st_size if kept.exists() else 0
        while process.poll() is None and goal is not None:
            if kept.exists() and kept.stat().st_size >= before + goal:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0 and kills, said.decode()
    lines = [json.loads(line)["key"] for line in kept.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 40
    # the only questions that were asked twice are those under way at a kill
    assert server.requests <= 40 + kills * 4
    server.close()


def test_limit_keeps_all_questions_of_a_picture(statements: Path):
    questions = open_task(f"statements:{statements}").questions("test")
    assert len(limit_questions(questions, 3)) == 15 and limit_questions(questions, None) == questions


@pytest.mark.parametrize(
    ("model", "tasks", "options", "said"),
    [
        ("nobody", "statements", {}, "no model"),
        ("oracle", "statemnts", {}, "did you mean"),
        ("oracle", "", {}, "no task"),
        ("oracle", "statements:/nowhere.json", {}, "statement file"),
        ("oracle", "statements", {"limit": 0}, "--limit"),
        ("oracle", "statements", {"readouts": ["logits"]}, "read-out"),
        ("blind:/nowhere", "statements", {}, "neither a pupil"),
    ],
)
def test_bad_input_is_one_sentence(model: str, tasks: str, options: dict, said: str, tmp_path: Path):
    with pytest.raises(VeaError, match=said):
        vea.evaluate(model, tasks, **options)


@pytest.mark.parametrize(
    "broken", ["{}", "[]", '[{"image_id": 1}]', "not json", '[{"image_id":"x","statement_list":[{}]}]']
)
def test_broken_statement_files_are_one_sentence(broken: str, tmp_path: Path):
    path = tmp_path / "s.json"
    path.write_text(broken)
    with pytest.raises(VeaError):
        vea.evaluate("oracle", f"statements:{path}")
