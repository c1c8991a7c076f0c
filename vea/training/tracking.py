"""Views of a run's record. ``metrics.jsonl`` is the record; wandb and trackio show it, and may fail: training goes on.

A view is given records; those of one step become one row, sent when the step is over. So the last row of a run that
was stopped is sent by its next life, or by ``vea sync``, and no step is ever sent in two parts.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vea.config import RunConfig
from vea.config.base import public
from vea.errors import Preempted

Record = dict[str, Any]
MAX_TABLE_ROWS = 10_000  # what wandb keeps of a table


# ---------------------------------------------------------------------------------------------------------- the record


def read_records(path: Path) -> list[Record]:
    """Returns the records of ``metrics.jsonl``; a line that a killed run left half written is not among them."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


def last_life(records: Iterable[Record]) -> list[Record]:
    """Returns the records in order of their step, each kind at each step once.

    Where a kind goes back to an earlier step, a restarted run repeats what an earlier life lost: the later life counts.
    """
    kept: dict[str, dict[int, Record]] = {}
    events: dict[tuple[int, str], Record] = {}
    for record in records:
        step = record["step"]
        if record["kind"] == "event":
            events[step, str(record.get("event"))] = record
            continue
        steps = kept.setdefault(record["kind"], {})
        while steps and next(reversed(steps)) >= step:
            steps.popitem()
        steps[step] = record
    everything = [record for steps in kept.values() for record in steps.values()]
    return sorted([*everything, *events.values()], key=lambda record: record["step"])


def values_of(record: Record) -> dict[str, Any]:
    """Returns what a view shows of a record: numbers as ``kind/name``, an event as ``event/name``: its text."""
    if record["kind"] == "event":
        return {f"event/{record['event']}": record["text"]} | {"samples": record["samples"]}
    return {
        name if name == "samples" else f"{record['kind']}/{name}": value
        for name, value in record.items()
        if isinstance(value, (int, float)) and name not in ("step", "time")
    }


