"""What a run says: ``metrics.jsonl`` is the record, the console and the tracker are views of it."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from vea.config import RunConfig
from vea.errors import Preempted
from vea.storage.atomic import write_text
from vea.training.tracking import Tracker, Watchdog, read_records


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
    """Appends records to ``metrics.jsonl``; prints them; shows them to the tracker. Only rank 0 has one.

    Opening it at step ``start_step`` drops records of later steps, written by a life that was killed before its next
    checkpoint: every step stands in the file once. With ``owes_validation`` that of ``start_step`` is yet to come.
    """

    def __init__(self, run_dir: Path, config: RunConfig, *, start_step: int, owes_validation: bool = False) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.steps = config.train.steps
        self._batch, self._epoch = config.data.global_batch_size, config.data.epoch_samples
        last = {"train": start_step, "val": start_step - owes_validation}
        kept = [record for record in read_records(self.path) if record["step"] <= last.get(record["kind"], start_step)]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self.path.open("a", encoding="utf-8", buffering=1)
        self._step = start_step
        self._tracker = Tracker(run_dir, config, record=kept)
        if start_step:
            self.event("resumed", f"at step {start_step} of {self.steps}")
        minutes = config.tracking.stall_minutes
        self._watchdog = Watchdog(60 * minutes, self._stalled) if minutes else None

    def write(self, record: dict[str, Any]) -> None:
        """Adds one record (it needs ``kind`` and ``step``) and prints it as a plain line."""
        epoch = {"epoch": round(record["step"] * self._batch / self._epoch, 4)} if self._epoch else {}
        record = {**record, **epoch, "time": round(time.time(), 3)}
        self._step = record["step"]
        self._file.write(json.dumps(record) + "\n")
        print(console_line(record, steps=self.steps), flush=True)
        self._tracker.add(record)
        if self._watchdog:
            self._watchdog.hear()

    def event(self, name: str, text: str) -> None:
        """Adds a record of kind event at the last step: what happened, in words."""
        record = {"kind": "event", "step": self._step, "samples": self._step * self._batch, "event": name, "text": text}
        record["time"] = round(time.time(), 3)
        self._file.write(json.dumps(record) + "\n")
        self._tracker.add(record)

    def show_pictures(self, folder: Path) -> None:
        """Shows the pictures of the run folder to the tracker."""
        self._tracker.add_pictures(folder)

    def _stalled(self, seconds: float) -> None:
        text = f"nothing was logged for {seconds / 60:.0f} min after step {self._step} of {self.steps}"
        print(f"warning: the run stalls: {text}", file=sys.stderr, flush=True)
        self._tracker.alert("stalled", text, level="WARN")

    def say(self, text: str) -> None:
        """Prints one line for the reader of the log."""
        print(text, flush=True)

    def close(self, *, exit_code: int = 0, reason: str = "") -> None:
        """Writes how the run ended, sends an alert (not for a preemption), closes the file and the tracker."""
        if self._watchdog:
            self._watchdog.close()
        name = {0: "done", Preempted.exit_code: "preempted"}.get(exit_code, "failed")
        text = reason or f"at step {self._step} of {self.steps}"
        with contextlib.suppress(OSError):  # a full disk is told by what ended the run
            self.event(name, text)
            self._file.close()
        if name != "preempted":
            title = "loss is not finite" if "not finite" in text else name
            self._tracker.alert(title, text, level="INFO" if name == "done" else "ERROR")
        self._tracker.close(exit_code=exit_code)
