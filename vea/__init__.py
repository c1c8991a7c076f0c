"""vea: the open suite for visual emotion analysis and pretraining."""

import importlib as _importlib
import os as _os
from typing import Any as _Any

_os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks PyPI for its version at import otherwise
_os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded unless the user asks: HF_HUB_OFFLINE=0

__version__ = "0.1.0"


def load(name_or_dir: str = "expression", **options: _Any) -> _Any:
    """Returns a predictor: ``vea.load().predict("photo.jpg")``; see ``vea.inference.predict.load``."""
    return _importlib.import_module("vea.inference.predict").load(
        name_or_dir, **options
    )  # torch is imported here, not before


def track(source: _Any, *, model: str = "expression", device: str = "cpu", **options: _Any) -> _Any:
    """Returns who shows which expression when in a video: a pandas data frame, or a list of dicts without pandas.

    ``vea.track("clip.mp4", every=5)``: a row a face a frame, with time, track, box, probabilities. ``options`` are
    those of ``vea.inference.video.track``.
    """
    video = _importlib.import_module("vea.inference.video")
    return video.data_frame(video.track(source, predictor=load(model, device=device), **options))


def evaluate(model: _Any, tasks: _Any, **options: _Any) -> _Any:
    """Returns {task: record} of a judge on emotion tasks; see ``vea.evals.run.evaluate``."""
    return _importlib.import_module("vea.evals.run").evaluate(model, tasks, **options)
