"""Hub folders: write one, push it to the Hugging Face hub, fetch one from there. Nothing goes online unasked."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import vea
from vea.config.base import public
from vea.errors import RunError, VeaError
from vea.inference.readings import INTENSITY_FILE, UNITS_FILE, Readings
from vea.publish.card import model_card
from vea.publish.verify import _compare, check_images, outputs
from vea.storage import atomic
from vea.tasks.saved import Recogniser, SavedModel, main_target, open_model, preprocessing

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")  # OWNER/NAME
FILES = ["*.safetensors", "*.json", "README.md"]  # of a hub folder; nothing else is fetched


def export_hub(model: SavedModel, out: Path, *, images: Tensor) -> dict[str, float]:
    """Returns {output: largest difference}; writes a folder: model.safetensors, config.json and README.md.

    ``config.json`` holds class names, preprocessing and the run's config; paths of this machine are shortened to names.

    Raises:
        VeaError: ``out`` exists.
        RunError: the folder, opened again, gives other probabilities; it is not left.
    """
    state, described = model.state, model.task.metadata()
    config = model.task.config.model_copy(deep=True)
    config.out = config.train.init_from = None
    for ref in [*config.data.train, *config.data.val]:
        ref.path = Path(ref.path).name
    config.distill.models = [Path(name).name for name in config.distill.models]
    main = main_target(described["kinds"])
    record: dict[str, Any] = {
        "library_name": "vea",
        "vea_version": vea.__version__,
        "recipe": config.recipe,
        "main_target": main,
        "id2label": {str(number): name for number, name in enumerate(described["classes"][main])},
        "task": described,
        "preprocessing": preprocessing(model),
        "config": public(config.model_dump(mode="json")),
        **{name: state[name] for name in ("step", "samples", "best", "versions", "git") if name in state},
    }
    with atomic.new_folder(out) as temporary:
        tensors = {name: value.cpu().contiguous().clone() for name, value in model.task.state_to_save().items()}
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "config.json").write_text(
            json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (temporary / "README.md").write_text(model_card(model), encoding="utf-8")
        for file in (UNITS_FILE, INTENSITY_FILE):
            if (model.folder / file).is_file():
                shutil.copyfile(model.folder / file, temporary / file)
        copy = open_model(temporary)
        theirs = outputs(copy.task, images, Readings.of(copy))
        return _compare(theirs, outputs(model.task, images, Readings.of(model)), what=f"{out}")


def is_offline() -> bool:
    """Returns whether the hub may not be asked: always, unless ``HF_HUB_OFFLINE=0`` is set (``import vea`` sets 1)."""
    return os.environ.get("HF_HUB_OFFLINE", "1").strip().upper() not in ("0", "OFF", "NO", "FALSE", "")


def _hub(what: str) -> Any:
    """Returns the module huggingface_hub; raises ``VeaError`` where it is not there, or the hub may not be asked."""
    if is_offline():
        raise VeaError(f"{what} needs the Hugging Face hub, and vea is offline by default; allow it: HF_HUB_OFFLINE=0")
    try:
        import huggingface_hub
    except ImportError:
        raise VeaError(f"{what} needs the package huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub


def download(repo_id: str, *, revision: str | None = None) -> Path:
    """Returns the folder (in huggingface_hub's cache) with the weights, config and card of a hub repository.

    Raises:
        VeaError: ``repo_id`` is no OWNER/NAME, or the hub may not be asked.
        RunError: the hub does not answer, or has no such repository.
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise VeaError(f"{repo_id!r} is no repository of the hub; give OWNER/NAME")
    hub = _hub(f"fetching {repo_id}")
    try:
        return Path(hub.snapshot_download(repo_id, revision=revision, allow_patterns=FILES))
    except Exception as error:  # of requests, of the hub, of the disk
        raise RunError(f"{repo_id} cannot be fetched from the hub ({_reason(error)})") from None


def push_to_hub(
    model: Recogniser | SavedModel | str | os.PathLike[str],
    repo_id: str,
    *,
    out: str | os.PathLike[str] | None = None,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Returns the address of the repository that now holds the model: weights, config.json and the model card.

    Offline, which is the default, this is a dry run: the same folder is written to ``out`` for a look, and its path is
    returned.

    Args:
        model: of ``vea.from_pretrained``, a run folder, a hub folder, or the name of a model that ships.
        repo_id: OWNER/NAME; the repository is made where there is none.
        out: folder to write; by default ``hub/NAME`` when offline, and none when online.
        private: of a repository that is made.
        token: of the hub; by default the one that huggingface_hub knows.

    Raises:
        VeaError: ``repo_id`` is no OWNER/NAME, there is no such model, ``out`` exists, or huggingface_hub is not there.
        RunError: the hub refuses, or the folder gives other probabilities than the model.
    """
    if not REPOSITORY.fullmatch(repo_id):
        raise VeaError(f"{repo_id!r} is no repository of the hub; give OWNER/NAME")
    saved = model.saved if isinstance(model, Recogniser) else model
    saved = saved if isinstance(saved, SavedModel) else open_model(saved)
    images, _ = check_images(saved)
    if is_offline():
        folder = Path(out or Path("hub") / repo_id.split("/")[1])
        export_hub(saved, folder, images=images)
        return str(folder)
    hub = _hub(f"pushing to {repo_id}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(out or Path(temporary) / "hub")
        export_hub(saved, folder, images=images)
        try:
            api = hub.HfApi(token=token)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=f"{saved.name}, vea {vea.__version__}"
            )
        except Exception as error:
            raise RunError(f"{repo_id}: the hub did not take the model ({_reason(error)})") from None
    return str(url)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
