"""What a run says: ``metrics.jsonl`` is the record, the console and wandb are views of it."""

from __future__ import annotations

import json
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from vea.config import RunConfig
from vea.training.checkpoint import write_text


def console_line(record: dict[str, Any], *, steps: int) -> str:
    """Returns one line for a person: step, loss and parts, rate, learning rate, time left."""
    hidden = {"kind", "step", "samples", "time", "elapsed_s", "images_per_s", "data_wait", "lr", "memory_gb", "eta_s"}
    numbers = " ".join(
        f"{name} {value:.4g}"
        for name, value in record.items()
        if name not in hidden and isinstance(value, (int, float))
    )
    line = f"[{record['kind']}] step {record['step']}/{steps} {numbers}"
    if "images_per_s" in record:
        line += (
            f" | lr {record['lr']:.2e} {record['images_per_s']:.0f} img/s wait {record['data_wait']:.0%} "
            f"eta {record['eta_s'] / 60:.1f} min"
        )
    return line


class MetricsLog:
    """Appends records to ``metrics.jsonl``; prints them; shows them to wandb. Only rank 0 has one.

    Opening it at step ``start_step`` drops records of later steps, written by a life that was killed before its next
    checkpoint: every step stands in the file once. With ``owes_validation`` that of ``start_step`` is yet to come.
    """

    def __init__(self, run_dir: Path, config: RunConfig, *, start_step: int, owes_validation: bool = False) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.steps = config.train.steps
        self._started = time.time()
        last = {"train": start_step, "val": start_step - owes_validation}
        records = ((line, json.loads(line)) for line in self._lines())
        kept = [line for line, record in records if record["step"] <= last.get(record["kind"], start_step)]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._wandb: Any = None
        if config.tracking.backend == "wandb":
            self._start_wandb(run_dir, config)

    def _lines(self) -> list[str]:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        whole = []
        for line in lines:
            try:
                json.loads(line)
            except ValueError:  # the last line of a killed run may be cut
                continue
            whole.append(line)
        return whole

    def _start_wandb(self, run_dir: Path, config: RunConfig) -> None:
        try:
            import wandb

            id_file = run_dir / "wandb_id"
            if not id_file.is_file():
                write_text(id_file, secrets.token_hex(4))
            self._wandb = wandb.init(
                id=id_file.read_text(),
                resume="allow" if config.tracking.mode == "online" else None,
                mode=config.tracking.mode,
                project=config.tracking.project,
                name=config.name,
                group=config.tracking.group,
                tags=config.tracking.tags,
                dir=str(run_dir),
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True),
            )
            self._wandb.define_metric("samples")
            self._wandb.define_metric("*", step_metric="samples")
        except Exception as error:  # tracking never stops training
            self._drop_wandb(error)

    def _drop_wandb(self, error: Exception) -> None:
        print(
            f"warning: wandb is off for this run ({str(error).splitlines()[0]}); metrics.jsonl has everything",
            file=sys.stderr,
            flush=True,
        )
        self._wandb = None

    def write(self, record: dict[str, Any]) -> None:
        """Adds one record (it needs ``kind`` and ``step``) and prints it as a plain line."""
        record = {**record, "time": round(time.time(), 3)}
        self._file.write(json.dumps(record) + "\n")
        print(console_line(record, steps=self.steps), flush=True)
        if self._wandb is not None:
            try:
                prefix = f"{record['kind']}/"
                shown = {
                    name if name == "samples" else prefix + name: value
                    for name, value in record.items()
                    if isinstance(value, (int, float)) and name not in ("step", "time")
                }
                self._wandb.log(shown, step=record["step"])
            except Exception as error:  # tracking never stops training
                self._drop_wandb(error)

    def say(self, text: str) -> None:
        """Prints one line for the reader of the log."""
        print(text, flush=True)

    def close(self, *, exit_code: int = 0) -> None:
        """Closes the file and wandb's run."""
        self._file.close()
        if self._wandb is not None:
            try:
                self._wandb.finish(exit_code=exit_code)
            except Exception as error:  # tracking never stops training
                self._drop_wandb(error)
