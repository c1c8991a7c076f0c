"""What ``vea doctor`` says about faces: what finds them, and whether landmarks can be read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from vea.config import RunConfig
from vea.config.findings import Finding, collect
from vea.errors import VeaError
from vea.faces.detect import chosen_backend, face_detector
from vea.faces.landmarks import FILE, FOLDER, SOURCE, find_landmarker


def check_detector(config: RunConfig) -> Iterator[Finding]:
    """Yields what finds faces, or why it cannot."""
    if getattr(config, "recipe", "") != "expression":
        return
    try:
        name = chosen_backend()
        face_detector()
    except VeaError as error:
        yield Finding("warning", "face detector", str(error), "unset VEA_FACE_DETECTOR for the one that ships")
        return
    yield Finding("ok", "face detector", f"{name}{' (ships with vea)' if name == 'vea' else ''}")


def check_landmarks(config: RunConfig) -> Iterator[Finding]:
    """Yields where MediaPipe's bundle is; no training needs it, so that its absence is no warning."""
    if getattr(config, "recipe", "") != "expression":
        return
    path, installed = find_landmarker(), find_spec("ai_edge_litert") is not None
    if path and installed:
        yield Finding("ok", "landmarks", f"{path}")
        return
    lacks = [] if path else [f"{FILE}: fetch {SOURCE} into VEA_WEIGHTS/{FOLDER}/"]
    lacks += [] if installed else ["the package ai-edge-litert: pip install 'vea[landmarks]'"]
    yield Finding(
        "ok", "landmarks", "not here; only --landmarks and `vea enrich landmarks` need them", "; ".join(lacks)
    )


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about faces."""
    return collect({"face detector": check_detector, "landmarks": check_landmarks}, config)
