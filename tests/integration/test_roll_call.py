"""Two gloo ranks, one of which sleeps, fails or never comes: the other says which, within the timeout."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from test_distributed import free_port

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, time
from vea.distributed import collectives, runtime as rt, stragglers
from vea.config import RuntimeConfig
from vea.errors import RunError, command

@command
def main(argv):
    runtime = rt.start(RuntimeConfig(device="cpu", timeout_s=4))
    with stragglers.naming_absent_ranks():
        for step in range(4):
            stragglers.set_place(f"step {step}")
            if step == 2 and runtime.rank == 1:
                if argv == ["sleep"]:
                    time.sleep(8)
                elif argv == ["fail"]:
                    raise RunError("the image is not readable")
                elif argv == ["crash"]:
                    raise KeyError("scene")
            collectives.any_rank(False)
    rt.stop()

sys.exit(main())
"""


def run_ranks(word: str, repository, ranks: tuple[int, ...] = (0, 1)) -> tuple[list[int], list[str], float]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, word],
            cwd=repository,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": str(repository)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ranks
    ]
    begin = time.monotonic()
    try:
        errors = [process.communicate(timeout=90)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors, time.monotonic() - begin


def test_nothing_is_said_where_all_come(repository):
    codes, errors, _ = run_ranks("go", repository)
    assert codes == [0, 0] and not any("warning" in text or "error" in text for text in errors), errors


def test_a_rank_that_sleeps_is_named(repository):
    codes, errors, _ = run_ranks("sleep", repository)
    absent = "rank 1 did not arrive (last seen: the vote of step 1)"
    assert codes[0] == 1
    warning, error = (next(line for line in errors[0].splitlines() if line.startswith(k)) for k in ("warn", "error"))
    assert "rank 0 has waited" in warning and absent in warning
    assert error.startswith("error: the ranks lost each other at the vote of step 2: ") and absent in error
    assert codes[1] == 1 and "error: rank 1: the ranks lost each other" in errors[1]  # it wakes, and rank 0 is gone


@pytest.mark.parametrize(
    ("word", "own", "told"),
    [
        ("fail", "error: rank 1: the image is not readable", "rank 1 failed (RunError: the image is not readable)"),
        ("crash", "on rank 1", "rank 1 failed (KeyError: 'scene')"),
    ],
)
def test_the_reason_of_a_rank_that_fails_reaches_the_others(word: str, own: str, told: str, repository):
    codes, errors, _ = run_ranks(word, repository)
    assert codes == [1, 1]
    assert own in errors[1]
    assert told in errors[0], errors[0]


def test_a_rank_that_never_comes(repository):
    codes, errors, _ = run_ranks("go", repository, ranks=(0,))
    assert codes == [1]
    (line,) = [line for line in errors[0].splitlines() if line.startswith("error: ")]
    assert "rank 0 of 2 could not meet the others at 127.0.0.1:" in line and "within 4 s" in line