def summary_of(run_dir: Path) -> dict[str, Any]:
    """Returns how a run stands by its ``state.json``: state, best value and its step."""
    try:
        state = json.loads((run_dir / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    best = state.get("best") or {}
    found = {f"best/{best['metric']}": best["value"], "best/step": best["step"]} if best else {}
    return {"state": state.get("state"), **found}


def predictions_table(record: dict[str, Any], *, target: str) -> tuple[list[str], list[list[Any]]]:
    """Returns (columns, rows) of one target's predictions in an ``evaluation_<split>.json``, classes by their name."""
    classes = record["targets"][target].get("classes")
    columns = record["predictions"][target]
    if isinstance(columns, list):  # explanations: one entry a picture
        told = ("key", "emotion", "references", "text")
        rows = [[" | ".join(row[name]) if name == "references" else row[name] for name in told] for row in columns]
        return list(told), rows[:MAX_TABLE_ROWS]

    def named(value: Any) -> Any:
        if not classes or value is None:
            return value
        if isinstance(value, list):
            return ", ".join(classes[index] for index in value)
        return classes[value] if value >= 0 else None

    rows = [
        [key, named(truth), named(guess), confidence]
        for key, truth, guess, confidence in zip(
            record["predictions"]["keys"], columns["target"], columns["prediction"], columns["confidence"]
        )
    ]
    return ["key", "target", "prediction", "confidence"], rows[:MAX_TABLE_ROWS]


# ------------------------------------------------------------------------------------------------------------ the view


class View:
    """A run of wandb or trackio that follows the record; both have the same API, ``api`` is the module.

    Rows of steps before ``first_step`` are there already and are not sent.
    """

    def __init__(self, api: Any, run: Any, *, first_step: int) -> None:
        self.api, self.run, self.first_step = api, run, first_step
        self.sent = 0
        self._step = -1
        self._row: dict[str, Any] = {}

    def add(self, record: Record) -> None:
        """Adds a record to the row of its step; sends the row of the step before."""
        if record["step"] != self._step:
            self.flush()
        self._step = record["step"]
        self._row |= values_of(record)

    def add_pictures(self, folder: Path) -> None:
        """Adds the pictures of a run folder (reconstruction grids, calibration) to the row of the current step."""
        for path in sorted(folder.glob("[!.]*.png")):
            self._row[f"pictures/{path.stem}"] = self.api.Image(str(path))

    def flush(self) -> None:
        """Sends the row of the current step."""
        if self._row and self._step >= self.first_step:
            self.run.log(self._row, step=self._step)
            self.sent += 1
        self._row = {}

    def add_evaluation(self, record: dict[str, Any], *, step: int) -> None:
        """Sends an evaluation as a row of its own: headline numbers, confusion matrix, prediction table."""
        row: dict[str, Any] = {}
        for target, result in record["targets"].items():
            prefix = f"evaluation/{record['split']}/{target}"
            row |= {f"{prefix}/{name}": value for name, value in result["metrics"].items()}
            if "confusion" in result:
                row[f"{prefix}/confusion"] = self._confusion(result["classes"], result["confusion"])
            columns, rows = predictions_table(record, target=target)
            row[f"{prefix}/predictions"] = self.api.Table(columns=columns, data=rows)
        self.run.log(row, step=step)

    def _confusion(self, classes: list[str], counts: list[list[int]]) -> Any:
        columns = ["Actual", "Predicted", "nPredictions"]
        cells = [[classes[i], classes[j], count] for i, row in enumerate(counts) for j, count in enumerate(row)]
        table = self.api.Table(columns=columns, data=cells)
        if not hasattr(self.api, "plot_table"):
            return table
        return self.api.plot_table(
            "wandb/confusion_matrix/v1",
            table,
            {name: name for name in columns},
            {"title": "rows are the truth, columns the prediction"},
        )

    def add_weights(self, run_dir: Path, *, name: str) -> None:
        """Uploads ``final/`` as an artifact of type model, with the metadata that is saved beside the weights."""
        folder = run_dir / "final"
        if not (folder / "state.json").is_file():
            return
        metadata = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        artifact = self.api.Artifact(f"{name}-final", type="model", metadata=metadata)
        artifact.add_dir(str(folder))
        self.run.log_artifact(artifact)

    def alert(self, title: str, text: str, *, level: str) -> None:
        """Sends an alert: a mail or a chat message, by the settings of the account."""
        self.run.alert(title=title, text=text, level=getattr(self.api.AlertLevel, level))

    def finish(self, run_dir: Path, *, exit_code: int) -> None:
        """Sends what is left and the summary, ends the run; the last row of a preempted run waits for its next life."""
        if exit_code != Preempted.exit_code:
            self.flush()
        if self.api.__name__ == "wandb":
            self.run.summary.update(summary_of(run_dir))
            self.run.finish(exit_code=exit_code)
        else:
            self.run.finish()


def open_view(run_dir: Path, config: RunConfig, *, backend: str, mode: str, live: bool = True) -> View:
    """Returns the view of a run. A run that the server knows already is gone on with, after its last step.

    Args:
        run_dir: the run folder; it keeps the id that makes all lives of a run one run.
        config: names project, group and tags, and is shown as a whole.
        backend: wandb | trackio.
        mode: wandb only: offline | online.
        live: the run goes on in this process, whose machine and load are shown as well.

    Raises:
        ImportError: the backend is not installed.
        Exception: whatever the backend raises: no key, no network.
    """
    shown = public(config.model_dump(mode="json"))
    if backend == "trackio":
        return _open_trackio(run_dir, config, shown, live=live)
    import wandb

    if mode == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no wandb API key: set WANDB_API_KEY (and WANDB_BASE_URL for a server of your own)")
    patience = float(os.environ.get("WANDB_INIT_TIMEOUT", 30))  # a job does not wait longer for a server
    settings = wandb.Settings(silent=True, init_timeout=patience, finish_timeout=120, disable_git=True, console="off")
    if not live:  # the machine that sends is not the one that trained
        settings.x_disable_stats = settings.x_disable_meta = settings.x_disable_machine_info = True
        settings.x_save_requirements = False
    run = wandb.init(
        id=run_id(run_dir),
        resume="allow" if mode == "online" else None,
        mode=mode,  # type: ignore[arg-type]
        project=config.tracking.project,
        name=config.name,
        group=config.tracking.group,
        job_type=config.recipe,
        tags=config.tracking.tags,
        notes=config.notes or None,
        dir=str(run_dir),
        config=shown,
        settings=settings,
    )
    run.define_metric("samples")
    run.define_metric("*", step_metric="samples")
    return View(wandb, run, first_step=run.starting_step)


def run_id(run_dir: Path, name: str = "wandb_id") -> str:
    """Returns the id in ``RUN/<name>``; makes it where there is none: the sweep's in a sweep, else a random one."""
    path = run_dir / name
    if not path.is_file():
        from vea.storage.atomic import write_text  # it takes torch, which `vea sync` can do without

        given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        write_text(path, given or secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()


def _open_trackio(run_dir: Path, config: RunConfig, shown: dict[str, Any], *, live: bool) -> View:
    # one data base for all runs of a folder; trackio reads the variable when it is imported
    os.environ.setdefault("TRACKIO_DIR", str((run_dir.parent / "trackio").resolve()))
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    project, name = config.tracking.project, f"{config.name}-{run_id(run_dir, 'wandb_id')}"
    load = None if live else False  # None: where psutil or an NVIDIA GPU is there
    run = trackio.init(
        project=project,
        name=name,
        group=config.tracking.group,
        config={**shown, "tags": config.tracking.tags},
        resume="allow",
        embed=False,
        auto_log_cpu=load,
        auto_log_gpu=load,
    )
    last = SQLiteStorage.get_max_step_for_run(project, name)
    return View(trackio, run, first_step=0 if last is None else last + 1)


# -------------------------------------------------------------------------------------------------------- while it runs


class Watchdog:
    """Calls ``on_stall(seconds)`` once when nothing was heard for so long; hearing something winds it up again."""

    def __init__(self, seconds: float, on_stall: Callable[[float], None]) -> None:
        self._seconds, self._on_stall = seconds, on_stall
        self._heard, self._closed = threading.Event(), False
        threading.Thread(target=self._watch, name="vea-watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self._closed:
            heard = self._heard.wait(self._seconds)
            self._heard.clear()
            if not heard:
                self._on_stall(self._seconds)
                self._heard.wait()  # told once
                self._heard.clear()

    def hear(self) -> None:
        """Tells that the run is alive."""
        self._heard.set()

    def close(self) -> None:
        """Ends the thread."""
        self._closed = True
        self._heard.set()


def wandb_mode(mode: str) -> str:
    """Returns offline, online or disabled: wandb's own switches in the environment go before the config.

    ``WANDB_MODE`` (online, offline, dryrun, disabled, shared) and ``WANDB_DISABLED`` (true, 1, yes, on).
    """
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("true", "1", "yes", "on"):
        return "disabled"
    said = os.environ.get("WANDB_MODE", "").strip().lower()
    return {"dryrun": "offline", "run": "online", "shared": "online"}.get(said, said) or mode


class Tracker:
    """The live view of a run, by its config: shows what it can, and says once when it cannot. Never raises.

    Opening it catches up: rows of the record that an earlier life did not get to send are sent first.
    """

    def __init__(self, run_dir: Path, config: RunConfig, *, record: list[Record]) -> None:
        self.run_dir, self.config = run_dir, config
        self._view: View | None = None
        self._lock = threading.Lock()  # the watchdog speaks from its own thread
        settings = config.tracking
        mode = wandb_mode(settings.mode) if settings.backend == "wandb" else settings.mode
        if settings.backend != "none" and mode != "disabled":
            try:
                self._view = open_view(run_dir, config, backend=settings.backend, mode=mode)
            except Exception as error:  # tracking never stops training
                self._give_up(error)
        for old in last_life(record):
            self.add(old)

    def _give_up(self, error: Exception) -> None:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        print(
            f"warning: {self.config.tracking.backend} is off for this run ({said}); metrics.jsonl has everything, "
            "`vea sync` sends it later",
            file=sys.stderr,
            flush=True,
        )
        self._view = None

    def _show(self, act: Callable[[View], None]) -> None:
        with self._lock:
            if self._view is not None:
                try:
                    act(self._view)
                except Exception as error:  # tracking never stops training
                    self._give_up(error)

    def add(self, record: Record) -> None:
        """Shows a record."""
        self._show(lambda view: view.add(record))

    def add_pictures(self, folder: Path) -> None:
        """Shows the pictures of the run folder."""
        self._show(lambda view: view.add_pictures(folder))

    def alert(self, title: str, text: str, *, level: str) -> None:
        """Sends an alert (level: INFO | WARN | ERROR)."""
        self._show(lambda view: view.alert(title, text, level=level))

    def close(self, *, exit_code: int) -> None:
        """Sends the weights of a run that is done, where the config asks for it, and ends the view."""
        if exit_code == 0 and self.config.tracking.artifacts:
            self._show(lambda view: view.add_weights(self.run_dir, name=self.config.name))
        self._show(lambda view: view.finish(self.run_dir, exit_code=exit_code))
        self._view = None
