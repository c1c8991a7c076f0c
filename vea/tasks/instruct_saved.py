"""Open a pupil: a run of recipe instruct, or a folder of `vea export --to pupil`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors.torch import load_file

from vea.config import InstructConfig
from vea.errors import VeaError
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.instruct import InstructTask
from vea.tasks.instruct_whole import InstructWholeTask

EXPORTED = "pupil.json"  # in an exported folder: what the run said of itself


def is_pupil(folder: Path) -> bool:
    """Returns whether ``folder`` is a run of recipe instruct, or what was exported of one."""
    if (folder / EXPORTED).is_file():
        return True
    try:
        beside = find_weights(folder) / "state.json"
        return json.loads(beside.read_text(encoding="utf-8")).get("recipe") == "instruct"
    except (VeaError, OSError, ValueError):
        return False


def open_pupil(folder: str | Path) -> InstructTask:
    """Returns the pupil in evaluation mode.

    Raises:
        VeaError: the folder holds none, or its language model is not where the run found it.
    """
    folder = Path(folder)
    if (folder / EXPORTED).is_file():
        state = json.loads((folder / EXPORTED).read_text(encoding="utf-8"))
        config = _config(state, folder)
        config.model.path = str(folder / "language")
        task = InstructTask(config, merged=True)
        if task.pupil.vision is not None:
            task.pupil.vision.load_state_dict(load_file(folder / "vision.safetensors"))
        return task.eval()
    weights, state = load_weights(folder)
    config = _config(state, folder)
    task = InstructWholeTask(config) if config.model.kind == "hf" else InstructTask(config)
    task.check_metadata(state["task"])
    wanted = task.state_to_save()
    if wanted.keys() != weights.keys():
        name = sorted(wanted.keys() ^ weights.keys())[0]
        raise VeaError(f"{folder}: weights and config do not belong together ({name}); was model.path changed?")
    task.load_state_dict(weights, strict=False)
    return task.eval()


def _config(state: dict[str, Any], folder: Path) -> InstructConfig:
    if state.get("recipe") != "instruct":
        raise VeaError(f"{folder} is no pupil (its recipe is {state.get('recipe')!r}); give a run of recipe instruct")
    try:
        return InstructConfig.model_validate(state["config"])
    except (ValidationError, KeyError) as error:
        raise VeaError(f"{folder}: its config cannot be read ({' '.join(str(error).split())[:200]})") from None
