"""A run folder: who works in it, is it the same run, and what to do with what is there."""

from __future__ import annotations

import contextlib
import json
import math
import os
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
from vea.training.parallel import (
    full,
    full_optimizer_state,
)

_MAY_CHANGE = {"runtime", "tracking", "notes", "out"}  # nothing here changes what is computed
_MAY_CHANGE_INSIDE = {
    "data": {"workers", "cache_dir", "cache_gb"},
    "train": {"resume", "log_every", "checkpoint_every", "keep_last", "keep_every", "max_micro_batch"},
}


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Returns the first setting of two configs (as dicts) that changes what is computed, in words; None: all alike."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if (not path and key in _MAY_CHANGE) or key in _MAY_CHANGE_INSIDE.get(path, ()):
                continue
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
            if found:
                return found
        return None
    return None if old == new else f"{path} was {old!r} and is {new!r} now"


def check_same_run(folder: Path, *, config: RunConfig) -> None:
    """Raises an error when the checkpoint in ``folder`` is none, is broken, or belongs to a run with other settings."""
    if not (folder / "state.json").is_file():
        raise VeaError(f"train.resume: {folder} is not a checkpoint (no state.json in it)")
    try:
        old = json.loads((folder / "state.json").read_text(encoding="utf-8"))["config"]
    except (ValueError, KeyError):
        raise RunError(
            f"{folder / 'state.json'} is broken; remove its folder to go on from an earlier checkpoint"
        ) from None
    with contextlib.suppress(ValueError):  # keys that its version did not have yet are as they were: at their defaults
        old = public(type(config).model_validate(old).model_dump(mode="json"))
    difference = first_difference(old, public(config.model_dump(mode="json")))
    if difference:
        raise VeaError(
            f"{config.run_dir} holds a run with other settings ({difference}); choose another name=..., or start "
            "over with train.resume=never (the old folder is kept beside it)"
        )


def hold_run(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the run folder, so that no second process trains in it; raises ``VeaError`` that says who does."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    return lock.held(run_dir.with_name(f".{run_dir.name}.lock"), what=f"training in {run_dir}")


def has_begun(run_dir: Path) -> bool:
    """Returns whether a run has written anything there; a copy of its code alone is no beginning."""
    return any((run_dir / name).exists() for name in ("metrics.jsonl", "checkpoints", "best", "final"))


def start_over(run_dir: Path) -> None:
    """Sets aside what another run left there, for ``train.resume=never``, which holds for the first start only.

    A job that SLURM or torchrun starts again goes on with what it has. The code that it runs stays where it is.
    """
    restarted = any(int(os.environ.get(name) or 0) for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    if not has_begun(run_dir) or restarted:
        return
    aside = atomic.set_aside(run_dir)
    if (aside / "code").is_dir():
        run_dir.mkdir()
        atomic.rename(aside / "code", run_dir / "code")


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
        if resume not in ("auto", "never"):
            chosen: Path | None = Path(resume)
        else:
            found = checkpoint.list_checkpoints(self.dir)
            chosen = found[-1].path if found else None
        if chosen is not None:
            check_same_run(chosen, config=self.config)
        self.runtime.barrier()
        if self.runtime.is_main:
            self.dir.mkdir(parents=True, exist_ok=True)
            atomic.write_text(self.dir / "config.yaml", to_yaml(self.config))
        return chosen

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
                **extra,
            }
            atomic.write_text(self.dir / "state.json", json.dumps(record, indent=1))

    def weights(self, ema: Ema | None) -> dict[str, dict[str, Tensor]]:
        """Returns whole tensors, ``model`` and where there is one ``ema``; all ranks have to ask."""
        parts = {"model": self.task.state_to_save()} | ({"ema": ema.tensors} if ema else {})
        return {part: {name: full(value) for name, value in tensors.items()} for part, tensors in parts.items()}

    def save(self, optimizer: torch.optim.Optimizer, ema: Ema | None, *, behind: bool) -> None:
        """Writes a checkpoint; ``behind``: while the training goes on."""
        stragglers.set_place(f"the checkpoint of step {self.step}")
        weights, optimizer_state = self.weights(ema), full_optimizer_state(optimizer)
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
