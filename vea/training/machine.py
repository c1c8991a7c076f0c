"""What ``vea doctor`` says about the machine: disk, device, memory and tracker, for a run like this."""

from __future__ import annotations

import netrc
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from vea.config import RunConfig
from vea.config.findings import Finding, collect
from vea.distributed.check import announced_world_size
from vea.distributed.runtime import cpu_multiplies_bf16
from vea.models.teachers.check import teacher_bytes
from vea.training.meta import sizes
from vea.training.steps import micro_batch_size
from vea.training.tracking import wandb_mode

GB = 10**9


def check_output(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the run folder can be written."""
    there = _nearest_folder(config)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        text = f"{there} cannot be written ({error.strerror})"
        yield Finding("missing", "output", text, "change out=, or its rights")
        return
    yield Finding("ok", "output", str(config.run_dir))


def _nearest_folder(config: RunConfig) -> Path:
    run_dir = config.run_dir.absolute()
    return next(folder for folder in (run_dir, *run_dir.parents) if folder.exists())


def check_disk(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the disk holds the checkpoints of the run."""
    train, run_dir, size = config.train, config.run_dir, sizes(config)
    number = train.keep_last + 1 + (train.steps // train.keep_every if train.keep_every else 0)
    kept = sum(path.stat().st_size for path in run_dir.glob("checkpoints/*/*") if path.is_file())
    weights = size.weights * (4 if train.ema_decay else 2)  # best/ and final/
    needed = number * size.checkpoint + weights
    free = shutil.disk_usage(_nearest_folder(config)).free + kept
    text = f"{free / GB:.1f} GB free, {needed / GB:.2f} GB for {number} checkpoints and the weights chosen"
    if free < needed:
        yield Finding("missing", "disk", text, "free space, choose another out=, or lower train.keep_last")
    elif free < 2 * needed:
        yield Finding("warning", "disk", text, "watch it: the runs beside it write as well")
    else:
        yield Finding("ok", "disk", text)


def check_device(config: RunConfig) -> Iterator[Finding]:
    """Yields the device that the run would take here, and its precision."""
    wanted, precision = config.runtime.device, config.train.precision
    gpu = torch.cuda.is_available()
    if wanted == "cuda" and not gpu:
        text = "runtime.device is cuda and this machine shows no GPU"
        yield Finding("missing", "device", text, "ask for one (--gpus-per-node), or set runtime.device=cpu")
        return
    if wanted == "cpu" or not gpu:
        yield Finding("ok", "device", f"CPU, {os.cpu_count()} cores" + ("" if wanted == "cpu" else " (no GPU here)"))
        if precision == "bf16" and not cpu_multiplies_bf16():
            text = "this CPU does not multiply bf16 itself (no AVX-512 BF16, no AMX); fp32 is faster"
            yield Finding("warning", "precision", text, "set train.precision=auto")
        return
    name = torch.cuda.get_device_name()
    yield Finding("ok", "device", f"{torch.cuda.device_count()} x {name}")
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        yield Finding("warning", "precision", f"{name} has no bf16", "set train.precision=auto")


def check_memory(config: RunConfig) -> Iterator[Finding]:
    """Yields a rough estimate of the memory that a step takes, beside what the device has."""
    wanted, precision, gpu = config.runtime.device, config.train.precision, torch.cuda.is_available()
    bf16 = precision == "bf16"
    there = 0
    if wanted == "cuda" and not gpu:
        bf16 |= precision == "auto"
    elif wanted == "cpu" or not gpu:
        there = _available_memory()
    else:
        there = torch.cuda.get_device_properties(0).total_memory
        bf16 |= precision == "auto" and torch.cuda.is_bf16_supported()
    micro, _ = micro_batch_size(config, announced_world_size())
    size = sizes(config)
    fixed = size.weights * (2 if config.train.ema_decay else 1) + size.trained + size.optimizer
    needed = fixed + teacher_bytes(config) + micro * size.activations * (0.6 if bf16 else 1.0)  # some stays fp32
    shown = f" of {there / GB:.1f} GB" if there else ""
    text = f"about {needed / GB:.1f} GB{shown} for {micro} samples at a time (an estimate)"
    if there and needed > 0.9 * there:
        todo = f"set train.max_micro_batch to {max(1, int(micro * 0.7 * there / needed))} or less"
        yield Finding("warning", "memory", text, todo)
    else:
        yield Finding("ok", "memory", text)


GPU_SPEED = 200e12  # operations a second that a training on an H100 may reach in bf16: where there is none to ask
BACKWARD, SHARE = 3, 0.5  # a step costs three forwards, and reaches about half the speed of one product of matrices


def check_time(config: RunConfig) -> Iterator[Finding]:
    """Yields about how long the steps take on this device, without the loader, a live teacher and the validations."""
    gpu = torch.cuda.is_available()
    operations = BACKWARD * sizes(config).flops * config.data.global_batch_size
    ranks, steps = announced_world_size(), config.train.steps
    if config.runtime.device == "cuda" and not gpu:
        speed, of = GPU_SPEED, f"at {GPU_SPEED / 1e12:.0f} TFLOP/s a GPU, for there is none here to ask"
    else:
        device = "cuda" if gpu and config.runtime.device != "cpu" else "cpu"
        fast = torch.bfloat16 if config.train.precision == "bf16" or (
            device == "cuda" and config.train.precision == "auto") else torch.float32  # fmt: skip
        speed = SHARE * matrix_speed(device, fast)
        of = f"at {speed / 1e12:.2g} TFLOP/s, half the speed of matrices measured here now"
    seconds = steps * operations / (ranks * speed)
    text = f"{operations / 1e12:.3g} TFLOP a step; {steps:,} steps take about {_duration(seconds)} {of} (an estimate)"
    yield Finding("ok", "time", text)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def matrix_speed(device: str, dtype: torch.dtype) -> float:
    """Returns operations a second of a product of square matrices, the best of five."""
    side = 1024 if device == "cpu" else 8192
    one = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        product = one @ one
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    del product
    return 2 * side**3 / best


def _available_memory() -> int:
    """Returns the bytes of memory that Linux calls available; elsewhere all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        return found["MemAvailable"]
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 16 * GB


def check_tracking(config: RunConfig) -> Iterator[Finding]:
    """Yields whether the tracker is installed and, where it goes online, has a key."""
    tracking = config.tracking
    if tracking.backend == "none":
        yield Finding("ok", "tracking", "metrics.jsonl only")
        return
    if find_spec(tracking.backend) is None:
        todo = f"pip install {tracking.backend}, or set tracking.backend=none"
        yield Finding("warning", "tracking", f"{tracking.backend} is not installed; metrics.jsonl has everything", todo)
        return
    mode = wandb_mode(tracking.mode) if tracking.backend == "wandb" else tracking.mode
    if tracking.mode == "online" and mode != "online":
        text = f"the environment makes wandb {mode}, which stands against tracking.mode: online"
        yield Finding("warning", "tracking", text, "unset WANDB_MODE and WANDB_DISABLED, or set tracking.mode=offline")
    if tracking.backend == "wandb" and mode == "online" and not _has_wandb_key():
        yield Finding("missing", "tracking", "wandb is online and has no key", "wandb login, or tracking.mode=offline")
    else:
        yield Finding("ok", "tracking", f"{tracking.backend}, {mode}")


def _has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").partition("://")[2].partition("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host.partition(":")[0]) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about the machine."""
    checks = {"output": check_output, "disk": check_disk, "device": check_device, "memory": check_memory,
              "time": check_time}  # fmt: skip
    return collect({**checks, "tracking": check_tracking}, config)
