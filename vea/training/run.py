"""A run folder: who works in it, where the run stands, and what it saves."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vea
from vea.config import RunConfig, to_yaml
from vea.config.base import public
from vea.distributed import collectives, stragglers
from vea.distributed.runtime import Runtime
from vea.errors import RunError, VeaError
from vea.metrics.direction import higher_is_better
from vea.storage import atomic, checkpoint, lock
from vea.storage.provenance import git_state
from vea.tasks.base import Task
from vea.training.effects import say_what_has_no_effect
from vea.training.ema import Ema
from vea.training.parallel import SCALARS, optimizer_to_host, to_host
from vea.training.resume import (
    ROLLED_BACK,
    advised_changes,
    check_same_run,
    data_identities,
    has_rolled_back,
    roll_back,
    start_over,
)


def hold_run(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the run folder, so that no second process trains in it; raises ``VeaError`` that says who does."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return lock.held(run_dir.with_name(f".{run_dir.name}.lock"), what=f"training in {run_dir}")


class _Run:
    """The state of one run on disk: its folder, where it stands, its best validation."""

    def __init__(self, config: RunConfig, runtime: Runtime, task: Task) -> None:
        self.config, self.runtime, self.task = config, runtime, task
        self.dir = config.run_dir
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.owes_validation = False  # a signal came at a step that validates: the next life validates first
        self.metrics: dict[str, float] = {}
        self.plain_config = public(config.model_dump(mode="json"))
        self.versions = {"vea": vea.__version__, "torch": torch.__version__, "python": platform.python_version()}
        self.git = git_state() if runtime.is_main else {}
        self.changes: list[str] = []  # settings that are not those of the checkpoint, and may be, in words
        self.advised: set[str] = set()  # settings that an error of this run told to change
        self.data = data_identities(self.plain_config) if runtime.is_main else {}
        self.writer = checkpoint.CheckpointWriter()
        self.locked = contextlib.ExitStack()

    def open(self) -> Path | None:
        """Returns the checkpoint to resume from, if any; makes the folder and writes the resolved config on rank 0.

        Rank 0 holds the lock of the folder until the run ends; the others hear whether it has it.
        """
        say_what_has_no_effect(self.config, aloud=self.runtime.is_main)
        resume = self.config.train.resume
        refused: VeaError | None = None
        if self.runtime.is_main:
            try:
                self.locked.enter_context(hold_run(self.dir))
                if resume == "never":
                    start_over(self.dir)
            except VeaError as error:
                refused = error
        if collectives.any_rank(refused is not None, device=self.runtime.device):
            self.locked.close()
            raise refused or VeaError(f"rank 0 could not open {self.dir}; its own message says why")
        chosen = self._chosen(resume)
        self.advised = advised_changes(self.dir)
        if chosen is not None:
            self.changes = check_same_run(chosen, config=self.config, advised=self.advised)
        self.runtime.barrier()
        if self.runtime.is_main:
            self.dir.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.dir / "config.yaml", to_yaml(self.config))
            if chosen is not None and resume not in ("auto", "never"):
                roll_back(self.dir, to=chosen)
        self.runtime.barrier()
        return chosen

    def _chosen(self, resume: str) -> Path | None:
        """Returns the checkpoint to go on from: the newest, or the named one where the run has not gone back there."""
        found = checkpoint.list_checkpoints(self.dir)
        newest = found[-1].path if found else None
        if resume in ("auto", "never"):
            return newest
        return newest if newest and has_rolled_back(self.dir, to=Path(resume)) else Path(resume)

    def best_of(self, state: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the best validation by a checkpoint's state; none where ``best/`` was set aside by going back."""
        gone = (self.dir / ROLLED_BACK).is_file() and not (self.dir / "best" / "state.json").is_file()
        return None if gone else state["best"]

    @property
    def out_of_patience(self) -> bool:
        """Whether ``train.patience`` validations brought nothing better: a function of the step and the best one."""
        patience, every = self.config.train.patience, self.config.train.eval_every
        return bool(patience and every and self.best and self.step - self.best["step"] >= patience * every)

    def metadata(self, **extra: Any) -> dict[str, Any]:
        return {
            "recipe": self.config.recipe,
            "config": self.plain_config,
            "samples": self.step * self.config.data.global_batch_size,
            "best": self.best,
            "owes_validation": self.owes_validation,
            "versions": self.versions,
            "git": self.git,
            "data": self.data,
            "seed": self.config.seed,
            "task": self.task.metadata(),
            **extra,
        }

    def say_state(self, state: str, **extra: Any) -> None:
        if self.runtime.is_main:
            record = {
                "state": state,
                "step": self.step,
                "steps": self.config.train.steps,
                "metrics": self.metrics,
                "best": self.best,
                "advised": sorted(self.advised),
                **extra,
            }
            atomic.write_text(self.dir / "state.json", json.dumps(record, indent=1))

    def weights(self, ema: Ema | None) -> dict[str, dict[str, Tensor]]:
        """Returns copies on the host of rank 0, ``model`` and where there is one ``ema``; all ranks have to ask."""
        parts = {"model": self.task.state_to_save()} | ({"ema": ema.tensors} if ema else {})
        scalars, keep = SCALARS.get(self.task, set()), self.runtime.is_main
        return {part: to_host(tensors, scalars=scalars, keep=keep) for part, tensors in parts.items()}

    def save(self, optimizer: torch.optim.Optimizer, ema: Ema | None, *, behind: bool) -> None:
        """Writes a checkpoint; ``behind``: while the training goes on."""
        stragglers.set_place(f"the checkpoint of step {self.step}")
        if self.runtime.is_main:
            self.writer.wait()  # before another copy of everything is made
        weights = self.weights(ema)
        optimizer_state = optimizer_to_host(optimizer, self.task, keep=self.runtime.is_main)
        if self.runtime.is_main:
            self.writer.save(
                self.dir,
                step=self.step,
                weights=weights,
                optimizer=optimizer_state,
                state=self.metadata(),
                keep_last=self.config.train.keep_last,
                keep_every=self.config.train.keep_every,
            )
        if not behind:
            self.writer.wait()
            self.runtime.barrier()

    def validated(self, metrics: dict[str, float], ema: Ema | None) -> None:
        """Keeps the weights in ``best/`` when the validation metric of the config improved."""
        self.metrics, self.owes_validation = metrics, False
        name = getattr(self.config, "select_by", None)
        if name is None:
            return
        if name not in metrics:
            raise VeaError(f"select_by: validation has no metric {name!r}; it has {', '.join(sorted(metrics))}")
        value = metrics[name]
        if not math.isfinite(value):
            raise RunError(
                f"select_by: {name} is {value} at step {self.step}: the model predicts no numbers; the last "
                "checkpoint is good"
            )
        better = self.best is None or (
            value > self.best["value"] if higher_is_better(name) else value < self.best["value"]
        )
        if better:
            self.best = {"metric": name, "value": value, "step": self.step}
            weights = self.weights(ema)
            if self.runtime.is_main:
                chosen = weights["ema" if ema else "model"]
                checkpoint.save_weights(
                    self.dir / "best", chosen, self.metadata(step=self.step, metrics=metrics, ema=ema is not None)
                )
