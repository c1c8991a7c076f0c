"""Kill a training run at random, again and again: it has to end, with the weights of the run that nobody disturbed.

    python benchmarks/chaos.py --kills 50 [--world 2] [--steps 400] [--seed 0] [--json FILE]

Each life starts all ranks as srun does and ends by one of five: SIGKILL, SIGTERM or SIGUSR2 to a random rank at a
random time; RENAME, a SIGKILL of rank 0 by itself before or after one of the first renames and removals of vea.storage;
DISK, no file of rank 0 may grow beyond a random size from a random time on (as on a full disk, by RLIMIT_FSIZE). When
the hit rank ends without having saved, the others are killed, as a batch system does. In one life of four a RIVAL is
started on the same run folder: it has to be refused with a sentence, and to change nothing. The next life is the same
command. After every life each checkpoint folder is read. Exit 0 only if no folder was ever unreadable and the final
weights are bit-identical. Drawn scenes, a tiny network, the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError, command
from vea.storage.checkpoint import list_checkpoints, read_checkpoint

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
KINDS = ("SIGKILL", "SIGTERM", "SIGUSR2", "RENAME", "DISK")
RENAMES = 24  # the kill comes at one of the first so many; a life has about ten before its first step
KILL_AT = "CHAOS_KILL_AT"  # environment of rank 0: number of the rename, odd: before it, even: after it
REPOSITORY = Path(__file__).resolve().parents[1]
GRACE_S = 1800.0  # for the ranks that were not hit, and for a rival to be refused: machines are shared


def run_words(folder: Path, name: str, steps: int) -> list[str]:
    """Returns the command of the run ``name``."""
    data = folder / "data"
    return [
        sys.executable, "pretrain/train.py", "configs/pretrain/smoke.yaml", f"out={folder / name}",
        f"data.train.0.path={data}", f"data.val.0.path={data}", f"train.steps={steps}", "train.warmup_steps=2",
        "train.log_every=1", "train.checkpoint_every=7", "train.keep_last=3", "data.workers=0",
        "data.virtual_readers=4", "data.global_batch_size=16", "runtime.threads=1", "runtime.device=cpu",
        "runtime.timeout_s=600", "tracking.backend=none",
    ]  # fmt: skip


def start(words: list[str], world: int, log: Path, *, kill_at: int = 0) -> list[subprocess.Popen]:
    """Returns the processes of all ranks; rank 0 kills itself around rename ``kill_at`` where that is not 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)} if world > 1 else {}
    ranks = []
    with log.open("ab") as out:
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if place else {}
            line = words
            if kill_at and rank == 0:
                own[KILL_AT] = str(kill_at)
                line = [words[0], str(Path(__file__).resolve()), *words[1:]]
            ranks.append(
                subprocess.Popen(line, cwd=REPOSITORY, stdout=out, stderr=out, env={**os.environ, **place, **own})
            )
    return ranks


def run_with_a_kill(words: list[str], kill_at: int) -> None:
    """Runs the script ``words`` in this process, which gets SIGKILL around its rename or removal ``kill_at``."""
    from vea.storage import atomic

    counted = 0

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any, **named: Any) -> Any:
            nonlocal counted
            counted += 1
            mine = counted == (kill_at + 1) // 2
            if mine and kill_at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*given, **named)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    for module, name in ((os, "rename"), (os, "replace"), (atomic, "_exchange"), (shutil, "rmtree")):
        setattr(module, name, around(getattr(module, name)))
    sys.argv = words
    sys.path[0] = str(Path(words[0]).resolve().parent)
    runpy.run_path(words[0], run_name="__main__")


def challenge(words: list[str], world: int, log: Path) -> None:
    """Starts a second run on the folder of one that lives; raises ``RunError`` unless it is refused in a sentence."""
    ranks = start(words, world, log)
    codes = [rank.wait(GRACE_S) for rank in ranks]
    told = log.read_text(errors="replace").count("wait for it to end, or end it")
    if set(codes) != {2} or not told:
        raise RunError(f"a second run on the same folder ended with {codes} and not with a refusal; its log: {log}")


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
    path, last = run_dir / "metrics.jsonl", 0
    for line in path.read_text().split("\n")[:-1] if path.is_file() else []:
        with contextlib.suppress(ValueError):  # the line that met the full disk
            last = max(last, json.loads(line)["step"])
    return last


