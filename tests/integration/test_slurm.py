"""A real two-node SLURM on this machine, two tasks a node: what ends a job, and the weights of a run undisturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_distributed import records
from test_sync import offline_history

from vea.commands.submit import code_files

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
missing = [name for name in NEEDED if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.slurm,
    pytest.mark.skipif(bool(missing), reason=f"no SLURM here ({', '.join(missing)}): apt-get install slurmctld slurmd"),
    pytest.mark.skipif(os.getuid() != 0, reason="slurm/local/up.sh needs root"),
]

STEPS, SIGNAL_AT = 100, 10


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, repository):
    """The environment of a user of the two-node cluster; it ends with the tests."""
    state = tmp_path_factory.mktemp("slurm")
    subprocess.run(["bash", "slurm/local/up.sh", str(state)], cwd=repository, check=True, timeout=60)
    place = {"SLURM_CONF": str(state / "slurm.conf"), "VEA_PYTHON": sys.executable, "PYTHONPATH": str(repository)}
    try:
        yield {**os.environ, **place, "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run(["bash", "slurm/local/down.sh", str(state)], cwd=repository, check=False, timeout=60)


@pytest.fixture(scope="module")
def data(tmp_path_factory, script):
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    script("datasets/prepare.py", "synthetic", "--count", "160", "--size", "64", "--out", folder)
    return folder


def submit(
    out: Path,
    data: Path,
    *,
    env: dict,
    repository: Path,
    partition: str = "main",
    by: tuple[str, ...] = ("sbatch",),
    tracking: str = "none",
) -> str:
    """Returns the number of a job of two nodes with two tasks each."""
    wanted = [f"--partition={partition}", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2"]
    wanted += ["--cpus-per-task=1", "--time=10"]
    paths = [f"data.train.0.path={data}", f"data.val.0.path={data}", f"out={out}", f"train.steps={STEPS}"]
    small = ["data.workers=0", "runtime.threads=1", "runtime.device=cpu", "train.log_every=1", "train.warmup_steps=2"]
    small += ["data.global_batch_size=16", "data.virtual_readers=4", f"tracking.backend={tracking}"]
    line = [*by, "--parsable", *wanted, f"--output={out}-%j.log", "slurm/pretrain.sbatch"]
    line += ["configs/pretrain/smoke.yaml", *paths, *small]
    made = subprocess.run(line, cwd=repository, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip().splitlines()[-1].split(";")[0]


def wait(condition, *, what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.3)


def queued(job: str, env: dict) -> bool:
    line = ["squeue", "-h", "-j", job, "-o", "%T"]
    return bool(subprocess.run(line, env=env, capture_output=True, text=True, check=False).stdout.strip())


@pytest.fixture(scope="module")
def calm(cluster, data, tmp_path_factory, repository) -> Path:
    """The run of a job that nobody disturbed."""
    out = tmp_path_factory.mktemp("calm") / "calm"
    job = submit(out, data, env=cluster, repository=repository)
    wait(lambda: not queued(job, cluster), what="the undisturbed job")
    return out


def control(cluster: dict, *words: str) -> str:
    """Returns what a command of SLURM prints."""
    made = subprocess.run(words, env=cluster, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def assert_same_end(run: Path, calm: Path, log: str) -> None:
    """Every step once, and the undisturbed weights, bit for bit."""
    for folder in (calm, run):
        steps = [record["step"] for record in records(folder) if record["kind"] == "train"]
        assert steps == list(range(1, STEPS + 1)), f"{folder.name}: {log[-2000:]}"
    one, other = ((folder / "final" / "model.safetensors").read_bytes() for folder in (calm, run))
    assert one == other


def test_signalled_requeued_and_finished_with_the_weights_of_an_undisturbed_run(
    cluster, data, calm, tmp_path, repository
):
    """The second life runs the code of the submission, although the working tree was broken in between.

    wandb's offline history, which the second life writes whole, has every step once when it is read back.
    """
    tree = tmp_path / "tree"
    for name in code_files(repository):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, tree / name)
    subprocess.run(["git", "init", "-q", str(tree)], check=True, timeout=30)
    run, env = tmp_path / "signalled", {**cluster, "PYTHONPATH": str(tree)}
    by = (sys.executable, "-m", "vea.commands.main", "submit")
    job = submit(run, data, env=env, repository=tree, by=by, tracking="wandb")
    wait(lambda: len(records(run)) >= SIGNAL_AT, what="the first steps")
    (tree / "pretrain/train.py").write_text("raise SystemExit('the edited code')")
    (tree / "vea/config.py").write_text("raise SystemExit('the edited code')")
    control(cluster, "scancel", "--signal=USR2", job)
    log = tmp_path / f"signalled-{job}.log"
    wait(lambda: "saved; requeueing" in log.read_text(), what="the requeue")
    wait(lambda: not queued(job, cluster), what="the second life of the job")
    text = log.read_text()
    assert "resuming at step" in text and "the edited code" not in text, text[-2000:]
    assert json.loads((run / "code/snapshot.json").read_text())["command"][:2] == ["vea", "submit"]
    assert_same_end(run, calm, text)
    first, second = (offline_history(life) for life in sorted((run / "wandb").glob("offline-run-*")))
    assert 0 < len(first) < STEPS
    assert [row["_step"] for row in second if "train/loss" in row] == list(range(1, STEPS + 1))


def test_preempted_by_a_higher_partition(cluster, data, calm, tmp_path, repository):
    """SLURM asks with SIGTERM and ten seconds of grace; the job saves, waits for the other to end, and goes on."""
    run = tmp_path / "preempted"
    job = submit(run, data, env=cluster, repository=repository, partition="low")
    wait(lambda: len(records(run)) >= SIGNAL_AT, what="the first steps")
    order = ["sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null"]
    urgent = control(cluster, *order, "--wrap=sleep 3")
    log = tmp_path / f"preempted-{job}.log"
    wait(lambda: not queued(urgent, cluster), what="the job of the higher partition")
    assert queued(job, cluster), "the lower job is still to be finished"
    wait(lambda: not queued(job, cluster), what="the second life of the job")
    text = log.read_text()
    assert "stopped by SIGTERM" in text and "resuming at step" in text, text[-2000:]
    assert_same_end(run, calm, text)


def test_a_node_set_down_in_the_middle(cluster, data, calm, tmp_path, repository):
    """SLURM ends the job's processes on both nodes and requeues it; the newest checkpoint carries on."""
    run = tmp_path / "downed"
    job = submit(run, data, env=cluster, repository=repository)
    wait(lambda: len(records(run)) >= 30, what="checkpoints and some steps after the last")
    control(cluster, "scontrol", "update", "nodename=e2", "state=down", "reason=test")
    wait(lambda: "RUNNING" not in control(cluster, "squeue", "-h", "-j", job, "-o", "%T"), what="the end of its life")
    assert queued(job, cluster), "a job that lost a node is queued again"
    # refused where the node's daemon has registered again by itself (ReturnToService=2)
    subprocess.run(["scontrol", "update", "nodename=e2", "state=resume"], env=cluster, timeout=30, check=False)
    wait(lambda: not queued(job, cluster), what="the second life of the job")
    text = (tmp_path / f"downed-{job}.log").read_text()
    assert "resuming at step" in text, text[-2000:]
    assert_same_end(run, calm, text)


