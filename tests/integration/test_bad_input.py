"""What a user gets wrong, by the scripts: one sentence that helps, the right exit code, nothing half-written."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vea.storage.checkpoint import list_checkpoints, read_checkpoint

SMALL = [
    "data.workers=0",
    "runtime.threads=1",
    "runtime.device=cpu",
    "tracking.backend=none",
    "train.steps=9",
    "train.warmup_steps=2",
    "train.log_every=1",
    "train.checkpoint_every=3",
    "data.global_batch_size=16",
    "data.virtual_readers=4",
]
PREPARE = ["datasets/prepare.py", "synthetic", "--count", "160", "--size", "64"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, script):
    """Prepared synthetic shards; tests that damage them take a copy."""
    out = tmp_path_factory.mktemp("bad_input") / "data"
    script(*PREPARE, "--out", out)
    return out


@pytest.fixture
def copied(prepared, tmp_path):
    """Shards that a test may damage."""
    return Path(shutil.copytree(prepared, tmp_path / "copied"))


@pytest.fixture(scope="module")
def finished(prepared, script):
    """A short pretraining run; tests that damage it take a copy."""
    folder = prepared.parent / "finished"
    script(*pretrain(prepared, folder))
    return folder


@pytest.fixture
def fails(repository, monkeypatch, capsys):
    """Runs a script's ``main`` in this process; asserts its exit code and its one sentence, which it returns."""

    def run(*words: object, code: int = 2) -> str:
        script, *arguments = map(str, words)
        monkeypatch.chdir(repository)
        returned = runpy.run_path(str(repository / script))["main"](arguments)
        said = capsys.readouterr().err
        assert returned == code, said
        return the_sentence(said)

    return run


def the_sentence(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "Traceback" not in said, said
    return errors[0]


def pretrain(data: Path, out: Path, *overrides: str) -> list[str]:
    where = [f"data.train.0.path={data}", f"data.val.0.path={data}", f"out={out}"]
    return ["pretrain/train.py", "configs/pretrain/smoke.yaml", *SMALL, *where, *overrides]


def expression(data: Path, out: Path, *overrides: str) -> list[str]:
    where = [f"data.train.0.path={data}", f"data.val.0.path={data}", f"out={out}"]
    return ["finetune/train.py", "configs/finetune/expression_synthetic.yaml", *SMALL, *where, *overrides]


def nothing_saved(run_dir: Path) -> bool:
    return not list(run_dir.glob("checkpoints/*")) and not (run_dir / "final").exists()


# --------------------------------------------------------------------------------------------------- datasets/prepare


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["syntetic"], "'synthetic'"),
        (["fer2013plus"], "--root"),
        (["fer2013plus", "--root", "nowhere/at/all"], "nowhere/at/all"),
        (["synthetic", "--count", "0"], "no samples"),
    ],
)
def test_prepare(words, expected, fails, tmp_path, monkeypatch):
    monkeypatch.delenv("VEA_DATA", raising=False)
    assert expected in fails("datasets/prepare.py", *words, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------- the recipes


@pytest.mark.parametrize("recipe", [pretrain, expression])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.base_ll=1", "base_lr"),
        ("data.train.0.path=nowhere/at/all", "nowhere/at/all"),
        ("data.val.0.split=valid", "'val'"),
        ("model.encoder.name=vit_tinny_patch16_224", "vit_tiny_patch16_224"),
        ("train.init_from=nowhere/at/all", "nowhere/at/all"),
        ("data.global_batch_size=18", "virtual_readers"),
    ],
)
def test_config(recipe, override, expected, prepared, fails, tmp_path):
    assert expected in fails(*recipe(prepared, tmp_path / "run", override))
    assert nothing_saved(tmp_path / "run")


def test_class_names_that_disagree(prepared, copied, fails, tmp_path):
    index = json.loads((copied / "index.json").read_text())
    classes = index["fields"]["expression"]["classes"]
    classes[0], classes[1] = classes[1], classes[0]
    (copied / "index.json").write_text(json.dumps(index))
    sentence = fails(*expression(prepared, tmp_path / "run", f"data.val.0.path={copied}"))
    assert str(copied) in sentence and "expression" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("recipe", [pretrain, expression])
def test_empty_shard_folder(recipe, fails, tmp_path):
    (tmp_path / "nothing").mkdir()
    sentence = fails(*recipe(tmp_path / "nothing", tmp_path / "run"))
    assert "nothing" in sentence and "empty" in sentence
    assert nothing_saved(tmp_path / "run")


