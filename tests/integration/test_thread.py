"""The thread, by the scripts a user runs: shards, pretraining, kill -9, preemption, fine-tuning, evaluation, report."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STEPS = 18
SMALL = [
    "data.workers=1",
    "runtime.threads=1",
    "runtime.device=cpu",
    "tracking.backend=none",
    f"train.steps={STEPS}",
    "train.warmup_steps=2",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "data.global_batch_size=16",
    "data.virtual_readers=4",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory, script):
    """A folder with prepared synthetic shards in ``data``."""
    folder = tmp_path_factory.mktemp("thread")
    script("datasets/prepare.py", "synthetic", "--count", "160", "--size", "64", "--out", folder / "data")
    return folder


def command_line(work: Path, script: str, config: str, *overrides: str) -> list[str]:
    data = [f"data.train.0.path={work / 'data'}", f"data.val.0.path={work / 'data'}"]
    return [script, config, *SMALL, *data, *overrides]


def run(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, *words], cwd=repository, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result


def pretrain(work: Path, name: str, *overrides: str) -> list[str]:
    return command_line(work, "pretrain/train.py", "configs/pretrain/smoke.yaml", f"out={work / name}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(work, script):
    """A pretraining run that nothing happened to."""
    script(*pretrain(work, "undisturbed"))
    return work / "undisturbed"


def records(run_dir: Path) -> list[dict]:
    """What metrics.jsonl holds; its last line may be cut while the run is alive."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return [record for record in map(json.loads, lines) if record["kind"] != "event"]


def trained_steps(run_dir: Path) -> list[int]:
    return [record["step"] for record in records(run_dir) if record["kind"] == "train"]


def start_and_signal(repository: Path, line: list[str], number: int, when: Callable[[], bool]) -> int:
    """Starts the command, signals its process group (SIGKILL) or the trainer alone as soon as ``when``; exit code."""
    process = subprocess.Popen(
        [sys.executable, *line], cwd=repository, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not when():
            assert process.poll() is None, "the run ended before its moment came"
            assert time.monotonic() < deadline
            time.sleep(0.004)
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        return process.wait(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def assert_same_end(run_dir: Path, undisturbed: Path) -> None:
    for name in ("final/model.safetensors", f"checkpoints/step_{STEPS:08d}/model.safetensors"):
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert trained_steps(run_dir) == list(range(1, STEPS + 1))
    losses = [[record["loss"] for record in records(folder)] for folder in (run_dir, undisturbed)]
    assert losses[0] == losses[1]
    assert json.loads((run_dir / "state.json").read_text())["state"] == "done"


def test_kill_9_and_the_same_command_again_end_with_the_same_bits(work, repository, undisturbed):
    line, folder = pretrain(work, "killed"), work / "killed"
    seed = int(os.environ.get("VEA_TEST_SEED") or time.time_ns() % 2**32)
    chance = random.Random(seed)
    # the moments: a first checkpoint stands; then a random step was logged and a random part of the next has gone by
    steps = [chance.randint(5, 8), chance.randint(10, 14)]
    print(f"VEA_TEST_SEED={seed}: killed at the first checkpoint, then after steps {steps}")
    code = start_and_signal(
        repository, line, signal.SIGKILL, lambda: bool(list(folder.glob("checkpoints/step_*/state.json")))
    )
    assert code == -signal.SIGKILL
    for step in steps:

        def reached(step: int = step) -> bool:
            if max(trained_steps(folder), default=0) < step:
                return False
            time.sleep(chance.uniform(0, 0.06))
            return True

        assert start_and_signal(repository, line, signal.SIGKILL, reached) == -signal.SIGKILL
    assert not (folder / "final").exists(), "the run ended before it was killed: nothing was tested"
    result = run(repository, *line)
    assert re.search(r"resuming at step (\d+)", result.stdout), result.stdout
    assert_same_end(folder, undisturbed)


def test_a_signal_of_the_cluster_saves_exits_75_and_the_same_command_ends_with_the_same_bits(
    work, repository, undisturbed
):
    line, folder = pretrain(work, "preempted"), work / "preempted"
    code = start_and_signal(repository, line, signal.SIGUSR2, lambda: len(trained_steps(folder)) >= 4)
    assert code == 75
    state = json.loads((folder / "state.json").read_text())
    assert state["state"] == "preempted" and 4 <= state["step"] < STEPS
    assert (folder / "checkpoints" / f"step_{state['step']:08d}" / "state.json").is_file()
    result = run(repository, *line)
    assert f"resuming at step {state['step']} " in result.stdout
    assert_same_end(folder, undisturbed)


def test_pretrained_encoder_is_fine_tuned_evaluated_and_reported(work, script, undisturbed):
    run_dir = work / "expression"
    encoder = json.dumps({"patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3})
    overrides = [f"out={run_dir}", f"train.init_from={undisturbed}", f"model.encoder.args={encoder}"]
    overrides += ["model.encoder.name=vit_tiny_patch16_224", "augment.image_size=64", "augment.region=head"]
    overrides += ["train.eval_every=6", "tracking.backend=wandb"]
    config = "configs/finetune/expression_synthetic.yaml"
    assert "encoder weights" in script(*command_line(work, "finetune/train.py", config, *overrides))
    assert [path for path in (run_dir / "wandb").glob("offline-run-*/run-*.wandb") if path.stat().st_size]

    script("finetune/evaluate.py", run_dir, "--split", "test")
    record = json.loads((run_dir / "evaluation_test.json").read_text())["targets"]["expression"]
    shards = json.loads((work / "data" / "index.json").read_text())["splits"]["test"]["shards"]
    labelled = sum(sum(shard["label_counts"]["expression"].values()) for shard in shards)
    assert sum(map(sum, record["confusion"])) == record["samples"] == labelled > 0

    for folder, content in ((undisturbed, "similarity"), (run_dir, "confusion")):
        page = (folder / "report.html").read_text(encoding="utf-8").lower()
        assert content in page and "data:image/png;base64," in page
        assert "<svg" in page or page.count("data:image/png;base64,") > 1  # curves beside the pictures
        assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|url\(\s*["']?(?:https?:)?//|@import""", page)


def test_retrieval_scores_the_trained_weights_against_the_teachers_texts(work, script, undisturbed):
    found = work / "retrieval.json"
    said = script("pretrain/retrieve.py", undisturbed, "--json", found)
    record = json.loads(found.read_text())
    index = json.loads((work / "data" / "index.json").read_text())
    assert record["pairs"] == sum(shard["samples"] for shard in index["splits"]["test"]["shards"])
    assert f"among {record['pairs']} pairs" in " ".join(said.split())  # a long path wraps the table's title
    recall = record["recall"]
    assert recall["teacher's image"]["image_to_text_r5"] > 3 * recall["chance"]["image_to_text_r5"]
    assert recall["gamma"] != recall["untrained"]