def lose_node(name: str, run: Path, cluster: dict) -> None:
    """Kills a node's daemon, what it started for the job of ``run``, and the ranks there, as a power cut would."""
    ranks = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, place = ((folder / file).read_bytes().split(b"\0") for file in ("cmdline", "environ"))
        except OSError:  # it ended meanwhile
            continue
        if f"out={run}".encode() in words and f"SLURMD_NODENAME={name}".encode() in place:
            ranks.append(int(folder.name))
    assert len(ranks) == 2
    (parent,) = {int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1]) for rank in ranks}
    assert b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes()
    daemon = int((Path(cluster["SLURM_CONF"]).parent / f"slurmd-{name}.pid").read_text())
    for process in (daemon, parent, *ranks):
        os.kill(process, signal.SIGKILL)


def test_a_node_lost_without_a_word(cluster, data, calm, tmp_path, repository):
    """The ranks that are left say what broke; SLURM requeues once the daemon is silent; the last checkpoint goes on."""
    run = tmp_path / "lost"
    job = submit(run, data, env=cluster, repository=repository)
    wait(lambda: (run / "checkpoints/step_00000020/state.json").is_file(), what="a periodic checkpoint")
    lose_node("e2", run, cluster)
    wait(lambda: "Restarts=1 " in control(cluster, "scontrol", "show", "job", job), what="the requeue")
    subprocess.run(["slurmd", "-N", "e2"], env=cluster, check=True, timeout=30)  # ReturnToService=2: it is up again
    wait(lambda: not queued(job, cluster), what="the second life of the job")
    text = (tmp_path / f"lost-{job}.log").read_text()
    assert "the ranks lost each other" in text and "resuming at step" in text, text[-2000:]
    assert "saved; requeueing" not in text
    assert_same_end(run, calm, text)


