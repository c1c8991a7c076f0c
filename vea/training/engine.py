"""The one training loop. It knows the Task protocol and nothing of what a task learns.

Everything random or scheduled is a function of the step: the data order (vea.data.loading.order), the learning rate
(vea.training.schedule), and torch's generator, which is seeded anew before each step. So resuming is arithmetic, and a
run that was killed ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from vea.config import RunConfig
from vea.distributed import collectives, stragglers
from vea.distributed.preempt import StopSignal
from vea.distributed.runtime import Runtime
from vea.errors import Preempted, RunError, VeaError
from vea.storage import atomic, checkpoint
from vea.tasks.base import Batch, Task
from vea.training.ema import Ema, load_into
from vea.training.log import MetricsLog
from vea.training.meter import _Meter
from vea.training.optim import build_optimizer
from vea.training.parallel import (
    accumulating,
    compiling,
    full,
    load_optimizer_state,
    parallel_model,
    shard,
)
from vea.training.run import _Run
from vea.training.schedule import learning_rate

TrainBatches = Callable[[int, int], Iterable[Batch]]  # (start_step, micro_batch) -> endless micro-batches of this rank
EvalBatches = Callable[..., Iterable[Batch]]  # (in_turn=False) -> one pass over the validation samples


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    run_dir: Path
    step: int
    metrics: dict[str, float]
    best: dict[str, Any] | None


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch with its tensors (nested in dicts as well) on ``device``; lists and strings stay."""
    moved: Batch = {}
    for name, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
        elif isinstance(value, dict):
            value = to_device(value, device)
        moved[name] = value
    return moved


def micro_batch_size(config: RunConfig, world_size: int) -> tuple[int, int]:
    """Returns (samples per rank and forward, forwards per step); their product with the world is the global batch.

    Raises:
        VeaError: the global batch cannot be divided evenly.
    """
    total, limit = config.data.global_batch_size, config.train.max_micro_batch
    if total % world_size:
        raise VeaError(
            f"data.global_batch_size ({total}) is not a multiple of the {world_size} ranks; change one of them"
        )
    local = total // world_size
    accumulate = math.ceil(local / limit) if limit else 1
    while local % accumulate:
        accumulate += 1
    return local // accumulate, accumulate


def step_seed(seed: int, step: int, rank: int) -> int:
    """Returns the seed of torch's generator at one step of one rank (dropout, drop path, mixing)."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest(), "little") >> 1


@torch.no_grad()
def evaluate(task: Task, batches: Iterable[Batch], runtime: Runtime) -> dict[str, float]:
    """Returns the task's metrics over ``batches``, the same on every rank."""
    was_training = task.training
    task.eval()
    metrics = task.new_metrics()
    try:
        for batch in batches:
            batch = to_device(batch, runtime.device)
            with runtime.autocast():
                outputs = task.predict(batch)
            metrics.update(outputs, batch)
        return metrics.compute()
    finally:
        task.train(was_training)