def check_folders(run_dir: Path) -> int:
    """Returns the step of the newest checkpoint; raises ``RunError`` when any of them cannot be read."""
    found = list_checkpoints(run_dir)
    for checkpoint in found:
        read_checkpoint(checkpoint.path)
    return found[-1].step if found else 0


def hit(kind: str, ranks: list[subprocess.Popen], victim: int, draw: random.Random) -> None:
    """Does to a rank what ``kind`` says; a RENAME is on its way since the start."""
    if kind == "DISK":
        resource.prlimit(ranks[victim].pid, resource.RLIMIT_FSIZE, (draw.randrange(0, 400_000), resource.RLIM_INFINITY))
    elif kind != "RENAME":
        ranks[victim].send_signal(getattr(signal, kind))


def disturb(words: list[str], run_dir: Path, log: Path, *, kills: int, world: int, seed: int) -> dict[str, Any]:
    """Returns what was done to the run until it was hit ``kills`` times, and what it lost."""
    draw = random.Random(seed)
    sent: Counter[str] = Counter()
    lost, lives, saved, rivals, full = 0, 0, 0, 0, 0
    while sum(sent.values()) < kills:
        lives += 1
        kind = draw.choice(KINDS)
        victim = 0 if kind in ("RENAME", "DISK") else draw.randrange(world)
        ranks = start(words, world, log, kill_at=draw.randint(1, 2 * RENAMES) if kind == "RENAME" else 0)
        began, before = time.monotonic(), last_step(run_dir)
        patience = draw.uniform(0, 10) if draw.random() < 0.1 else GRACE_S  # one life in ten ends while it starts
        while last_step(run_dir) <= before and all(rank.poll() is None for rank in ranks):
            time.sleep(0.05)
            if time.monotonic() - began > patience:
                break
        rival = draw.random() < 0.25 and kind != "RENAME" and last_step(run_dir) > before
        if rival:
            challenge(words, world, log.with_name("rival.txt"))
            rivals += 1
        time.sleep(draw.random() * 0.8)
        if kind != "RENAME" and any(rank.poll() is not None for rank in ranks):
            codes = finish(ranks, victim=0)
            if any(codes):
                raise RunError(f"a life ended with {codes} before anything was done to it; its log: {log}")
            raise VeaError(f"the run ended after {sum(sent.values())} hits; give it more --steps")
        hit(kind, ranks, victim, draw)
        codes = finish(ranks, victim=victim)
        sent[kind] += 1
        if kind == "DISK":
            full += codes[0] == 1
            if codes[0] not in (0, 1):
                raise RunError(f"on a full disk rank 0 ended with {codes[0]}; its log: {log}")
        reached, kept = last_step(run_dir), check_folders(run_dir)
        lost += max(0, reached - kept)
        saved += 75 in codes
        print(f"hit {sum(sent.values())}/{kills}: {kind} of rank {victim}{', a rival was refused' if rival else ''}, "
              f"codes {codes}, step {reached}, checkpoint {kept}", flush=True)  # fmt: skip
        if codes[0] == 0:
            raise VeaError(f"the run ended after {sum(sent.values())} hits; give it more --steps")
    return {"kills": dict(sent), "lives": lives, "lives_that_saved": saved, "lost_steps": lost,
            "rivals_refused": rivals, "disk_full_told": full}  # fmt: skip


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
    print(f"{given.kills} hits ({kinds}), {result['rivals_refused']} rivals refused; "
          f"{result['lives']} lives of {given.world} ranks over {given.steps} steps; "
          f"{result['lives_that_saved']} lives saved before they left, {result['lost_steps']} steps were done twice; "
          f"final weights {'identical' if result['identical'] else 'DIFFERENT'}")  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if result["identical"] else 1


if __name__ == "__main__":
    if KILL_AT in os.environ:  # as rank 0 of a life
        run_with_a_kill(sys.argv[1:], int(os.environ[KILL_AT]))
    else:
        sys.exit(main())
