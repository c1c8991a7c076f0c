"""Two ranks on one CPU: the same losses as one rank, and a signal to one of them stops both."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from vea.storage.checkpoint import list_checkpoints, read_checkpoint

pytestmark = pytest.mark.slow

STEPS = 6


@pytest.fixture(scope="module")
def work(tmp_path_factory, script):
    """A folder with prepared synthetic shards in ``data``."""
    folder = tmp_path_factory.mktemp("distributed")
    script("datasets/prepare.py", "synthetic", "--count", "160", "--size", "64", "--out", folder / "data")
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
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [record for record in map(json.loads, lines) if record["kind"] != "event"]


PARTS = ("loss", "reconstruction", "similarity", "contrastive")


def one_rank(rank: int, place: dict[str, str], line: list[str]) -> None:
    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    assert runpy.run_path(line[0])["main"](line[1:]) in (None, 0)


def run(work: Path, repository: Path, name: str, *overrides: str, ranks: int) -> Path:
    """Runs the recipe to its end and returns its folder."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    script, *words = pretrain(work, name, *overrides)
    line = [str(repository / script), *words]
    mp.start_processes(one_rank, args=(place, line), nprocs=ranks, start_method="forkserver")
    assert json.loads((work / name / "state.json").read_text())["state"] == "done"
    return work / name


@pytest.fixture(scope="module")
def alone(work, script):
    """The run of one process that all others are held against."""
    script(*pretrain(work, "one", "train.ema_decay=0.9"))
    return work / "one"


def same_curves(one: Path, other: Path) -> None:
    first, second = records(one), records(other)
    assert [(r["kind"], r["step"]) for r in first] == [(r["kind"], r["step"]) for r in second]
    assert [r["step"] for r in second if r["kind"] == "train"] == list(range(1, STEPS + 1))
    for record, again in zip(first, second):
        for name in PARTS:
            assert again[name] == pytest.approx(record[name], abs=1e-4), (record["kind"], record["step"], name)


def test_two_ranks_under_torchrun_have_the_losses_of_one(work, repository, alone):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    line = [sys.executable, *launcher, *pretrain(work, "two", "train.ema_decay=0.9")]
    result = subprocess.run(line, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    same_curves(alone, work / "two")


def end_at(run_dir: Path, step: int) -> None:
    """Makes a run look as if it had been killed after the checkpoint of ``step``."""
    for saved in list_checkpoints(run_dir):
        if saved.step > step:
            shutil.rmtree(saved.path)
    shutil.rmtree(run_dir / "final", ignore_errors=True)


def test_a_run_goes_on_with_other_numbers_of_ranks_and_with_parameters_cut_over_them(work, repository, script, alone):
    """2 ranks with FSDP, then 4 with DDP, then 1: the losses and, to float tolerance, the weights of one process."""
    settings = ("train.ema_decay=0.9", "train.checkpoint_every=2", "train.keep_last=5")
    folder = run(work, repository, "moving", *settings, "runtime.parallel=fsdp", ranks=2)
    same_curves(alone, folder)
    whole, average, optimizer, _ = read_checkpoint(list_checkpoints(folder)[-1].path)
    expected, expected_average, expected_optimizer, _ = read_checkpoint(list_checkpoints(alone)[-1].path)
    for found, wanted in ((whole, expected), (average, expected_average)):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, atol=5e-4, rtol=0, msg=name)
    for index, entry in expected_optimizer["state"].items():
        assert optimizer["state"][index]["exp_avg"].shape == entry["exp_avg"].shape, "whole tensors are saved"
    end_at(folder, 2)
    run(work, repository, "moving", *settings, ranks=4)
    end_at(folder, 4)
    script(*pretrain(work, "moving", *settings))
    same_curves(alone, folder)
    last = read_checkpoint(list_checkpoints(folder)[-1].path)[0]
    for name, value in expected.items():
        torch.testing.assert_close(last[name], value, atol=5e-4, rtol=0, msg=name)


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
