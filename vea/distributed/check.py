"""What ``vea doctor`` says about the job: its ranks, and the GPUs that they find."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import torch

from vea.config import RunConfig
from vea.config.findings import Finding, collect


def announced_world_size() -> int:
    """Returns the number of ranks that the environment announces; 1 where it says nothing."""
    env = os.environ
    per_node = re.match(r"\d+", env.get("SLURM_NTASKS_PER_NODE", ""))  # "4(x2)"
    nodes = int(env.get("SLURM_JOB_NUM_NODES", 1))
    return int(env.get("WORLD_SIZE") or env.get("SLURM_NTASKS") or (int(per_node[0]) * nodes if per_node else 1))


def check_slurm(config: RunConfig) -> Iterator[Finding]:
    """Yields the shape of the SLURM job that this is part of, if any."""
    env, ranks = os.environ, announced_world_size()
    if "SLURM_JOB_ID" not in env:
        return
    nodes, per_node = env.get("SLURM_JOB_NUM_NODES", "?"), ranks // int(env.get("SLURM_JOB_NUM_NODES", 1))
    yield Finding("ok", "slurm", f"job {env['SLURM_JOB_ID']}: {nodes} nodes, {ranks} ranks")
    if torch.cuda.is_available() and per_node > torch.cuda.device_count() and config.runtime.device != "cpu":
        text = f"{per_node} ranks a node and {torch.cuda.device_count()} GPUs in sight"
        yield Finding("warning", "slurm", text, "ask for one GPU per task")
    if env.get("SLURM_RESTART_COUNT", "0") != "0":
        yield Finding("ok", "slurm", f"this is restart {env['SLURM_RESTART_COUNT']}")


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about the job."""
    return collect({"slurm": check_slurm}, config)
