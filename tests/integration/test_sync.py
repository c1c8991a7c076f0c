"""What trackers get of a run: by a recorder of wandb's API, by wandb's own reader, by trackio's data base."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import os
import re
import runpy
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------------------------------------- the recorder


class Recorder(ThreadingHTTPServer):
    """As much of wandb's server as its client asks for; what is uploaded lies in the fields of a run."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hangs up is not news
            super().handle_error(request, client_address)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation.group(1) if operation else ""
        project = {"id": "project", "name": "vea", "entity": {"id": "team", "name": "team"}}
        if name == "Viewer":
            viewer = {"id": "me", "entity": "team", "username": "me", "email": "", "flags": "{}"}
            return {"viewer": {**viewer, "teams": {"edges": [{"node": {"name": "team"}}]}}}
        if name == "RunResumeStatus":
            return {"model": {**project, "bucket": self._resume_status(variables["name"])}}
        if name == "UpsertBucket":
            run = self.runs.setdefault(variables["name"], {"history": [], "summary": {}, "exit": None, "files": []})
            run |= {key: variables[key] for key in ("tags", "groupName", "displayName", "jobType") if variables[key]}
            run["config"] = json.loads(variables["config"])
            bucket = {"id": "run", "name": variables["name"], "displayName": run["displayName"], "description": ""}
            bucket |= {"config": variables["config"], "sweepName": "", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run["history"])}, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": file, "uploadUrl": f"{self.url}/put/{file}"} for file in variables["files"]]
            self.runs[variables["run"]]["files"] += variables["files"]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        if name == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if name == "ArtifactType":  # no artifact of this name yet
            return {"project": None}
        if name == "CreateArtifact":
            self.artifacts.append(variables["input"])
            artifact = {"id": "artifact", "state": "PENDING"}
            artifact["artifactSequence"] = {"id": "sequence", "latestArtifact": None}
            return {"createArtifact": {"artifact": artifact}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            file = {"id": "file", "uploadUrl": f"{self.url}/put/manifest", "uploadHeaders": []}
            return {name[0].lower() + name[1:]: {"artifactManifest": {"id": "manifest", "file": file}}}
        if name == "CreateArtifactFiles":
            names = [file["name"] for file in variables["input"]["artifactFiles"]]
            node = {"uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": "artifact"}}
            nodes = [{**node, "storagePath": n, "uploadUrl": f"{self.url}/put/artifact/{n}"} for n in names]
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if name == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "artifact", "digest": "0"}}}
        raise AssertionError(f"wandb's client asks something new: {query}")

    def _resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        counts = {"logLineCount": 0, "historyLineCount": len(run["history"]), "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]"}
        known = {"summaryMetrics": json.dumps(run["summary"]), "config": json.dumps(run["config"])}
        shown = {"displayName": run["displayName"], "tags": run.get("tags", []), "notes": ""}
        shown["wandbConfig"] = json.dumps({"t": run["config"]["_wandb"]["value"]["t"]})  # it tells a run from a name
        return {"id": "run", "name": name, **counts, **tails, **known, **shown}

    def stream(self, name: str, message: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, chunk in (message.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if file == "wandb-history.jsonl":
                assert chunk["offset"] == len(run["history"]), "the client writes over rows that are there"
                run["history"] += lines
            elif file == "wandb-summary.json":
                run["summary"] = lines[-1]
        if message.get("complete"):
            run["exit"] = message.get("exitcode")


class Handler(BaseHTTPRequestHandler):
    server: Recorder

    def log_message(self, *arguments: Any) -> None:
        pass

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            request = json.loads(body)
            self._reply({"data": self.server.answer(request["query"], request.get("variables") or {})})
            return
        if self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        self._reply({})

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/put/")] = self._body()
        self._reply({})

    def do_GET(self) -> None:
        self._reply({})


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    server = Recorder()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


# ------------------------------------------------------------------------------------------------------------ the runs


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # wandb leaves the address of its service in the environment: a child is to start its own
    ours = {name for name in os.environ if "WANDB" not in name or name.endswith("_DIR")}
    inherited = {name: os.environ[name] for name in ours}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def sync(*words: str | Path, server: Recorder | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    if server:
        environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "k" * 40, "WANDB_INIT_TIMEOUT": "120"}
    return python("-m", "vea.commands.main", "sync", *map(str, words), **environment)


def train(work: Path, name: str, *overrides: str, apart: bool = False) -> Path:
    """Runs the smoke config in this process, for its first seconds are torch's, or apart; returns the run folder."""
    run_dir = work / "runs" / name
    small = ["train.steps=6", "train.warmup_steps=2", "train.log_every=1", "train.eval_every=2", "data.workers=0"]
    small += ["train.checkpoint_every=2", "data.global_batch_size=16", "data.virtual_readers=4"]
    small += [f"data.train.0.path={work / 'data'}", f"data.val.0.path={work / 'data'}"]
    small += ["runtime.device=cpu", "runtime.threads=1", f"name={name}", f"out={run_dir}"]
    words = [str(ROOT / "configs/pretrain/smoke.yaml"), *small, *overrides]
    if apart:
        subprocess.run([sys.executable, str(ROOT / "pretrain" / "train.py"), *words], check=True)
    else:
        assert runpy.run_path(str(ROOT / "pretrain" / "train.py"))["main"](words) == 0
    return run_dir


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sync")
    prepare = runpy.run_path(str(ROOT / "datasets" / "prepare.py"))["main"]
    assert prepare(["synthetic", "--count", "48", "--size", "64", "--out", str(folder / "data")]) == 0
    return folder


@pytest.fixture(scope="module")
def restarted(work: Path) -> Path:
    """An offline run of two lives: the first lost what it did after its checkpoint of step 4."""
    overrides = ["tracking.group=nights", "tracking.tags=[tiny,test]", "tracking.artifacts=true"]
    run_dir = train(work, "restarted", *overrides)
    for lost in ("checkpoints/step_00000006", "final"):
        shutil.rmtree(run_dir / lost)
    (run_dir / "wandb").rename(run_dir / "wandb_of_first_life")
    return train(work, "restarted", *overrides)


def recorded(run_dir: Path) -> dict[int, dict[str, Any]]:
    """What metrics.jsonl says of each step, the last line of a kind and step counting."""
    rows: dict[int, dict[str, Any]] = {}
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        kind, row = record["kind"], rows.setdefault(record["step"], {})
        if kind == "event":
            row[f"event/{record['event']}"] = record["text"]
            continue
        row["samples"] = record["samples"]
        numbers = record.keys() - {"kind", "step", "samples", "time"}
        row |= {f"{kind}/{name}": record[name] for name in numbers}
    return rows


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row of wandb's history without its own bookkeeping and without pictures."""
    return {k: v for k, v in row.items() if not k.startswith(("_", "pictures/", "evaluation/"))}


def offline_history(folder: Path) -> list[dict[str, Any]]:
    """The history in an offline run, as `wandb leet inspect` reads it."""
    [path] = folder.glob("*.wandb")
    read = python("-m", "wandb", "leet", "inspect", "--json", str(path))
    assert read.returncode == 0, read.stderr
    lines = [json.loads(line) for line in read.stdout.splitlines()]
    return [line["history"]["item"] for line in lines if line["type"] == "history"]


# ----------------------------------------------------------------------------------------------------------- the proof


def test_sync_sends_exactly_the_record(restarted: Path, recorder: Recorder):
    first = sync(restarted, server=recorder)
    assert first.returncode == 0, first.stderr
    assert "6 steps" in first.stdout
    run = recorder.runs[(restarted / "wandb_id").read_text()]
    wanted = recorded(restarted)
    assert [row["_step"] for row in run["history"]] == sorted(wanted) == [1, 2, 3, 4, 5, 6]
    assert {row["_step"]: shown(row) for row in run["history"]} == wanted
    assert wanted[4]["event/resumed"] == "at step 4 of 6"
    assert (run["groupName"], run["displayName"], run["jobType"]) == ("nights", "restarted", "pretrain")
    assert sorted(run["tags"]) == ["test", "tiny"]
    assert run["config"]["train"]["value"]["steps"] == 6
    assert run["summary"]["state"] == "done" and run["exit"] == 0
    assert run["summary"]["train/loss"] == wanted[6]["train/loss"]
    metrics = run["config"]["_wandb"]["value"]["m"]  # by wandb's numbers: 1 name, 2 glob, 5 place of the x-axis
    assert any(metric.get("2") == "*" and metrics[metric["5"] - 1]["1"] == "samples" for metric in metrics)
    assert any(name.startswith("media/images/pictures/reconstruction") for name in run["files"])
    [weights] = recorder.artifacts
    assert weights["artifactCollectionName"] == "restarted-final" and weights["artifactTypeName"] == "model"
    assert json.loads(weights["metadata"])["step"] == 6
    assert recorder.files["artifact/model.safetensors"] == (restarted / "final/model.safetensors").read_bytes()

    before = list(run["history"])
    second = sync(restarted, server=recorder)
    assert second.returncode == 0, second.stderr
    assert "nothing new (after step 6" in second.stdout
    assert run["history"] == before and len(recorder.artifacts) == 1


def test_sync_of_a_run_that_goes_on_of_lost_steps_and_of_an_evaluation(
    restarted: Path, recorder: Recorder, tmp_path: Path
):
    run_dir = tmp_path / "copy"
    run_dir.mkdir()
    shutil.copy(restarted / "config.yaml", run_dir)

    def record(*lines: tuple[str, int, float]) -> str:
        facts = [{"kind": k, "step": s, "samples": 16 * s, "loss": v, "time": 1.0} for k, s, v in lines]
        return "".join(json.dumps(fact) + "\n" for fact in facts)

    lost = record(("train", 2, 9.0), ("train", 4, 8.0), ("val", 4, 8.5), ("train", 6, 7.0), ("train", 7, 0.0))
    (run_dir / "metrics.jsonl").write_text(lost + record(("train", 6, 7.25)) + '{"kind": "train", "st')
    (run_dir / "state.json").write_text(json.dumps({"state": "running", "step": 6}))
    assert sync(run_dir, server=recorder).returncode == 0
    run = recorder.runs[(run_dir / "wandb_id").read_text()]
    assert [row["_step"] for row in run["history"]] == [2, 4]  # the validation of step 6 may still come

    rest = record(("train", 6, 7.25), ("val", 6, 7.5), ("train", 8, math.nan))
    (run_dir / "metrics.jsonl").write_text(lost + rest)
    best = {"metric": "loss", "value": 7.5, "step": 6}
    (run_dir / "state.json").write_text(json.dumps({"state": "failed", "step": 8, "best": best}))
    result = {"metrics": {"accuracy": 0.75}, "classes": ["calm", "glad"], "confusion": [[2, 0], [1, 1]]}
    columns = {"target": [0, 0, 1, -1], "prediction": [0, 0, 0, 1], "confidence": [0.9, 0.8, 0.6, 0.7]}
    evaluation = {"split": "test", "targets": {"mood": result}, "predictions": {"keys": list("abcd"), "mood": columns}}
    (run_dir / "evaluation_test.json").write_text(json.dumps(evaluation))
    sent = sync(run_dir, server=recorder)
    assert sent.returncode == 0, sent.stderr
    assert "2 steps, 1 evaluation (after step 4" in sent.stdout
    *rows, scored = run["history"]
    values = [(row["_step"], row["samples"], row["train/loss"], row.get("val/loss")) for row in rows]
    assert values[:-1] == [(2, 32, 9.0, None), (4, 64, 8.0, 8.5), (6, 96, 7.25, 7.5)]
    assert values[-1][:2] == (8, 128) and math.isnan(values[-1][2])
    assert scored["_step"] == 9 and scored["evaluation/test/mood/accuracy"] == 0.75
    assert run["summary"]["best/loss"] == 7.5 and run["summary"]["best/step"] == 6 and run["exit"] == 1
    tables = [json.loads(body) for name, body in recorder.files.items() if name.endswith(".table.json")]
    confusion = next(table for table in tables if "nPredictions" in table["columns"])
    assert confusion["data"] == [["calm", "calm", 2], ["calm", "glad", 0], ["glad", "calm", 1], ["glad", "glad", 1]]
    predictions = next(table for table in tables if "confidence" in table["columns"])
    assert predictions["data"][2:] == [["c", "glad", "calm", 0.6], ["d", None, "glad", 0.7]]

    again = sync(run_dir, server=recorder)
    assert again.returncode == 0, again.stderr
    assert "nothing new" in again.stdout and "evaluation" not in again.stdout
    assert len(run["history"]) == 5


def test_sync_says_in_one_sentence_what_is_missing(restarted: Path, tmp_path: Path):
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    keyless = sync(restarted, **home)
    assert keyless.returncode == 1 and "no wandb API key: set WANDB_API_KEY" in keyless.stderr
    offline = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2"}
    unreachable = sync(restarted, **home, **offline)
    assert unreachable.returncode == 1 and "was not sent in full: wandb says" in unreachable.stderr
    nowhere = sync(tmp_path / "none")
    assert nowhere.returncode == 2 and "no run at" in nowhere.stderr
    for result in (keyless, unreachable, nowhere):
        assert [line for line in result.stderr.splitlines() if not line.startswith("wandb: ")][1:] == []


# ----------------------------------------------------------------------------------------------------- without network


def test_an_offline_run_has_every_step_once(restarted: Path):
    """Its second life's file holds the whole history; so does the file that `vea sync --offline` writes."""
    wanted = recorded(restarted)
    for folder in (restarted / "wandb").glob("offline-run-*"):
        history = offline_history(folder)
        assert [row["_step"] for row in history] == sorted(wanted)
        assert all(row.items() >= wanted[row["_step"]].items() for row in history)
    before = set((restarted / "wandb").glob("offline-run-*"))
    assert len(before) == 1
    written = sync(restarted, "--offline")
    assert written.returncode == 0, written.stderr
    [folder] = set((restarted / "wandb").glob("offline-run-*")) - before
    assert str(folder) in written.stdout
    history = offline_history(folder)
    assert [row["_step"] for row in history] == sorted(wanted)
    assert all(row.items() >= wanted[row["_step"]].items() for row in history)


def test_trackio_has_every_step_once(work: Path, monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("trackio is not installed: pip install 'vea[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(work / "trackio"))
    # trackio reads its folder when it is imported, and trl, of another test, imports it
    run_dir = train(work, "trackio", "tracking.backend=trackio", "tracking.group=nights", apart=True)
    with sqlite3.connect(work / "trackio" / "vea.db") as database:
        rows = database.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
        alerts = database.execute("SELECT title, level FROM alerts").fetchall()
    wanted = recorded(run_dir)
    assert [step for step, _ in rows] == sorted(wanted) == [1, 2, 3, 4, 5, 6]
    assert {step: shown(json.loads(row)) for step, row in rows} == wanted
    assert "pictures/reconstruction" in json.loads(rows[-1][1])
    assert alerts == [("done", "info")]
