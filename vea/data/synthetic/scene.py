"""Drawn scenes as samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from vea.data.sample import Sample
from vea.data.synthetic.drawing import _BACKGROUNDS, _Canvas, _draw_objects, _light
from vea.data.synthetic.face import _draw_person
from vea.data.synthetic.plan import ACTION_UNITS, ACTIONS, OBJECTS, SCENES, TENTHS, _emotion, _Plan, _plan, _votes
from vea.data.synthetic.words import _captions
from vea.data.views.appearance import brightness_of, colorfulness_of
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.emotions import EMOSET_FACE_6, FER2013_7, FERPLUS_8, MIKELS_8
from vea.taxonomy.fields import LabelField

FIELDS: dict[str, LabelField] = {
    "emotion": LabelField("class", MIKELS_8.classes),
    "valence": LabelField("value", low=1.0, high=7.0),
    "arousal": LabelField("value", low=1.0, high=7.0),
    "expression": LabelField("class", FER2013_7.classes),
    "votes": LabelField("distribution", FERPLUS_8.classes),
    "action_units": LabelField("multilabel", ACTION_UNITS),
    **{f"{unit.lower()}_intensity": LabelField("value", low=0.0, high=5.0) for unit in ACTION_UNITS},
    "brightness": LabelField("class", TENTHS),
    "colorfulness": LabelField("class", TENTHS),
    "scene": LabelField("class", SCENES),
    "object": LabelField("multilabel", OBJECTS),
    "facial_expression": LabelField("class", EMOSET_FACE_6.classes),
    "human_action": LabelField("class", ACTIONS),
}
# Splits are ranges of the index, so that no scene is in two of them.
_SPLIT_START = {"train": 0, "val": 10_000_000, "test": 20_000_000}


def _render(plan: _Plan, size: int, rng: np.random.Generator) -> tuple[np.ndarray, list[list[float]]]:
    canvas = _Canvas(size)
    _BACKGROUNDS[plan.scene](canvas, rng)
    canvas.pixels = _light(canvas.pixels, saturation=plan.saturation, gain=plan.light)
    _draw_objects(canvas, plan.objects, large=not plan.person, rng=rng)
    boxes = []
    if plan.person:
        _draw_person(canvas, plan, rng)
        boxes.append(canvas.stop_tracking())
    # What stands in the scene takes on a part of its light, not all of it: the face must stay readable.
    pixels = _light(canvas.pixels, saturation=0.3 + 0.6 * plan.saturation, gain=0.5 + 0.45 * plan.light)
    grain = rng.integers(-4, 5, pixels.shape, dtype=np.int16)
    return np.clip(pixels + grain, 0, 255).astype(np.uint8), boxes


def scene(index: int, *, seed: int = 0, size: int = 128) -> Sample:
    """Returns the synthetic scene ``index``: a JPEG of ``size`` x ``size`` pixels with the labels of ``FIELDS``.

    The same (index, seed, size) always gives the same bytes. Labels of a person (expression, votes, action units,
    facial expression, action) are absent where nobody is drawn; ``facial_expression`` is absent on a neutral face, for
    which EmoSet has no class. ``votes`` are those of ten simulated raters.
    """
    if size < 32:
        raise VeaError(f"synthetic scenes need at least 32 pixels, size is {size}")
    rng = np.random.default_rng([seed, index])
    plan = _plan(rng)
    pixels, boxes = _render(plan, size, rng)
    brightness, colorfulness = (round(measure(pixels), 1) for measure in (brightness_of, colorfulness_of))
    emotion, valence, arousal = _emotion(plan, brightness, colorfulness, rng)
    labels: dict[str, Any] = {
        "emotion": emotion,
        "valence": valence,
        "arousal": arousal,
        "scene": plan.scene,
        "brightness": f"{brightness:.1f}",
        "colorfulness": f"{colorfulness:.1f}",
    }
    if plan.objects:
        labels["object"] = plan.objects
    if plan.expression is not None:
        labels["expression"] = plan.expression
        labels["votes"] = _votes(plan.units, rng)
        labels["action_units"] = [unit for unit in ACTION_UNITS if unit in plan.units]
        labels |= {f"{unit.lower()}_intensity": float(plan.units.get(unit, 0)) for unit in ACTION_UNITS}
        if plan.expression in EMOSET_FACE_6.classes:
            labels["facial_expression"] = plan.expression
    if plan.action is not None:
        labels["human_action"] = plan.action
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return Sample(
        key=scene_key(index, seed=seed),
        image=encoded.tobytes(),
        extension="jpg",
        labels=labels,
        text=_captions(plan, brightness, colorfulness, rng),
        person_boxes=boxes,
        source="synthetic",
    )


def numbers(count: int, *, split: str) -> range:
    """Returns the numbers of the first ``count`` scenes of ``split`` (train, val or test); splits share no scene."""
    if split not in _SPLIT_START:
        raise VeaError(f"synthetic data has no split {split!r}{did_you_mean(split, _SPLIT_START)}")
    return range(_SPLIT_START[split], _SPLIT_START[split] + count)


def scene_key(index: int, *, seed: int = 0) -> str:
    """Returns the key of scene ``index``."""
    return f"synthetic-{seed}-{index:08d}"


def samples(count: int, *, split: str = "train", seed: int = 0, size: int = 128) -> Iterator[Sample]:
    """Yields the first ``count`` scenes of ``split``."""
    for index in numbers(count, split=split):
        yield replace(scene(index, seed=seed, size=size), split=split)