def test_a_sweep_runs_each_line_in_a_folder_of_its_own(cluster, data, tmp_path, repository):
    """Two lines of a file, two runs; a line that the doctor refuses ends with its code and its sentence."""
    lines = tmp_path / "sweep.txt"
    lines.write_text(f"# rate\ntrain.base_lr=2e-3 out={tmp_path / '1'}\n\n'notes=a b' out={tmp_path / '2'} seed=1.5\n")
    wanted = ["--array=1-2", "--gpus-per-node=1", "--cpus-per-task=1", "--time=5", f"--output={tmp_path}/%a.log"]
    small = ["train.steps=2", "train.warmup_steps=0", "train.log_every=1", "data.workers=0", "runtime.device=cpu"]
    small += [f"data.train.0.path={data}", f"data.val.0.path={data}", "tracking.backend=none", "runtime.threads=1"]
    line = ["sbatch", "--parsable", *wanted, "slurm/sweep_array.sbatch", str(lines)]
    line += ["pretrain/train.py", "configs/pretrain/smoke.yaml", *small]
    made = subprocess.run(line, cwd=repository, env=cluster, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    wait(lambda: not queued(made.stdout.strip().split(";")[0], cluster), what="the sweep")
    logs = {number: (tmp_path / f"{number}.log").read_text() for number in (1, 2)}
    assert json.loads((tmp_path / "1/state.json").read_text())["state"] == "done", logs[1]
    config = yaml.safe_load((tmp_path / "1/config.yaml").read_text())
    assert (config["name"], config["train"]["base_lr"]) == ("smoke-sweep-1", 2e-3)
    assert "0 missing" in logs[1]
    assert "error:" in logs[2] and "seed" in logs[2] and not (tmp_path / "2").exists()


def test_an_array_prepares_the_bytes_of_one_job(cluster, data, tmp_path, repository, script):
    """Four parts on two nodes; nobody combines them, the last to end puts the set in place."""
    alone, parts = tmp_path / "alone", tmp_path / "parts"
    options = ["--count", "160", "--size", "64", "--shard-size", "20"]
    script("datasets/prepare.py", "synthetic", *options, "--out", alone)
    wanted = ["--array=1-4", "--cpus-per-task=1", "--time=5", f"--output={tmp_path}/%a.log"]
    line = ["sbatch", "--parsable", *wanted, "slurm/prepare_array.sbatch", "synthetic", str(parts), *options]
    made = subprocess.run(line, cwd=repository, env=cluster, capture_output=True, text=True, timeout=30, check=False)
    assert made.returncode == 0, made.stderr
    wait(lambda: not queued(made.stdout.strip().split(";")[0], cluster), what="the preparation")
    logs = "".join((tmp_path / f"{number}.log").read_text() for number in range(1, 5))
    assert (parts / "index.json").is_file(), logs
    names = sorted(path.name for path in alone.iterdir())
    assert names == sorted(path.name for path in parts.iterdir()) and len(names) == 19
    assert all((alone / name).read_bytes() == (parts / name).read_bytes() for name in names)
