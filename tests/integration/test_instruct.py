"""A pupil of two random blocks through the real commands: lessons, training, judging, export; two ranks as one."""

from __future__ import annotations

import json
import os
import runpy
import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from vea.commands.main import main as vea_main
from vea.evals.backends.pupil import PupilBackend
from vea.evals.run import evaluate
from vea.storage.checkpoint import list_checkpoints, read_checkpoint

pytest.importorskip("peft", reason="needs the extra: pip install 'vea[vlm]'")
pytestmark = pytest.mark.slow

CONFIG = "configs/finetune/instruct_synthetic.yaml"


@pytest.fixture(scope="module")
def work(tmp_path_factory, script) -> Path:
    """A folder with drawn scenes in ``synthetic`` and their lessons in ``lessons``."""
    folder = tmp_path_factory.mktemp("pupil")
    script("datasets/prepare.py", "synthetic", "--count", "60", "--size", "48", "--out", folder / "synthetic")
    assert vea_main(["instructions", str(folder / "synthetic"), "--shards", str(folder / "lessons")]) in (None, 0)
    return folder


def words(work: Path, name: str, *overrides: str) -> list[str]:
    data = [f"data.train.0.path={work / 'lessons'}", f"data.val.0.path={work / 'lessons'}", f"out={work / name}"]
    small = ["train.steps=5", "train.log_every=1", "tracking.backend=none", "runtime.device=cpu", "runtime.threads=1"]
    return ["finetune/train.py", CONFIG, *data, *small, *overrides]


def records(folder: Path) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row["kind"] != "event"]


@pytest.fixture(scope="module")
def run(work, script) -> Path:
    """A run of one process; no dropout, so that two ranks can be held against it."""
    script(*words(work, "one", "model.lora.dropout=0", "model.vision.dropout=0"))
    return work / "one"


def test_a_pupil_learns_is_judged_and_exported(work, run, capsys):
    rows = records(run)
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 5 and losses[-1] < losses[0]
    assert rows[-1]["kind"] == "val" and 0 <= rows[-1]["choice/accuracy"] <= 1 and rows[-1]["not_asked"] > 0
    assert vea_main(["export", str(run), "--to", "pupil", "--out", str(work / "pupil")]) in (None, 0)
    task = f"choice:{work / 'synthetic'}@emotion"
    told = [
        evaluate(PupilBackend(folder), task, limit=4, readouts=("probability",))["choice"]["scores"]["probability"]
        for folder in (run, work / "pupil")
    ]
    assert told[0]["accuracy"] == told[1]["accuracy"]
    assert told[0]["answer_mass"] == pytest.approx(told[1]["answer_mass"], abs=1e-3)


def one_rank(rank: int, place: dict[str, str], line: list[str]) -> None:
    os.environ |= {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    assert runpy.run_path(line[0])["main"](line[1:]) in (None, 0)


def test_two_ranks_have_the_losses_and_the_weights_of_one(work, run, repository):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    script, config, *rest = words(work, "two", "model.lora.dropout=0", "model.vision.dropout=0")
    line = [str(repository / script), str(repository / config), *rest]
    mp.start_processes(one_rank, args=(place, line), nprocs=2, start_method="forkserver")
    for row, again in zip(records(run), records(work / "two"), strict=True):
        for name in ("loss", "choice/accuracy", "choice/cost", "not_asked"):
            assert again.get(name) == pytest.approx(row.get(name), abs=1e-4), (row["kind"], row["step"], name)
    (one, *_), (two, *_) = (read_checkpoint(list_checkpoints(folder)[-1].path) for folder in (run, work / "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=5e-4, rtol=0, msg=name)
