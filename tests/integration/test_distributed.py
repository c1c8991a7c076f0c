"""Two ranks on one CPU: the same losses as one rank, and a signal to one of them stops both."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vea.training.checkpoint import list_checkpoints, read_checkpoint

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def work(tmp_path_factory, repository):
    """A folder with prepared synthetic shards in ``data``."""
    folder = tmp_path_factory.mktemp("distributed")
    line = ["datasets/prepare.py", "synthetic", "--count", "160", "--size", "64", "--out", str(folder / "data")]
    subprocess.run([sys.executable, *line], cwd=repository, check=True, capture_output=True, timeout=120)
    return folder


def pretrain(work: Path, name: str, *overrides: str) -> list[str]:
    data = [f"data.train.0.path={work / 'data'}", f"data.val.0.path={work / 'data'}", f"out={work / name}"]
    small = ["data.workers=0", "runtime.threads=1", "runtime.device=cpu", "tracking.backend=none"]
    small += [f"train.steps={STEPS}", "train.warmup_steps=2", "train.log_every=1", "train.checkpoint_every=100"]
    small += ["data.global_batch_size=16", "data.virtual_readers=4", "runtime.timeout_s=120"]
    return ["pretrain/train.py", "configs/pretrain/smoke.yaml", *small, *data, *overrides]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def records(run_dir: Path) -> list[dict]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []


def test_two_ranks_under_torchrun_have_the_losses_of_one(work, repository):
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    for name, launcher in (("one", []), ("two", torchrun)):
        line = [sys.executable, *launcher, *pretrain(work, name)]
        result = subprocess.run(line, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
        assert json.loads((work / name / "state.json").read_text())["state"] == "done"
    one, two = (records(work / name) for name in ("one", "two"))
    assert [(r["kind"], r["step"]) for r in one] == [(r["kind"], r["step"]) for r in two]
    assert [r["step"] for r in two if r["kind"] == "train"] == list(range(1, STEPS + 1))
    parts = ("loss", "reconstruction", "similarity", "contrastive")
    for record, other in zip(one, two):
        for name in parts:
            assert other[name] == pytest.approx(record[name], abs=1e-4), (record["kind"], record["step"], name)


def test_a_signal_to_one_rank_makes_both_leave_with_a_whole_checkpoint(work, repository):
    """Each rank is started as srun and torchrun start it; no launcher stands between that could end the other."""
    line, run_dir = pretrain(work, "signalled", "train.steps=2000"), work / "signalled"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, *line],
            cwd=repository,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        deadline = time.monotonic() + 240
        while len(records(run_dir)) < 3:
            assert all(rank.poll() is None for rank in ranks) and time.monotonic() < deadline
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGUSR2)  # not the rank that writes
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.wait()
    assert [rank.returncode for rank in ranks] == [75, 75], errors
    assert all("Traceback" not in text for text in errors), errors
    state = json.loads((run_dir / "state.json").read_text())
    (saved,) = list_checkpoints(run_dir)
    assert state["state"] == "preempted" and saved.step == state["step"] >= 3
    weights, _, optimizer, _ = read_checkpoint(saved.path)
    assert weights and optimizer["state"]
