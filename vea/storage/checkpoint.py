"""Checkpoints that are whole or absent: written under a temporary name, fsynced, renamed last, behind the training.

``checkpoints/step_00012000/`` holds model.safetensors, ema.safetensors, optimizer.pt and state.json. A folder without
``state.json`` is not a checkpoint. Only safetensors and ``weights_only=True`` are ever read.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vea.errors import RunError, VeaError
from vea.storage import atomic

STEP_FOLDER = "step_{:08d}"


def _write_folder(
    folder: Path,
    *,
    weights: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    optimizer: dict[str, Any] | None = None,
) -> None:
    try:
        with atomic.new_folder(folder, marker="state.json") as partial:
            for name, tensors in weights.items():
                save_file(_apart(tensors), partial / f"{name}.safetensors")
            if optimizer is not None:
                torch.save(optimizer, partial / "optimizer.pt")
            (partial / "state.json").write_text(json.dumps(state, indent=1, ensure_ascii=False), encoding="utf-8")
    except (OSError, SafetensorError, RuntimeError, RunError) as error:
        if atomic.is_disk_full(error):
            raise RunError(
                f"no space left to write {folder}; earlier checkpoints are whole: free space and run the "
                "same command again"
            ) from error
        raise


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors on the host, contiguous, and no two of them in one memory: what safetensors takes."""
    seen: set[int] = set()
    found = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        shared = value.numel() and (
            value.untyped_storage().data_ptr() in seen or value.untyped_storage().nbytes() > value.nbytes
        )
        found[name] = value.clone() if shared else value
        seen.add(value.untyped_storage().data_ptr())
    return found


def save_checkpoint(
    run_dir: Path,
    *,
    step: int,
    weights: dict[str, dict[str, Tensor]],
    optimizer: dict[str, Any],
    state: dict[str, Any],
    keep_last: int,
    keep_every: int | None,
) -> Path:
    """Returns the folder written for ``step``; checkpoints beyond ``keep_last`` are pruned after it."""
    folder = run_dir / "checkpoints" / STEP_FOLDER.format(step)
    _write_folder(folder, weights=weights, optimizer=optimizer, state={"step": step, **state})
    for old in list_checkpoints(run_dir)[:-keep_last]:
        if not (keep_every and old.step % keep_every == 0):
            atomic.remove(old.path)
    return folder


class CheckpointWriter:
    """Writes checkpoints behind the training, one at a time, from copies on the host that later steps do not change.

    What goes wrong is raised by the next ``save``, ``check`` or ``wait``. The process does not end before its last
    checkpoint is whole.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, run_dir: Path, **content: Any) -> None:
        """Starts ``save_checkpoint(run_dir, **content)``, after the one before has ended; the tensors are its own."""
        self.wait()
        self._pending = self._thread.submit(save_checkpoint, run_dir, **content)

    def check(self) -> None:
        """Raises the error of a checkpoint that has failed; does not wait for one that is being written."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def save_weights(
    folder: str | Path, state_dict: dict[str, Tensor], metadata: dict[str, Any], ema: dict[str, Tensor] | None = None
) -> None:
    """Writes ``model.safetensors`` (and ``ema.safetensors``) with ``state.json`` = ``metadata``, atomically."""
    weights = {"model": state_dict} | ({"ema": ema} if ema is not None else {})
    _write_folder(Path(folder), weights=weights, state=metadata)


@dataclass(frozen=True)
class CheckpointFolder:
    """A whole checkpoint on disk."""

    path: Path
    step: int


def list_checkpoints(run_dir: Path) -> list[CheckpointFolder]:
    """Returns the whole checkpoints of a run, oldest first; leftovers of killed writers are not among them."""
    found = []
    for path in (run_dir / "checkpoints").glob("step_*"):
        digits = path.name.removeprefix("step_")
        if digits.isdigit() and (path / "state.json").is_file():
            found.append(CheckpointFolder(path, int(digits)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: the checkpoint is broken; remove its folder to go on from an earlier one "
            "or copy it again"
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(
            f"{path} is broken ({error}); remove its folder to go on from an earlier checkpoint or copy it again"
        ) from None


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is broken ({error}); remove its folder to go on from an earlier checkpoint") from None
    if not isinstance(state, dict):
        raise RunError(f"{path} is broken (it holds no mapping); remove its folder to go on from an earlier checkpoint")
    return state


def read_checkpoint(
    folder: str | Path,
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None, dict[str, Any], dict[str, Any]]:
    """Returns (weights, EMA weights or None, optimizer state, state) of one checkpoint folder.

    Raises:
        VeaError: there is no checkpoint at ``folder``.
        RunError: a file of it is broken; the sentence names it.
    """
    folder = Path(folder)
    if not (folder / "state.json").is_file():
        raise VeaError(
            f"{folder} is not a checkpoint (no state.json in it); give a folder like RUN/checkpoints/step_00000500"
        )
    state = _read_state(folder / "state.json")
    weights = _read_tensors(folder / "model.safetensors")
    ema = _read_tensors(folder / "ema.safetensors") if (folder / "ema.safetensors").is_file() else None
    try:
        optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file
        raise RunError(
            f"{folder / 'optimizer.pt'} is broken ({str(error).splitlines()[0]}); remove its folder to go on "
            "from an earlier checkpoint"
        ) from None
    return weights, ema, optimizer, state


def find_weights(path: str | Path, *, prefer: str = "best") -> Path:
    """Returns the folder with the weights of ``path``: itself, or a run's best/, final/ or newest checkpoint."""
    path = Path(path)
    if not path.exists():
        raise VeaError(f"no run or weights at {path}; give a run folder, a checkpoint folder or a .safetensors file")
    for name in ("best", "final"):
        atomic.recover(path / name)
    for candidate in (path, *(path / name for name in dict.fromkeys((prefer, "best", "final")))):
        if (candidate / "state.json").is_file() and (candidate / "model.safetensors").is_file():
            return candidate
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise VeaError(
            f"{path} holds no weights yet (no best/, final/ or checkpoints/); let the run reach its first checkpoint"
        )
    return checkpoints[-1].path


def load_weights(
    path: str | Path, *, prefer: str = "best", ema: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns (state dict, metadata) of a run folder, a checkpoint folder or a ``.safetensors`` file.

    Args:
        path: where to look; a run folder offers ``best/``, then ``final/``, then its newest checkpoint.
        prefer: the folder of a run to try first: ``best`` or ``final``.
        ema: read the averaged weights; an error where there are none.
    """
    path = Path(path)
    if path.is_file():
        beside = path.with_name("state.json")
        return _read_tensors(path), _read_state(beside) if beside.is_file() else {}
    folder = find_weights(path, prefer=prefer)
    if ema and not (folder / "ema.safetensors").is_file():
        raise VeaError(f"{folder} holds no EMA weights; train with train.ema_decay or ask for the plain ones")
    return _read_tensors(folder / f"{'ema' if ema else 'model'}.safetensors"), _read_state(folder / "state.json")
