"""``vea runs [DIR]``: how far every run below a folder is, from its files alone (no torch, nothing is loaded)."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vea.errors import VeaError

HEADER = ["run", "state", "step", "img/s", "eta", "last line", "best", "last checkpoint"]
SILENT_S, SILENT_INTERVALS = 300, 10  # a run that writes nothing for longer than both is not running
TAIL_BYTES = 65536  # of metrics.jsonl: enough for some lines


def last_records(run_dir: Path) -> list[dict[str, Any]]:
    """Returns the last records of ``metrics.jsonl``, oldest first; lines that are cut are left out."""
    records = []
    try:
        with (run_dir / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the first of the tail, or the last of a killed run
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def process_is_there(record: dict[str, Any]) -> bool | None:
    """Returns whether the process that wrote ``state.json`` still runs; None where this machine cannot know."""
    if record.get("host") != platform.node() or not isinstance(record.get("pid"), int):
        return None
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def state_of(record: dict[str, Any], *, age: float, interval: float) -> str:
    """Returns the state in ``record``, but not ``running`` for a run that does not run.

    Args:
        record: what ``state.json`` says.
        age: seconds since the last sign of life.
        interval: seconds between the last two lines of the log.
    """
    state = str(record.get("state", "?"))
    if state != "running":
        return state
    there = process_is_there(record)
    silent = age > max(SILENT_S, SILENT_INTERVALS * interval)
    if there is False or (silent and there is None):
        return "stopped"
    return "running, silent" if silent else state


def duration(seconds: float) -> str:
    """Returns a time in the unit a person would choose: 42 s, 12 min, 3.5 h, 2.0 d."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"


def run_row(run_dir: Path, *, name: str) -> list[str]:
    """Returns one cell per column of ``HEADER`` for a run folder."""
    try:
        record = json.loads((run_dir / "state.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError):
        record = {"state": "unreadable state.json"}
    records = last_records(run_dir)
    train = [line for line in records if line.get("kind") == "train"]
    times = [line["time"] for line in train[-2:] if "time" in line]
    try:
        opened = (run_dir / "state.json").stat().st_mtime  # a life that has not written a line yet
    except OSError:
        opened = 0.0
    age = time.time() - max(opened, *(line.get("time", 0.0) for line in records[-1:]), 0.0)
    state = state_of(record, age=age, interval=times[-1] - times[0] if len(times) == 2 else 0.0)

    step, steps = record.get("step"), record.get("steps")
    if state.startswith("running") or state == "stopped":  # state.json has the step at which that life began
        step = max([step or 0, *(line.get("step", 0) for line in train[-1:])])
    rate = f"{train[-1]['images_per_s']:.0f}" if train and "images_per_s" in train[-1] else "-"
    eta = "-"
    if state == "running" and train and "eta_s" in train[-1]:
        eta = duration(max(0.0, train[-1]["eta_s"] - (time.time() - train[-1].get("time", time.time()))))
    best = record.get("best")
    shown = f"{best['metric']} {best['value']:.4f} at step {best['step']}" if best else "-"
    # the rule of vea.storage.atomic, which would import torch: whole folders have a state.json
    whole = sorted(path.parent.name for path in (run_dir / "checkpoints").glob("step_*/state.json"))
    progress = "/".join("?" if number is None else str(number) for number in (step, steps))
    told = f"{duration(age)} ago" if records else "-"
    return [name, state, progress, rate, eta, told, shown, whole[-1] if whole else "-"]


def find_runs(root: Path) -> Iterator[Path]:
    """Yields the run folders at and below ``root`` in order; what lies inside a run is not looked at."""
    if (root / "config.yaml").is_file() and (root / "state.json").is_file():
        yield root
        return
    for entry in sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink()):
        yield from find_runs(entry)


def main(argv: list[str]) -> None:
    """Prints one line per run folder below a folder."""
    parser = argparse.ArgumentParser(prog="vea runs", description="The runs below a folder and how far they are.")
    parser.add_argument("dir", nargs="?", type=Path, default=Path("runs"), help="folder of runs, or one run (runs)")
    root = parser.parse_args(argv).dir
    if not root.is_dir():
        raise VeaError(f"no folder {root}; give the folder that holds the runs (recipes write to runs/NAME)")
    rows = [run_row(run, name=run.relative_to(root).as_posix() if run != root else run.name) for run in find_runs(root)]
    if not rows:
        raise VeaError(f"no run below {root} (a run folder holds config.yaml and state.json)")
    rows.insert(0, HEADER)
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