@stragglers.naming_absent_ranks()
def fit(
    task: Task,
    *,
    config: RunConfig,
    runtime: Runtime,
    train_batches: TrainBatches,
    eval_batches: EvalBatches | None = None,
) -> Summary:
    """Trains ``task`` for ``config.train.steps`` steps, from the run's newest checkpoint where there is one.

    Args:
        task: model + loss, on any device; it is moved.
        config: the resolved config; its ``run_dir`` receives checkpoints, metrics, pictures and weights.
        runtime: from ``vea.distributed.runtime.start``.
        train_batches: called with (start_step, micro_batch); yields this rank's micro-batches from that step on.
        eval_batches: called for each validation; yields every validation sample once over all ranks. With
            ``in_turn=True`` the sets take turns: the first batch, which pictures are made of, has samples of each.

    Raises:
        RunError: the loss is not finite (the last good checkpoint stays), a checkpoint is broken, or the disk is full.
        Preempted: a signal came; the run is saved and continues with the same command.
    """
    settings = config.train
    if eval_batches is not None:
        eval_batches()  # opens the sets: a mistake in data.val shows now, not at the first validation
    run = _Run(config, runtime, task)
    chosen = run.open()
    task.to(runtime.device).train()
    saved = checkpoint.read_checkpoint(chosen) if chosen is not None else None
    if saved is not None:  # before the parameters are cut over ranks
        task.check_metadata(saved[3]["task"])
        load_into(task, saved[0], where=str(chosen))
    if config.runtime.parallel == "fsdp" and runtime.world_size > 1:
        shard(task)
    optimizer = build_optimizer(task, settings)
    ema = Ema(task, settings.ema_decay) if settings.ema_decay else None
    if saved is not None:
        _, ema_weights, optimizer_state, state = saved
        load_optimizer_state(optimizer, optimizer_state)
        if ema and ema_weights is not None:
            ema.load(ema_weights)
        run.step, run.best = state["step"], state["best"]
        run.owes_validation = state.get("owes_validation", False)

    log = (
        MetricsLog(run.dir, config, start_step=run.step, owes_validation=run.owes_validation)
        if runtime.is_main
        else None
    )
    if log:
        trainable = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
        log.say(
            f"{config.recipe} {config.name}: {trainable / 1e6:.2f} M trainable parameters, "
            f"{runtime.world_size} x {runtime.device}, "
            f"{'resuming at' if chosen else 'starting at'} step {run.step} of {settings.steps}, folder {run.dir}"
        )
    run.say_state("running", pid=os.getpid(), host=platform.node())
    exit_code, ending = 1, ""
    try:
        with StopSignal() as stop:
            _train(run, optimizer, ema, stop, log, train_batches, eval_batches)
        _finish(run, ema)
        exit_code = 0
    except Preempted as reason:
        exit_code, ending = reason.exit_code, str(reason)
        run.say_state("preempted", reason=str(reason))
        raise
    except Exception as error:
        ending = str(error)
        with contextlib.suppress(OSError):
            run.say_state("failed", reason=str(error))
        raise
    finally:
        with contextlib.suppress(Exception):  # a checkpoint on its way becomes whole
            run.writer.wait()
        if log:
            log.close(exit_code=exit_code, reason=ending)
        run.locked.close()
    return Summary(run.dir, run.step, run.metrics, run.best)


