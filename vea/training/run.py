"""A run folder: is it the same run, and what to do with what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vea.config import RunConfig
from vea.errors import RunError, VeaError

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
    difference = first_difference(old, config.model_dump(mode="json"))
    if difference:
        raise VeaError(
            f"{config.run_dir} holds a run with other settings ({difference}); choose another name=..., or start "
            "over with train.resume=never (the old folder is kept beside it)"
        )


def _set_aside(run_dir: Path) -> None:
    number = 1
    while (target := run_dir.with_name(f"{run_dir.name}.{number}")).exists():
        number += 1
    run_dir.rename(target)
