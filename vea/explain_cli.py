"""``vea explain``: which emotion pictures evoke and why, in the words of a model that finetune/explain.py trained.

    vea explain photo.jpg --model runs/explain-synthetic
    vea explain pictures/ --model runs/explain-synthetic --emotion fear --json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vea.config import RECIPES, ExplainConfig
from vea.data.transforms import Views
from vea.errors import VeaError, command, did_you_mean
from vea.predict import read_image
from vea.predict_cli import find_files
from vea.tasks.explain import ExplainTask, split_answer
from vea.training.checkpoint import find_weights, load_weights


def load_explainer(run: str | Path, *, device: str = "cpu", prefer: str = "best") -> ExplainTask:
    """Returns the model of a run of finetune/explain.py, ready to write.

    Raises:
        VeaError: there is no such run, or it is of another recipe.
    """
    weights, state = load_weights(find_weights(run, prefer=prefer))
    if RECIPES.get(str(state.get("recipe"))) is not ExplainConfig:
        raise VeaError(f"{run} is no model that explains (its recipe is {state.get('recipe')!r}); give a run of "
                       "finetune/explain.py")  # fmt: skip
    task = ExplainTask(ExplainConfig.model_validate(state["config"]), fields={}, described=state["task"])
    # a model of the kind hf has only its adapters in the file
    if missing := task.state_to_save().keys() - weights.keys():
        raise VeaError(f"{run}: its file lacks {len(missing)} weights that this model needs; give another checkpoint")
    task.load_state_dict(weights, strict=task.config.model.kind != "hf")
    return task.to(torch.device(device)).eval()


@torch.inference_mode()
def explain(task: ExplainTask, images: Sequence[np.ndarray], *, emotion: str | None = None) -> list[tuple[str, str]]:
    """Returns (emotion, explanation) of RGB uint8 images (H, W, 3); ``emotion`` is the one to explain, else chosen."""
    views = Views(task.config.augment, seed=0, channels=3, train=False)
    stacked = np.stack([views.one(image, key="") for image in images])
    device = next(task.parameters()).device
    features = task.encode(torch.from_numpy(stacked).permute(0, 3, 1, 2).to(device))
    return [split_answer(task.tokens.text(row)) for row in task.write(features, emotion=emotion).cpu()]


@command
def main(argv: list[str]) -> int:
    """Prints a sentence per picture; exit 1 where one could not be read."""
    parser = argparse.ArgumentParser(prog="vea explain", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("paths", nargs="+", type=Path, help="pictures or folders")
    parser.add_argument("--model", required=True, help="run folder of finetune/explain.py")
    parser.add_argument("--emotion", help="explain the pictures as this emotion")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(argv)
    files = find_files(given.paths)
    task = load_explainer(given.model, device=given.device)
    if given.emotion and given.emotion not in task.emotions:
        near = did_you_mean(given.emotion, task.emotions)
        raise VeaError(f"--emotion: the model does not know {given.emotion!r}{near}")
    unreadable = 0
    for path in files:
        try:
            ((emotion, words),) = explain(task, [read_image(path)], emotion=given.emotion)
        except VeaError as error:
            print(f"skipped: {error}", file=sys.stderr)
            unreadable += 1
            continue
        if given.json:
            line = {"path": str(path), "emotion": emotion, "explanation": words}
            print(json.dumps(line, ensure_ascii=False), flush=True)
        else:
            print(f"{path}: {emotion} because {words}", flush=True)
    return 1 if unreadable else 0
