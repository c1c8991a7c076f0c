"""Where the ranks of a job step meet."""

from __future__ import annotations

import pytest

from vea.distributed import runtime


def place(monkeypatch, job: str, step: str) -> int:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")  # what the function sets is undone after the test
        monkeypatch.delenv(name)
    given = {"JOB_ID": job, "STEP_ID": step, "STEP_NUM_TASKS": "2", "PROCID": "1", "LOCALID": "1"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert runtime._place_from_environment() == (1, 2, 1)
    import os

    return int(os.environ["MASTER_PORT"])


def test_steps_of_one_job_and_jobs_of_one_node_have_ports_of_their_own(monkeypatch):
    ports = [place(monkeypatch, job, step) for job in ("4711", "4712") for step in ("0", "1", "2", "0")]
    assert len(set(ports)) == 6 and all(1024 < port < 32768 for port in ports)  # below the ports of outgoing calls
    assert ports[0] == ports[3], "all ranks of a step come to the same"


@pytest.mark.parametrize("port", ["29500"])
def test_a_port_that_is_given_is_taken(monkeypatch, port):
    place(monkeypatch, "1", "0")
    monkeypatch.setenv("MASTER_PORT", port)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    runtime._place_from_environment()
    import os

    assert os.environ["MASTER_PORT"] == port
