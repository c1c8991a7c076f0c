"""The thread, by the scripts a user runs: shards, pretraining, kill -9, fine-tuning, report, bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SMALL = [
    "data.workers=0",
    "runtime.threads=1",
    "runtime.device=cpu",
    "tracking.backend=none",
    "train.steps=12",
    "train.warmup_steps=2",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "data.global_batch_size=16",
    "data.virtual_readers=4",
]


@pytest.fixture(scope="module")
def work(tmp_path_factory, repository):
    """A folder with prepared synthetic shards and a way to run scripts on them."""
    folder = tmp_path_factory.mktemp("thread")
    run(repository, "datasets/prepare.py", "synthetic", "--count", "160", "--out", str(folder / "data"))
    return folder


def command_line(work: Path, script: str, config: str, *overrides: str) -> list[str]:
    data = [f"data.train.0.path={work / 'data'}", f"data.val.0.path={work / 'data'}"]
    return [sys.executable, script, config, *SMALL, *data, *overrides]


def run(repository: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    line = list(words) if words[0] == sys.executable else [sys.executable, *words]
    result = subprocess.run(line, cwd=repository, capture_output=True, text=True, timeout=300)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-2000:]
    return result


def pretrain(work: Path, name: str, *overrides: str) -> list[str]:
    return command_line(work, "pretrain/train.py", "configs/pretrain/smoke.yaml", f"out={work / name}", *overrides)


@pytest.fixture(scope="module")
def undisturbed(work, repository):
    run(repository, *pretrain(work, "undisturbed"))
    return work / "undisturbed"


def test_kill_9_and_the_same_command_again_end_with_the_same_bits(work, repository, undisturbed):
    line, folder = pretrain(work, "killed"), work / "killed"
    process = subprocess.Popen(line, cwd=repository, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 240
    while not list(folder.glob("checkpoints/step_*/state.json")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "final").exists(), "the run ended before it was killed: nothing was tested"
    run(repository, *line)
    for name in ("final/model.safetensors", "checkpoints/step_00000012/model.safetensors"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in lines if record["kind"] == "train"] == list(range(1, 13))


def test_pretrained_encoder_is_fine_tuned_evaluated_and_reported(work, repository, undisturbed):
    run_dir = work / "expression"
    encoder = json.dumps({"patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3})
    overrides = [f"out={run_dir}", f"train.init_from={undisturbed}", f"model.encoder.args={encoder}"]
    overrides += ["model.encoder.name=vit_tiny_patch16_224", "train.eval_every=6"]
    config = "configs/finetune/demo_expression.yaml"
    result = run(repository, *command_line(work, "finetune/expression.py", config, *overrides))
    assert "encoder weights" in result.stdout
    run(repository, "finetune/evaluate.py", str(run_dir), "--split", "test")
    record = json.loads((run_dir / "evaluation_test.json").read_text())["targets"]["expression"]
    assert sum(map(sum, record["confusion"])) == record["samples"] > 0
    for folder, content in ((undisturbed, "Similarity"), (run_dir, "onfusion")):
        page = (folder / "report.html").read_text()
        assert content.lower() in page.lower() and "data:image/png;base64," in page
        assert 'src="http' not in page and 'href="http' not in page


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("train.base_ll=1", 2, "base_lr"),
        ("data.train.0.path=nowhere/at/all", 2, "nowhere/at/all"),
        ("teacher.name=ViT-B-16", 2, "pretrained"),
    ],
)
def test_a_mistake_is_one_sentence(work, repository, override, code, words):
    result = run(repository, *pretrain(work, "mistake", override), code=code)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and words in errors[0] and "Traceback" not in result.stderr
    assert not (work / "mistake" / "checkpoints").exists()


def test_a_broken_checkpoint_is_one_sentence_and_exit_1(work, repository):
    line = pretrain(work, "broken", "train.steps=3", "train.warmup_steps=1")
    run(repository, *line)
    weights = work / "broken" / "checkpoints" / "step_00000003" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    result = run(repository, *line, code=1)
    assert "model.safetensors is broken" in result.stderr and "Traceback" not in result.stderr
