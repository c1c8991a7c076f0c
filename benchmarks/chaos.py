"""Kill a training run at random, again and again: it has to end, with the weights of the run that nobody disturbed.

    python benchmarks/chaos.py --kills 50 [--world 2] [--steps 400] [--seed 0] [--json FILE]

Each life starts all ranks as srun does, waits a random time, and sends SIGKILL, SIGTERM or SIGUSR2 to a random rank;
when that rank ends without having saved, the others are killed, as a batch system does. The next life is the same
command. After every life each checkpoint folder is read. Exit 0 only if no folder was ever unreadable and the final
weights are bit-identical. Drawn scenes, a tiny network, the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError, command
from vea.storage.checkpoint import list_checkpoints, read_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
REPOSITORY = Path(__file__).resolve().parents[1]
GRACE_S = 60.0  # for the ranks that were not hit


def run_words(folder: Path, name: str, steps: int) -> list[str]:
    """Returns the command of the run ``name``."""
    data = folder / "data"
    return [
        sys.executable, "pretrain/train.py", "configs/pretrain/smoke.yaml", f"out={folder / name}",
        f"data.train.0.path={data}", f"data.val.0.path={data}", f"train.steps={steps}", "train.warmup_steps=2",
        "train.log_every=1", "train.checkpoint_every=7", "train.keep_last=3", "data.workers=0",
        "data.virtual_readers=4", "data.global_batch_size=16", "runtime.threads=1", "runtime.device=cpu",
        "runtime.timeout_s=60", "tracking.backend=none",
    ]  # fmt: skip


def start(words: list[str], world: int, log: Path) -> list[subprocess.Popen]:
    """Returns the processes of all ranks."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)} if world > 1 else {}
    with log.open("ab") as out:
        return [
            subprocess.Popen(
                words, cwd=REPOSITORY, stdout=out, stderr=out,
                env={**os.environ, **place, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if place else {})},
            )
            for rank in range(world)
        ]  # fmt: skip


def finish(ranks: list[subprocess.Popen], *, victim: int) -> list[int]:
    """Returns the exit codes; the others get time only where the victim saved with them (75) or all was done (0)."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        ranks[victim].wait(GRACE_S)
    end = time.monotonic() + (GRACE_S if ranks[victim].returncode in (0, 75) else 0.5)
    for rank in ranks:
        with contextlib.suppress(subprocess.TimeoutExpired):
            rank.wait(max(0.1, end - time.monotonic()))
    for rank in ranks:
        rank.kill()
    return [rank.wait() for rank in ranks]


def last_step(run_dir: Path) -> int:
    """Returns the last step in ``metrics.jsonl``: how far the run had come."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def check_folders(run_dir: Path) -> int:
    """Returns the step of the newest checkpoint; raises ``RunError`` when any of them cannot be read."""
    found = list_checkpoints(run_dir)
    for checkpoint in found:
        read_checkpoint(checkpoint.path)
    return found[-1].step if found else 0


def disturb(words: list[str], run_dir: Path, log: Path, *, kills: int, world: int, seed: int) -> dict[str, Any]:
    """Returns what was done to the run until ``kills`` signals were sent, and what it lost."""
    draw = random.Random(seed)
    sent: Counter[str] = Counter()
    lost, lives, saved = 0, 0, 0
    while sum(sent.values()) < kills:
        lives += 1
        ranks = start(words, world, log)
        began, before = time.monotonic(), last_step(run_dir)
        patience = draw.uniform(0, 10) if draw.random() < 0.1 else 300.0  # one life in ten ends while it starts
        while last_step(run_dir) <= before and all(rank.poll() is None for rank in ranks):
            time.sleep(0.02)
            if time.monotonic() - began > patience:
                break
        time.sleep(draw.random() * 0.8)
        if any(rank.poll() is not None for rank in ranks):
            codes = finish(ranks, victim=0)
            if any(codes):
                raise RunError(f"a life ended with {codes} before anything was done to it; its log: {log}")
            raise VeaError(f"the run ended after {sum(sent.values())} kills; give it more --steps")
        kind, victim = draw.choice(SIGNALS), draw.randrange(world)
        ranks[victim].send_signal(kind)
        sent[kind.name] += 1
        codes = finish(ranks, victim=victim)
        reached, kept = last_step(run_dir), check_folders(run_dir)
        lost += max(0, reached - kept)
        saved += 75 in codes
        print(f"kill {sum(sent.values())}/{kills}: {kind.name} to rank {victim}, codes {codes}, step {reached}, "
              f"checkpoint {kept}", flush=True)  # fmt: skip
    return {"kills": dict(sent), "lives": lives, "lives_that_saved": saved, "lost_steps": lost}


@command
def main(argv: list[str]) -> int:
    """Runs the calm run, then the disturbed one, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare = ["datasets/prepare.py", "synthetic", "--count", "160", "--size", "64", "--out", str(folder / "data")]
        subprocess.run([sys.executable, *prepare], cwd=REPOSITORY, check=True, capture_output=True)
        log = folder / "log.txt"
        result = disturb(run_words(folder, "disturbed", given.steps), folder / "disturbed", log, kills=given.kills,
                         world=given.world, seed=given.seed)  # fmt: skip
        for name in ("disturbed", "calm"):  # the last life, and the run that nobody disturbs
            ranks = start(run_words(folder, name, given.steps), given.world, log)
            if any(rank.wait() for rank in ranks):
                raise RunError(f"the run {name} did not end well:\n{log.read_text()[-2000:]}")
        one, other = ((folder / name / "final" / "model.safetensors").read_bytes() for name in ("disturbed", "calm"))
        result |= {"world": given.world, "steps": given.steps, "seed": given.seed, "identical": one == other}
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(result["kills"].items()))
    print(f"{given.kills} kills ({kinds}) in {result['lives']} lives of {given.world} ranks over {given.steps} steps; "
          f"{result['lives_that_saved']} lives saved before they left, {result['lost_steps']} steps were done twice; "
          f"final weights {'identical' if result['identical'] else 'DIFFERENT'}")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