@pytest.mark.parametrize("recipe", [pretrain, expression])
def test_truncated_shard(recipe, copied, fails, tmp_path):
    tar = copied / "train-000000.tar"
    os.truncate(tar, tar.stat().st_size - 5000)
    sentence = fails(*recipe(copied, tmp_path / "run"))
    assert str(tar) in sentence and "truncated" in sentence
    assert nothing_saved(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_replaced_and_named(workers, copied, repository, tmp_path):
    offsets = np.load(copied / "train-000000.idx")
    at, size, json_at, json_size = map(int, offsets[5])
    with open(copied / "train-000000.tar", "r+b") as tar:
        tar.seek(json_at)
        key = json.loads(tar.read(json_size))["id"]
        tar.seek(at)
        tar.write(bytes(size))
    line = [sys.executable, *pretrain(copied, tmp_path / "run", f"data.workers={workers}")]
    result = subprocess.run(line, cwd=repository, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    named = [line for line in result.stderr.splitlines() if repr(key) in line]
    assert len(named) == 1 and "cannot be decoded" in named[0] and "Traceback" not in result.stderr
    assert json.loads((tmp_path / "run" / "state.json").read_text())["state"] == "done"


# ------------------------------------------------------------------------------------------------- runs and checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json"])
def test_broken_checkpoint(name, prepared, finished, fails, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    file = sorted(folder.glob("checkpoints/step_*"))[-1] / name
    os.truncate(file, file.stat().st_size // 2)
    before = (folder / "final" / "model.safetensors").read_bytes()
    assert str(file) in fails(*pretrain(prepared, folder), code=1)
    assert (folder / "final" / "model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_broken_weights_to_start_from(prepared, finished, fails, tmp_path):
    weights = Path(shutil.copytree(finished / "final", tmp_path / "final")) / "model.safetensors"
    os.truncate(weights, 1000)
    sentence = fails(*expression(prepared, tmp_path / "run", f"train.init_from={tmp_path / 'final'}"), code=1)
    assert str(weights) in sentence
    assert nothing_saved(tmp_path / "run")


@pytest.mark.slow
def test_the_same_folder_with_other_settings(prepared, finished, fails):
    assert "train.base_lr" in fails(*pretrain(prepared, finished, "train.base_lr=0.5"))


def test_evaluate_a_folder_that_is_no_run(prepared, fails, tmp_path):
    for folder in (prepared, tmp_path / "missing"):
        assert str(folder) in fails("finetune/evaluate.py", folder, "--split", "test")
        assert not (folder / "evaluation_test.json").exists()


# ------------------------------------------------------------------------------------------------------- no space left


def can_mount() -> bool:
    line = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(line, capture_output=True, check=False).returncode == 0


def on_a_small_disk(disk: Path, size: str, line: list[str], *, kept: Path, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command with a file system of ``size`` at ``disk`` that nobody else sees; copies it to ``kept``."""
    disk.mkdir()
    script = 'mount -t tmpfs -o size="$1" none "$2"; shift; disk=$1; kept=$2; shift 2; "$@"; code=$?; '
    script += 'cp -a "$disk" "$kept"; exit $code'
    words = ["unshare", "-m", "bash", "-c", script, "bash", size, str(disk), str(kept), *line]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)


def test_prepare_beyond_the_largest_file(repository, tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # Python ignores SIGXFSZ: write() fails

    line = [sys.executable, *PREPARE, "--out", str(tmp_path / "out")]
    result = subprocess.run(
        line, cwd=repository, capture_output=True, text=True, timeout=120, preexec_fn=limit, check=False
    )
    assert result.returncode == 1, result.stderr
    assert str(tmp_path / "out") in the_sentence(result.stderr)
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"], "nothing that a reader takes for a set"
    again = subprocess.run(line, cwd=repository, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_prepare_on_a_full_disk(repository, tmp_path):
    if not can_mount():
        pytest.skip("a small file system can only be mounted by root with util-linux's unshare")
    line = [sys.executable, *PREPARE, "--out", str(tmp_path / "disk" / "out")]
    result = on_a_small_disk(tmp_path / "disk", "100k", line, kept=tmp_path / "kept", cwd=repository)
    assert result.returncode == 1, result.stderr
    assert "no space left" in the_sentence(result.stderr)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [".out.partial"]
    for shard in (tmp_path / "kept").rglob("*.tar"):  # what another writing process had completed
        told = shard.parent / ".plan" / f"{shard.stem}.json"
        if not told.is_file():  # its record found no room: the next run writes it again
            continue
        record = json.loads(told.read_text())
        assert hashlib.sha256(shard.read_bytes()).hexdigest() == record["entry"]["sha256"], "no half-written shard"
    assert not [path for path in (tmp_path / "kept").rglob(".*-0*")], "no leftovers"


def assert_checkpoints_whole(run_dir: Path) -> None:
    assert not list((run_dir / "checkpoints").glob(".*")), "a part of a checkpoint was left"
    assert list_checkpoints(run_dir)
    for checkpoint in list_checkpoints(run_dir):
        weights, _, optimizer, state = read_checkpoint(checkpoint.path)
        assert weights and optimizer["state"] and state["step"] == checkpoint.step
    assert not (run_dir / "final").exists()


@pytest.mark.slow
def test_a_checkpoint_beyond_the_largest_file(prepared, repository, tmp_path):
    folder = tmp_path / "run"
    line = [sys.executable, *pretrain(prepared, folder, "train.steps=2000", "train.checkpoint_every=5")]
    with open(tmp_path / "stderr", "w+") as errors:
        process = subprocess.Popen(line, cwd=repository, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            deadline = time.monotonic() + 200
            while not list_checkpoints(folder):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
            assert process.wait(timeout=120) == 1
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        assert "no space left" in the_sentence(errors.read())
    assert json.loads((folder / "state.json").read_text())["state"] == "failed"
    assert_checkpoints_whole(folder)


@pytest.mark.slow
def test_a_checkpoint_on_a_full_disk(prepared, repository, tmp_path):
    if not can_mount():
        pytest.skip("a small file system can only be mounted by root with util-linux's unshare")
    line = [sys.executable, *pretrain(prepared, tmp_path / "disk" / "run")]
    result = on_a_small_disk(tmp_path / "disk", "8m", line, kept=tmp_path / "kept", cwd=repository)
    assert result.returncode == 1, result.stderr
    assert "no space left" in the_sentence(result.stderr)
    assert_checkpoints_whole(tmp_path / "kept" / "run")
