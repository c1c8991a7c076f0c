"""``vea sync RUN ...``: the recorded history of runs, sent to wandb (or trackio) as if no job had ever been cut off.

    vea sync runs/pretrain-b16                     # to the server of WANDB_BASE_URL (default: wandb's own)
    vea sync runs/a runs/b --artifacts             # and the final weights
    vea sync runs/pretrain-b16 --offline           # one clean .wandb file, for `wandb sync` on a machine with network
    vea sync runs/pretrain-b16 --backend trackio   # into the data base of `trackio show`

The history is read from ``metrics.jsonl``, never from wandb's own files, of which every restart of an offline job left
one. It goes into the run whose id is in ``RUN/wandb_id``: every step once. What the server has already is not sent
again, so a second call sends nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from vea.config import RunConfig
from vea.config.load import load_record
from vea.errors import RunError, VeaError, command
from vea.training.tracking import View, last_life, open_view, read_records, summary_of


def read_run(run_dir: Path) -> RunConfig:
    """Returns the resolved config of a run folder that has a record."""
    if not (run_dir / "config.yaml").is_file():
        raise VeaError(f"no run at {run_dir} (no config.yaml in it); `vea runs DIR` lists those there are")
    if not (run_dir / "metrics.jsonl").is_file():
        raise VeaError(f"{run_dir} has no metrics.jsonl, so there is nothing to send; let the run train first")
    config, unknown = load_record(run_dir / "config.yaml")
    if unknown:
        print(f"{run_dir}: settings of another version are left out: {', '.join(unknown)}", file=sys.stderr)
    return config


def send_history(view: View, run_dir: Path) -> int:
    """Returns the last step of the record after sending its rows; the last row of a run that goes on is held back."""
    records = last_life(read_records(run_dir / "metrics.jsonl"))
    last = max((record["step"] for record in records), default=-1)
    goes_on = summary_of(run_dir).get("state") not in ("done", "failed")
    for record in records:
        if not (goes_on and record["step"] == last):
            view.add(record)
    if not goes_on:
        view.add_pictures(run_dir / "pictures")
    view.flush()
    return last


def send_evaluations(view: View, run_dir: Path, *, after: int) -> int:
    """Returns how many of the run's ``evaluation_<split>.json`` were sent: those whose content the run has not yet."""
    known = dict(view.run.config.get("evaluations") or {})
    sent = 0
    for path in sorted(run_dir.glob("evaluation_*.json")):
        text = path.read_bytes()
        digest = hashlib.sha256(text).hexdigest()[:16]
        if known.get(path.stem) != digest:
            sent += 1
            view.add_evaluation(json.loads(text), step=max(after + 1, view.first_step) + sent - 1)
            known[path.stem] = digest
    if sent:
        view.run.config.update({"evaluations": known}, allow_val_change=True)
    return sent


def sync(run_dir: Path, *, backend: str, mode: str, artifacts: bool) -> str:
    """Sends one run; returns a line that says what was sent.

    Raises:
        VeaError: no run there, or nothing recorded.
        RunError: the backend is missing, has no key, or cannot be reached.
    """
    config = read_run(run_dir)
    exit_code = 0 if summary_of(run_dir).get("state") == "done" else 1
    try:
        view = open_view(run_dir, config, backend=backend, mode=mode, live=False)
        try:
            last = send_history(view, run_dir)
            evaluations = send_evaluations(view, run_dir, after=last)
            if artifacts or (config.tracking.artifacts and view.sent):
                view.add_weights(run_dir, name=config.name)
        finally:
            view.finish(run_dir, exit_code=exit_code)
    except Exception as error:  # trackers raise what they like: no key, no network, no such project
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise RunError(
            f"{run_dir} was not sent in full: {backend} says: {reason}; its record is whole, run the same command again"
        ) from error
    what = f"{view.sent} steps" if view.sent else "nothing new"
    what += f", {evaluations} evaluation{'s' * (evaluations > 1)}" if evaluations else ""
    before = f" (after step {view.first_step - 1}, the last one there)" if view.first_step else ""
    where = view.run.dir if mode == "offline" and backend == "wandb" else getattr(view.run, "url", None) or backend
    return f"{run_dir}: {what}{before} -> {where}"


@command
def main(argv: list[str]) -> None:
    """Runs ``vea sync``."""
    parser = argparse.ArgumentParser(
        prog="vea sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--backend", choices=("wandb", "trackio"), default="wandb")
    parser.add_argument("--offline", action="store_true", help="write a .wandb file below RUN/wandb, ask no server")
    parser.add_argument("--artifacts", action="store_true", help="send final/ too, as an artifact of type model")
    arguments = parser.parse_args(argv)
    mode = "offline" if arguments.offline else "online"
    for run_dir in arguments.runs:
        print(sync(run_dir, backend=arguments.backend, mode=mode, artifacts=arguments.artifacts))
