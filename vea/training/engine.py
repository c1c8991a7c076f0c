"""The one training loop. It knows the Task protocol and nothing of what a task learns.

Everything random or scheduled is a function of the step: the data order (vea.data.loading.order), the learning rate
(vea.training.schedule), and torch's generator, which is seeded anew before each step. So resuming is arithmetic, and a
run that was killed ends with the same weights, bit for bit, as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vea.config import RunConfig
from vea.distributed import collectives, stragglers
from vea.distributed.preempt import StopSignal
from vea.distributed.runtime import Runtime
from vea.errors import Preempted, RunError
from vea.storage import atomic, checkpoint
from vea.tasks.base import Batch, Task
from vea.training.ema import Ema, load_into
from vea.training.log import MetricsLog
from vea.training.meter import _Meter
from vea.training.optim import build_optimizer
from vea.training.parallel import full, is_sharded, load_optimizer_state, shard
from vea.training.run import _Run
from vea.training.schedule import learning_rate
from vea.training.steps import StepMaker, to_device

TrainBatches = Callable[[int, int], Iterable[Batch]]  # (start_step, micro_batch) -> endless micro-batches of this rank
EvalBatches = Callable[..., Iterable[Batch]]  # (in_turn=False) -> one pass over the validation samples


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    run_dir: Path
    step: int
    metrics: dict[str, float]
    best: dict[str, Any] | None


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
        task: model + loss, on any device; it is moved, and begins from ``config.train.init_from`` where that is given.
        config: the resolved config; its ``run_dir`` receives checkpoints, metrics, pictures and weights.
        runtime: from ``vea.distributed.runtime.start``.
        train_batches: called with (start_step, micro_batch); yields this rank's micro-batches from that step on.
        eval_batches: called for each validation; yields every validation sample once over all ranks. With
            ``in_turn=True`` the sets take turns: the first batch, which pictures are made of, has samples of each.

    Raises:
        RunError: the loss is not finite (the last good checkpoint stays), a checkpoint is broken, or the disk is full.
        Preempted: a signal came; the run is saved and continues with the same command.
    """
    if eval_batches is not None:
        eval_batches()  # opens the sets: a mistake in data.val shows now, not at the first validation
    if config.train.init_from:
        loaded = task.load_pretrained(config.train.init_from)
        if runtime.is_main:
            print(f"init_from {config.train.init_from}: {loaded}", flush=True)
    run = _Run(config, runtime, task)
    optimizer, ema, resumed = _opened(run)
    log = _open_log(run, resumed) if runtime.is_main else None
    run.say_state("running", pid=os.getpid(), host=platform.node())
    exit_code, ending = 1, ""
    try:
        with StopSignal() as stop:
            _Loop(run, optimizer, ema, stop, log, eval_batches).train(train_batches)
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


def _opened(run: _Run) -> tuple[torch.optim.Optimizer, Ema | None, bool]:
    """Returns optimizer and average, as the newest checkpoint has them where there is one; places the task."""
    task, config, runtime = run.task, run.config, run.runtime
    chosen = run.open()
    task.to(runtime.device).train()
    saved = checkpoint.read_checkpoint(chosen) if chosen is not None else None
    if saved is not None:  # before the parameters are cut over ranks
        task.check_metadata(saved[3]["task"])
        load_into(task, saved[0], where=str(chosen))
    if config.runtime.parallel == "fsdp" and runtime.world_size > 1:
        shard(task)
    optimizer = build_optimizer(task, config.train)
    ema = Ema(task, config.train.ema_decay) if config.train.ema_decay else None
    if saved is not None:
        _, ema_weights, optimizer_state, state = saved
        load_optimizer_state(optimizer, optimizer_state)
        if ema and ema_weights is not None:
            ema.load(ema_weights)
        run.step, run.best = state["step"], run.best_of(state)
        run.owes_validation = state.get("owes_validation", False)
    return optimizer, ema, saved is not None


def _open_log(run: _Run, resumed: bool) -> MetricsLog:
    config, runtime = run.config, run.runtime
    log = MetricsLog(run.dir, config, start_step=run.step, owes_validation=run.owes_validation)
    for words in run.changes:
        log.event("changed", words)
        log.say(f"changed since the checkpoint: {words}")
    trainable = sum(parameter.numel() for parameter in run.task.parameters() if parameter.requires_grad)
    log.say(
        f"{config.recipe} {config.name}: {trainable / 1e6:.2f} M trainable parameters, "
        f"{runtime.world_size} x {runtime.device}, "
        f"{'resuming at' if resumed else 'starting at'} step {run.step} of {config.train.steps}, folder {run.dir}"
    )
    return log


