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


def load_text() -> _Any:
    """Returns the reader of texts: ``vea.load_text().predict([...])``; see ``vea.inference.text``."""
    return _importlib.import_module("vea.inference.text").load_text()


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


def from_pretrained(name_or_dir: _Any, **options: _Any) -> _Any:
    """Returns a saved model as a torch module; see ``vea.publish.open.from_pretrained``."""
    return _importlib.import_module("vea.publish.open").from_pretrained(name_or_dir, **options)


def create_model(name: str, **options: _Any) -> _Any:
    """Returns a network by name, untrained unless ``pretrained=True``; see ``vea.publish.open.create_model``."""
    return _importlib.import_module("vea.publish.open").create_model(name, **options)


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Returns the names that ``create_model`` knows; see ``vea.publish.open.list_models``."""
    return _importlib.import_module("vea.publish.open").list_models(pattern, pretrained=pretrained)


def open_dataset(path: _Any, split: str = "train", **options: _Any) -> _Any:
    """Returns a split of a prepared set as a torch Dataset; see ``vea.data.dataset.open_dataset``."""
    return _importlib.import_module("vea.data.dataset").open_dataset(path, split, **options)


def as_webdataset(path: _Any, split: str = "train", **options: _Any) -> _Any:
    """Returns a split of a prepared set as a webdataset pipeline; see ``vea.data.dataset.as_webdataset``."""
    return _importlib.import_module("vea.data.dataset").as_webdataset(path, split, **options)


def push_to_hub(model: _Any, repo_id: str, **options: _Any) -> str:
    """Pushes a model and its card to the hub; offline, writes the folder only; see ``vea.publish.hub.push_to_hub``."""
    return _importlib.import_module("vea.publish.hub").push_to_hub(model, repo_id, **options)
