"""Is it the same run, and what to do with what is there: going on, starting over, going back to an older checkpoint.

A run goes on with the settings that it had. What may differ: where things are (a data set at another mount is known by
its index), what does not change what is computed, more steps, and what an error of the run told to change; the last two
are written into its record.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vea.config import RunConfig
from vea.config.base import public
from vea.errors import RunError, VeaError
from vea.storage import atomic, checkpoint

_MAY_CHANGE = {"runtime", "tracking", "notes", "out"}  # nothing here changes what is computed
_MAY_CHANGE_INSIDE = {
    "data": {"workers", "cache_dir", "cache_gb"},
    "train": {"resume", "init_from", "log_every", "checkpoint_every", "keep_last", "keep_every", "max_micro_batch"},
}
ROLLED_BACK = "rolled_back.json"


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (key, old value, new value) of each setting of two configs (as dicts) that changes what is computed."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if not ((not path and key in _MAY_CHANGE) or key in _MAY_CHANGE_INSIDE.get(path, ())):
                yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new)):
            yield from differences(one, other, f"{path}.{number}")
    elif old != new:
        yield path, old, new


def first_difference(old: Any, new: Any) -> str | None:
    """Returns the first setting of two configs (as dicts) that changes what is computed, in words; None: all alike."""
    return next((f"{key} was {was!r} and is {now!r} now" for key, was, now in differences(old, new)), None)


def data_identities(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns {path: first half of the sha256 of its index} of the data sets of a config that are on this machine."""
    found = {}
    for ref in (*config["data"].get("train", ()), *config["data"].get("val", ())):
        with contextlib.suppress(OSError, KeyError, TypeError):
            found[ref["path"]] = hashlib.sha256((Path(ref["path"]) / "index.json").read_bytes()).hexdigest()[:32]
    return found


def _moved(key: str, old: Any, new: Any, known: Mapping[str, str], here: Mapping[str, str]) -> bool:
    """Returns whether two paths are of one thing at two places: by a set's index, else by the last part of the name."""
    if not (isinstance(old, str) and isinstance(new, str) and ("/" in old or "/" in new)):
        return False
    if key.startswith("data.") and old in known and new in here:
        return known[old] == here[new]
    return Path(old).name == Path(new).name


def check_same_run(folder: Path, *, config: RunConfig, advised: set[str] | frozenset[str] = frozenset()) -> list[str]:
    """Returns the changes that the run's record shall have, in words.

    Args:
        folder: of a checkpoint.
        config: of this life.
        advised: settings that may change because an error of the run said so.

    Raises:
        VeaError: it is no checkpoint, or belongs to a run with other settings.
        RunError: it is broken.
    """
    if not (folder / "state.json").is_file():
        raise VeaError(f"train.resume: {folder} is not a checkpoint (no state.json in it)")
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        old = state["config"]
    except (ValueError, KeyError):
        raise RunError(
            f"{folder / 'state.json'} is broken; remove its folder to go on from an earlier checkpoint"
        ) from None
    with contextlib.suppress(ValueError):  # keys that its version did not have yet are as they were: at their defaults
        old = public(type(config).model_validate(old).model_dump(mode="json"))
    new, changes = public(config.model_dump(mode="json")), []
    here = data_identities(new)
    for key, was, now in differences(old, new):
        words = f"{key} was {was!r} and is {now!r} now"
        if _moved(key, was, now, state.get("data") or {}, here):
            continue
        if key in advised or (key == "train.steps" and isinstance(was, int) and now > was):
            changes.append(words)
            continue
        raise VeaError(
            f"{config.run_dir} holds a run with other settings ({words}); choose another name=..., or start "
            "over with train.resume=never (the old folder is kept beside it)"
        )
    return changes


def advised_changes(run_dir: Path) -> set[str]:
    """Returns the settings that the last error of the run named, and those that earlier errors did."""
    try:
        state = json.loads((run_dir / "state.json").read_text(encoding="utf-8"))
        named = re.findall(r"\b(?:train|data)\.[a-z_]+", state["reason"]) if state.get("state") == "failed" else []
        return {*named, *state.get("advised", ())} - {"data.train", "data.val"}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


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


def has_rolled_back(run_dir: Path, *, to: Path) -> bool:
    """Returns whether the run went back to the checkpoint ``to`` before: the same command then goes on after it."""
    try:
        return json.loads((run_dir / ROLLED_BACK).read_text(encoding="utf-8"))["to"] == str(to.resolve())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def roll_back(run_dir: Path, *, to: Path) -> None:
    """Sets aside what the run made after the checkpoint ``to``, so that the new branch is the newest.

    Checkpoints of later steps, ``best`` and ``final`` move to ``before_rollback.N``. A kill in between leaves the rest
    for the next call; the record that says that it is done comes last.
    """
    step = json.loads((to / "state.json").read_text(encoding="utf-8"))["step"]
    later = [found.path for found in checkpoint.list_checkpoints(run_dir) if found.step > step]
    for name in ("best", "final"):
        if (run_dir / name / "state.json").is_file():
            made = json.loads((run_dir / name / "state.json").read_text(encoding="utf-8"))
            later += [run_dir / name] if made.get("step", 0) > step else []
    if later:
        number = 1
        while (aside := run_dir / f"before_rollback.{number}").exists():
            number += 1
        aside.mkdir()
        for path in later:
            atomic.rename(path, aside / path.name)
    atomic.write_text(run_dir / ROLLED_BACK, json.dumps({"to": str(to.resolve()), "step": step}))
