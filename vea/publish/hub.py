"""Export to a hub folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

import vea
from vea.config.base import public
from vea.publish.card import model_card
from vea.publish.verify import _compare, outputs
from vea.storage import atomic
from vea.tasks.saved import SavedModel, main_target, open_model, preprocessing


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
        return _compare(outputs(open_model(temporary).task, images), outputs(model.task, images), what=f"{out}")