def _train(
    run: _Run,
    optimizer: torch.optim.Optimizer,
    ema: Ema | None,
    stop: StopSignal,
    log: MetricsLog | None,
    train_batches: TrainBatches,
    eval_batches: EvalBatches | None,
) -> None:
    config, settings, runtime, task = run.config, run.config.train, run.runtime, run.task
    micro, accumulate = micro_batch_size(config, runtime.world_size)
    model = parallel_model(task, runtime, compiled=settings.compile)
    parameters = [parameter for parameter in task.parameters() if parameter.requires_grad]
    meter = _Meter(config.data.global_batch_size)
    if collectives.any_rank(stop.received, device=runtime.device):  # it came since the process started: nothing is lost
        raise Preempted(
            f"stopped by {stop.name or 'another rank'} before a step was made: run the same command to go on"
        )
    if run.owes_validation and eval_batches is not None:
        _validate(run, ema, log, eval_batches)
    if run.step >= settings.steps or run.out_of_patience:
        return
    batches = iter(train_batches(run.step, micro))
    while run.step < settings.steps and not run.out_of_patience:
        step = run.step
        stragglers.set_place(f"step {step}")
        rate = learning_rate(step, settings, global_batch_size=config.data.global_batch_size)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        torch.manual_seed(step_seed(config.seed, step, runtime.rank))
        keys: list[str] = []
        parts: dict[str, Tensor] = {}
        for index in range(accumulate):
            with meter.waiting_for_data():
                batch = next(batches)
            keys += batch.get("keys", [])
            batch = to_device(batch, runtime.device)
            last = index == accumulate - 1
            with contextlib.nullcontext() if last else accumulating(model, task):
                with runtime.autocast(), compiling(settings.compile):
                    outputs = model(batch, step=step)
                if last:
                    stragglers.mark_collective("the backward pass")
                (outputs["loss"] / accumulate).backward()
            for name, value in outputs.items():
                parts[name] = parts.get(name, 0) + value.detach().float() / accumulate
        not_finite, asked_to_stop = collectives.vote(
            not math.isfinite(parts["loss"].item()), stop.received, device=runtime.device
        )
        if not_finite:  # before optimizer.step, so that the last good checkpoint stays the truth
            own = (
                "" if math.isfinite(parts["loss"].item()) else f" on rank {runtime.rank}, samples {', '.join(keys[:8])}"
            )
            raise RunError(
                f"the loss is not finite at step {step}{own}; the last checkpoint is good: lower train.base_lr, "
                "set train.clip_grad, or look at these samples"
            )
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = full(nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm.item()):  # of the gradients of all ranks: each comes to the same
            raise RunError(
                f"the gradient is not finite at step {step}, samples {', '.join(keys[:8])} on rank {runtime.rank}; the "
                "last checkpoint is good: lower train.base_lr, or look at these samples"
            )
        if settings.clip_grad:
            nn.utils.clip_grads_with_norm_(parameters, settings.clip_grad, norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.step += 1
        if ema:
            ema.update(task, step)
        meter.add(parts, norm)

        is_last = run.step == settings.steps
        if run.step % settings.log_every == 0 or is_last:
            record = meter.summary()
            if log:
                log.write(
                    {
                        "kind": "train",
                        "step": run.step,
                        "samples": run.step * config.data.global_batch_size,
                        **record,
                        "lr": rate,
                        "eta_s": (settings.steps - run.step) * meter.seconds_per_step,
                    }
                )
            meter.reset()
        validate = eval_batches is not None and (
            is_last or (settings.eval_every and run.step % settings.eval_every == 0)
        )
        run.owes_validation = bool(validate and asked_to_stop)  # the grace time is for saving
        if validate and not asked_to_stop:
            stragglers.set_place(f"the validation at step {run.step}")
            _validate(run, ema, log, eval_batches)  # type: ignore[arg-type]
            meter.restart_clock()
            if not is_last and run.out_of_patience:
                is_last = True
                if log:
                    log.say(f"nothing better for {settings.patience} validations: ended at step {run.step}")
        run.writer.check()
        if run.step % settings.checkpoint_every == 0 or is_last or asked_to_stop:
            run.save(optimizer, ema, behind=not (is_last or asked_to_stop))
            meter.restart_clock()
        if asked_to_stop and (not is_last or run.owes_validation):
            raise Preempted(
                f"stopped by {stop.name or 'another rank'} at step {run.step}; saved: run the same command to go on"
            )


def _validate(run: _Run, ema: Ema | None, log: MetricsLog | None, eval_batches: EvalBatches) -> None:
    run.writer.wait()  # the loader forks workers: no other thread should hold a lock then
    with ema.swapped_in(run.task) if ema else contextlib.nullcontext():
        metrics = evaluate(run.task, eval_batches(), run.runtime)
    run.validated(metrics, ema)
    if log:
        log.write({"kind": "val", "step": run.step, "samples": run.step * run.config.data.global_batch_size, **metrics})
    if log or isinstance(run.task, FSDPModule):  # parameters that are cut over the ranks need all of them
        with ema.swapped_in(run.task) if ema else contextlib.nullcontext():
            _save_pictures(run, next(iter(eval_batches(in_turn=True))))
    if log:
        log.show_pictures(run.dir / "pictures")


@torch.no_grad()
def _save_pictures(run: _Run, batch: Batch) -> None:
    from PIL import Image

    run.task.eval()
    pictures = run.task.pictures(to_device(batch, run.runtime.device))
    run.task.train()
    if not run.runtime.is_main:
        return
    folder = run.dir / "pictures"
    if pictures:
        folder.mkdir(exist_ok=True)
    for name, array in pictures.items():
        with atomic.new_file(folder / f"{name}.png") as partial:
            Image.fromarray(array).save(partial, format="PNG")


def _finish(run: _Run, ema: Ema | None) -> None:
    weights = run.weights(ema)
    if run.runtime.is_main:
        checkpoint.save_weights(
            run.dir / "final",
            weights["model"],
            run.metadata(step=run.step, metrics=run.metrics),
            ema=weights.get("ema"),
        )
    run.say_state("done")
    run.runtime.barrier()
