"""A signal that comes before training (imports, teacher, model) ends with 75 as well, so that the job is requeued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_distributed import free_port

pytestmark = pytest.mark.slow

PRETRAIN = ["pretrain/train.py", "configs/pretrain/smoke.yaml"]
EXPRESSION = ["finetune/train.py", "configs/finetune/demo_expression.yaml"]


def listens(pid: int, log: Path) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return bool(caught & 1 << (signal.SIGUSR2 - 1)) and bool(caught & 1 << (signal.SIGTERM - 1))


def imports_torch(pid: int, log: Path) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def has_loaded_the_teacher(pid: int, log: Path) -> bool:
    return "teacher:" in log.read_text()


def start(words: list[str], *, log: Path, repository: Path, **env: str) -> subprocess.Popen:
    with log.open("wb") as out:
        line = [sys.executable, *words, f"out={log.parent / 'run'}", "tracking.backend=none", "runtime.device=cpu"]
        return subprocess.Popen(line, cwd=repository, env={**os.environ, **env}, stdout=out, stderr=out)


def wait_for(moment: Callable[[int, Path], bool], process: subprocess.Popen, *, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not moment(process.pid, log):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("words", "moment", "number"),
    [
        (PRETRAIN, listens, signal.SIGTERM),
        (EXPRESSION, listens, signal.SIGUSR2),
        (EXPRESSION, imports_torch, signal.SIGTERM),
        (PRETRAIN, has_loaded_the_teacher, signal.SIGUSR2),
    ],
)
def test_a_lone_process_leaves_at_once(words, moment, number, tmp_path: Path, repository: Path):
    log = tmp_path / "log"
    process = start(words, log=log, repository=repository)
    try:
        wait_for(moment, process, log=log)
        process.send_signal(number)
        assert process.wait(60) == 75, log.read_text()
    finally:
        process.kill()
    assert f"stopped by {number.name}" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_signal_to_one_starting_rank_makes_both_leave(tmp_path: Path, repository: Path):
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    logs = [tmp_path / "0", tmp_path / "1"]
    ranks = [
        start(PRETRAIN, log=log, repository=repository, RANK=log.name, LOCAL_RANK=log.name, **place) for log in logs
    ]
    try:
        wait_for(imports_torch, ranks[1], log=logs[1])
        ranks[1].send_signal(signal.SIGTERM)
        assert [rank.wait(120) for rank in ranks] == [75, 75], logs[0].read_text() + logs[1].read_text()
    finally:
        for rank in ranks:
            rank.kill()
    assert "stopped by SIGTERM" in logs[1].read_text()
    assert "stopped by another rank" in logs[0].read_text()
