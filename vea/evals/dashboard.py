"""A judged model on a wandb dashboard: its scores, and a table of every question with its answer."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError

COLUMNS = ("key", "class", "prompt", "truth", "text", "choice", "probability", "right, text", "right, probability")
PICTURES = 200  # shown in a table; the rest stays words


def flat(scores: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yields (path, number) of nested scores."""
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}/{name}")
        elif isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)


def _row(judged: dict[str, Any]) -> list[Any]:
    shares = judged.get("probabilities") or {}
    choice = max(shares, key=lambda name: shares[name]) if shares else None
    points = judged["points"]
    told = [judged["key"], judged["class"], judged["prompt"], judged["truth"], judged.get("text"), choice]
    return [*told, shares.get(choice), points.get("text"), points.get("probability")]


def show(folder: Path, records: Mapping[str, dict[str, Any]], *, project: str) -> None:
    """Sends records and the judged questions of a folder as one run of wandb; ``WANDB_MODE`` decides where to.

    Raises:
        VeaError: wandb is not installed, or has no key for its server.
        RunError: it cannot be reached.
    """
    try:
        import wandb
    except ImportError:
        raise VeaError("a dashboard needs wandb: pip install wandb") from None
    online = os.environ.get("WANDB_MODE", "online") in ("online", "shared")
    if online and not wandb.login(prompt=False, verify=False):
        raise VeaError("no wandb API key: set WANDB_API_KEY, or WANDB_MODE=offline and send the run with `wandb sync`")
    first = next(iter(records.values()))
    settings = wandb.Settings(silent=True, disable_git=True, console="off", init_timeout=60)
    try:
        run = wandb.init(
            project=project, name=first["model"], job_type="eval", dir=str(folder), settings=settings,
            config={"model": first["model"], "tasks": list(records), **first["settings"]},
        )  # fmt: skip
    except Exception as error:
        raise RunError(f"wandb does not start ({error}); the scores are in {folder}") from None
    with run:
        for name, record in records.items():
            row: dict[str, Any] = dict(flat(record["scores"], name)) | dict(flat(record["cost"], f"{name}/cost"))
            row[f"{name}/answers"] = _table(wandb, folder / f"judged_{name}.jsonl")
            run.log(row)


def _table(api: Any, path: Path) -> Any:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    shown = [_row(judged) for judged in rows]
    pictures: dict[str, Any] = {}
    for judged in rows:
        file = judged["picture"]
        if file is not None and file not in pictures and len(pictures) < PICTURES and Path(file).is_file():
            pictures[file] = api.Image(file)
    return api.Table(
        columns=["picture", *COLUMNS], data=[[pictures.get(j["picture"]), *row] for j, row in zip(rows, shown)]
    )
