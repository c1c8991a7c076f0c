from collections import Counter

import cv2
import numpy as np
import pytest

from vea.data.synthetic import (
    ACTION_UNITS,
    FIELDS,
    PROTOTYPES,
    expression_of,
    samples,
    scene,
)
from vea.data.views.appearance import brightness_of, colorfulness_of
from vea.errors import VeaError


def decode(sample):
    pixels = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def scenes():
    return list(samples(400, seed=3, size=96))


def test_same_index_same_bytes():
    first, again = scene(7), scene(7)
    assert first.image == again.image
    assert first.metadata() == again.metadata()
    assert scene(8).image != first.image
    assert scene(7, seed=1).image != first.image


def test_splits_share_no_scene():
    keys = {split: {s.key for s in samples(20, split=split, size=32)} for split in ("train", "val", "test")}
    assert len(set.union(*keys.values())) == 60
    assert {s.split for s in samples(2, split="val", size=32)} == {"val"}
    with pytest.raises(VeaError, match="did you mean 'train'"):
        next(samples(1, split="trian"))


def test_labels_fit_their_fields(scenes):
    for sample in scenes:
        assert sample.source == "synthetic"
        for name, value in sample.labels.items():
            field = FIELDS[name]
            if field.kind == "class":
                assert value in field.classes, name
            elif field.kind == "multilabel":
                assert set(value) <= set(field.classes), name
            elif field.kind == "distribution":
                assert len(value) == len(field.classes) and sum(value) == 10
            else:
                assert field.low <= value <= field.high, name
    assert {name for sample in scenes for name in sample.labels} == set(FIELDS)


def test_every_class_occurs_and_none_rules(scenes):
    for name in ("emotion", "expression", "scene", "human_action"):
        counts = Counter(s.labels[name] for s in scenes if name in s.labels)
        assert set(counts) == set(FIELDS[name].classes), name
        assert max(counts.values()) < 0.35 * sum(counts.values()), counts


def test_nobody_means_no_person_labels(scenes):
    empty = [s for s in scenes if not s.person_boxes]
    assert 10 < len(empty) < 100
    for sample in empty:
        assert not {"expression", "votes", "action_units", "human_action", "facial_expression"} & set(sample.labels)


def test_person_box_holds_the_person(scenes):
    tall = 0
    for sample in scenes:
        for x0, y0, x1, y1 in sample.person_boxes:
            assert 0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 96
            assert y1 >= 95 and x1 - x0 > 20  # the body reaches the lower edge
            tall += y1 - y0 > 80
    assert tall > 0.6 * len(scenes)


def test_action_units_decide_the_expression(scenes):
    for sample in scenes:
        if "expression" in sample.labels:
            units = {unit: sample.labels[f"{unit.lower()}_intensity"] for unit in ACTION_UNITS}
            assert expression_of(units) == sample.labels["expression"]
            assert sample.labels["action_units"] == [unit for unit in ACTION_UNITS if units[unit] > 0]


@pytest.mark.parametrize("name", PROTOTYPES)
def test_full_prototype_is_its_expression(name):
    assert expression_of({unit: round(5 * share) for unit, share in PROTOTYPES[name].items()}) == name


def test_still_face_is_neutral():
    assert expression_of({}) == "neutral"


def test_brightness_and_colorfulness_are_those_of_the_picture(scenes):
    for sample in scenes[:60]:
        pixels = decode(sample)
        assert pixels.shape == (96, 96, 3)
        assert abs(brightness_of(pixels) - float(sample.labels["brightness"])) < 0.07
        assert abs(colorfulness_of(pixels) - float(sample.labels["colorfulness"])) < 0.09


def test_measures_at_known_pictures():
    grey = np.full((8, 8, 3), 51, np.uint8)
    assert brightness_of(grey) == pytest.approx(0.2)
    assert colorfulness_of(grey) == pytest.approx(0.0, abs=1e-6)
    half_red_half_cyan = np.zeros((8, 8, 3), np.uint8)
    half_red_half_cyan[:4, :, 0] = 255
    half_red_half_cyan[4:, :, 1:] = 255
    assert colorfulness_of(half_red_half_cyan) == 1.0


def test_face_changes_with_its_units(scenes):
    """A nearest-mean classifier on small grey faces beats chance by far: the expression can be seen."""
    faces, names = [], []
    for sample in samples(700, seed=11, size=96):
        if "expression" in sample.labels:
            x0, y0, x1, _ = sample.person_boxes[0]
            middle = (x0 + x1) / 2
            crop = decode(sample)[int(y0) : int(y0) + 50, max(0, int(middle) - 24) : int(middle) + 24]
            small = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (24, 24), interpolation=cv2.INTER_AREA)
            faces.append((small - small.mean()) / (small.std() + 1e-6))
            names.append(sample.labels["expression"])
    x, y = np.array(faces).reshape(len(faces), -1), np.array(names)
    train = np.arange(len(x)) % 4 != 0
    weights = np.linalg.solve(
        x[train].T @ x[train] + 300 * np.eye(x.shape[1]), x[train].T @ (y[train, None] == np.unique(y))
    )
    accuracy = (np.unique(y)[(x[~train] @ weights).argmax(1)] == y[~train]).mean()
    assert accuracy > 2 / 7


def test_captions_follow_from_the_scene(scenes):
    for sample in scenes:
        assert len(sample.text) == 2
        for name in sample.labels.get("object", []):
            assert all(name.lower() in caption for caption in sample.text)
        assert all(
            ("nobody" in caption or "no people" in caption) == (not sample.person_boxes) for caption in sample.text
        )


def test_emotion_depends_on_the_expression(scenes):
    angry = Counter(s.labels["emotion"] for s in scenes if s.labels.get("expression") == "angry")
    happy = Counter(s.labels["emotion"] for s in scenes if s.labels.get("expression") == "happy")
    assert angry.most_common(1)[0][0] == "anger"
    assert sum(happy[name] for name in ("amusement", "contentment", "excitement")) > 0.6 * sum(happy.values())
    assert len(angry) > 2  # with noise


def test_too_small_is_refused():
    with pytest.raises(VeaError, match="at least 32 pixels"):
        scene(0, size=16)
