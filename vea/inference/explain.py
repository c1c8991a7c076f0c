"""Open an explainer and let it write about pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vea.config import RECIPES, ExplainConfig
from vea.data.views.decode import Encoded
from vea.data.views.views import Views
from vea.distributed.runtime import compute_device
from vea.errors import VeaError
from vea.storage.checkpoint import find_weights, load_weights
from vea.tasks.explain import ExplainTask
from vea.tasks.explain_metrics import split_answer


def load_explainer(run: str | Path, *, device: str = "cpu", prefer: str = "best") -> ExplainTask:
    """Returns the model of a run of finetune/train.py, ready to write.

    Raises:
        VeaError: there is no such run, it is of another recipe, or there is no such device.
    """
    where = compute_device(device)
    weights, state = load_weights(find_weights(run, prefer=prefer))
    if RECIPES.get(str(state.get("recipe"))) is not ExplainConfig:
        raise VeaError(f"{run} is no model that explains (its recipe is {state.get('recipe')!r}); give a run of "
                       "finetune/train.py")  # fmt: skip
    task = ExplainTask(ExplainConfig.model_validate(state["config"]), fields={}, described=state["task"])
    # a model of the kind hf has only its adapters in the file
    if missing := task.state_to_save().keys() - weights.keys():
        raise VeaError(f"{run}: its file lacks {len(missing)} weights that this model needs; give another checkpoint")
    task.load_state_dict(weights, strict=task.config.model.kind != "hf")
    return task.to(where).eval()


@torch.inference_mode()
def explain(
    task: ExplainTask, images: Sequence[np.ndarray | Encoded], *, emotion: str | None = None
) -> list[tuple[str, str]]:
    """Returns (emotion, explanation) of pictures, encoded or RGB uint8 (H, W, 3); ``emotion`` is to be explained."""
    views = Views(task.config.augment, seed=0, channels=3, train=False)
    stacked = np.stack([views.one(image, key="") for image in images])
    device = next(task.parameters()).device
    features = task.encode(torch.from_numpy(stacked).permute(0, 3, 1, 2).to(device))
    return [split_answer(task.tokens.text(row)) for row in task.write(features, emotion=emotion).cpu()]
