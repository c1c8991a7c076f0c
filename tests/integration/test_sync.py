"""What trackers get of a run: a recorder of wandb's API, the offline files read by wandb itself, trackio's data base."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
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

from vea.training.tracking import last_life, read_records, values_of

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------------------------------------- the recorder


class Recorder(ThreadingHTTPServer):
    """As much of wandb's server as its client asks for; what is uploaded lies in the fields of a run."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.runs: dict[str, dict[str, Any]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is not news."""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = operation.group(1) if operation else ""
        project = {"id": "project", "name": "vea", "entity": {"id": "team", "name": "team"}}
        if name == "Viewer":
            teams = {"edges": [{"node": {"name": "team"}}]}
            return {"viewer": {"id": "me", "entity": "team", "username": "me", "email": "", "flags": "{}", "teams": teams}}
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
        return {}

    def _resume_status(self, name: str) -> dict[str, Any] | None:
        run = self.runs.get(name)
        if run is None:
            return None
        counts = {"logLineCount": 0, "historyLineCount": len(run["history"]), "eventsLineCount": 0}
        tails = {"historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]"}
        known = {"summaryMetrics": json.dumps(run["summary"]), "config": json.dumps(run["config"])}
        shown = {"displayName": run["displayName"], "tags": run.get("tags", []), "notes": "", "wandbConfig": "{}"}
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
        self._body()
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