class _Loop:
    """The steps of one life of a run."""

    def __init__(
        self,
        run: _Run,
        optimizer: torch.optim.Optimizer,
        ema: Ema | None,
        stop: StopSignal,
        log: MetricsLog | None,
        eval_batches: EvalBatches | None,
    ) -> None:
        self.run, self.optimizer, self.ema = run, optimizer, ema
        self.stop, self.log, self.eval_batches = stop, log, eval_batches
        self.settings, self.batch_size = run.config.train, run.config.data.global_batch_size
        self.parameters = [parameter for parameter in run.task.parameters() if parameter.requires_grad]
        self.meter = _Meter(self.batch_size)
        self.maker = StepMaker(run.task, config=run.config, runtime=run.runtime, meter=self.meter)

    def train(self, train_batches: TrainBatches) -> None:
        """Makes steps until the last one, the end of patience, or a signal.

        Raises:
            Preempted: a signal came; the run is saved.
        """
        run, stop = self.run, self.stop
        if collectives.any_rank(stop.received, device=run.runtime.device):  # since the process started: nothing is lost
            raise Preempted(
                f"stopped by {stop.name or 'another rank'} before a step was made: run the same command to go on"
            )
        if run.owes_validation and self.eval_batches is not None:
            _validate(run, self.ema, self.log, self.eval_batches)
        if run.step >= self.settings.steps or run.out_of_patience:
            return
        batches = iter(train_batches(run.step, self.maker.micro))
        while run.step < self.settings.steps and not run.out_of_patience:
            asked_to_stop = self._step(batches)
            is_last = self._look_back(asked_to_stop)
            run.writer.check()
            if run.step % self.settings.checkpoint_every == 0 or is_last or asked_to_stop:
                run.save(self.optimizer, self.ema, behind=not (is_last or asked_to_stop))
                self.meter.restart_clock()
            if asked_to_stop and (not is_last or run.owes_validation):
                raise Preempted(
                    f"stopped by {stop.name or 'another rank'} at step {run.step}; saved: run the same command to go on"
                )

    def _step(self, batches: Iterator[Batch]) -> bool:
        """Makes one step; returns whether a rank was asked to stop."""
        run, step = self.run, self.run.step
        stragglers.set_place(f"step {step}")
        self.rate = learning_rate(step, self.settings, global_batch_size=self.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group.get("lr_scale", 1.0)
        made = self.maker.step(batches, step=step)
        finite = math.isfinite(made.parts["loss"].item())
        not_finite, asked_to_stop = collectives.vote(not finite, self.stop.received, device=run.runtime.device)
        where = f"on rank {run.runtime.rank}, samples {', '.join(made.keys[:8])}"
        if not_finite:  # before optimizer.step, so that the last good checkpoint stays the truth
            raise RunError(
                f"the loss is not finite at step {step}{'' if finite else f' {where}'}; the last checkpoint is good: "
                "lower train.base_lr, set train.clip_grad, or look at these samples"
            )
        norm = full(nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None]))
        if not math.isfinite(norm.item()):  # of the gradients of all ranks: each comes to the same
            raise RunError(
                f"the gradient is not finite at step {step}, {where}; the last checkpoint is good: lower "
                "train.base_lr, or look at these samples"
            )
        if self.settings.clip_grad:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip_grad, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        run.step += 1
        if self.ema:
            self.ema.update(run.task, step)
        self.meter.add(made.parts, norm)
        return asked_to_stop

    def _look_back(self, asked_to_stop: bool) -> bool:
        """Writes the log line and validates where it is time; returns whether this was the last step."""
        run, settings, meter = self.run, self.settings, self.meter
        is_last = run.step == settings.steps
        if run.step % settings.log_every == 0 or is_last:
            record = meter.summary()
            if self.log:
                at = {"kind": "train", "step": run.step, "samples": run.step * self.batch_size}
                left = (settings.steps - run.step) * meter.seconds_per_step
                self.log.write({**at, **record, "lr": self.rate, "eta_s": left})
            meter.reset()
        time_to = is_last or bool(settings.eval_every and run.step % settings.eval_every == 0)
        validate = self.eval_batches is not None and time_to
        run.owes_validation = validate and asked_to_stop  # the grace time is for saving
        if validate and not asked_to_stop:
            assert self.eval_batches is not None
            stragglers.set_place(f"the validation at step {run.step}")
            _validate(run, self.ema, self.log, self.eval_batches)
            meter.restart_clock()
            if not is_last and run.out_of_patience:
                is_last = True
                if self.log:
                    self.log.say(f"nothing better for {settings.patience} validations: ended at step {run.step}")
        return is_last


def _validate(run: _Run, ema: Ema | None, log: MetricsLog | None, eval_batches: EvalBatches) -> None:
    run.writer.wait()  # the loader forks workers: no other thread should hold a lock then
    with ema.swapped_in(run.task) if ema else contextlib.nullcontext():
        metrics = evaluate(run.task, eval_batches(), run.runtime)
    run.validated(metrics, ema)
    if log:
        log.write({"kind": "val", "step": run.step, "samples": run.step * run.config.data.global_batch_size, **metrics})
    if log or is_sharded(run.task):  # parameters that are cut over the ranks need all of them
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
