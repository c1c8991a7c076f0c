"""Statements from norms: a right and a wrong version of each claim, deterministic, split by picture."""

import os
from collections import Counter
from pathlib import Path

import pytest

import vea
from vea.errors import VeaError
from vea.evals.oasis import CLASSES, build_statements, gender_bias, match_opposites, read_photos

DATA = Path(os.environ.get("VEA_DATA", "/nowhere")) / "oasis"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason="VEA_DATA holds no oasis")


@pytest.fixture(scope="module")
def photos():
    return read_photos(DATA)


def test_counts_of_the_gender_norms(photos):
    for z, total, right in ((3, 51, 48), (2, 209, 190)):
        bias = gender_bias(photos, gender_z=z)
        assert bias["total"] == total and round(bias["accuracy"] * total) == right


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize(("seed", "matchings"), [(0, 1), (1, 1), (2, 1), (0, 8), (1, 3)])
def test_statements(photos, split: str, seed: int, matchings: int):
    part = [photo for photo in photos if photo.split == split]
    rows = build_statements(part, seed=seed, matchings=matchings)
    assert rows == build_statements(part, seed=seed, matchings=matchings)
    assert {row["class"] for row in rows} == set(CLASSES)
    assert {row["image_id"] for row in rows} <= {photo.key for photo in part}
    pairs: dict[str, Counter] = {}
    for row in rows:
        pairs.setdefault(row["pair"], Counter())[row["label"]] += 1
    assert all(count["correct"] == 1 and count["incorrect"] >= 1 for count in pairs.values())
    # an interpretation is as often right as wrong, so its text alone says nothing
    texts: dict[str, Counter] = {}
    for row in rows:
        if row["class"] == "emotion interpretation":
            texts.setdefault(row["statement"], Counter())[row["label"]] += 1
    assert all(count["correct"] == count["incorrect"] for count in texts.values())


def test_more_matchings_keep_the_first_and_show_claims_with_other_pictures(photos):
    part = [photo for photo in photos if photo.split == "train"]
    once, often = build_statements(part), build_statements(part, matchings=8)
    assert [row for row in often if "/" not in row["pair"].partition("/")[2] or row["class"] == CLASSES[3]] == once
    wrong: dict[str, set] = {}
    for row in often:
        if row["class"] == "emotion interpretation" and "because" in row["statement"] and row["label"] == "incorrect":
            wrong.setdefault(row["statement"], set()).add(row["image_id"])
    assert sum(len(pictures) > 2 for pictures in wrong.values()) > len(wrong) / 2


def test_matches_are_opposites_and_used_once(photos):
    part = [photo for photo in photos if photo.split == "test"]
    pairs = match_opposites(part, seed=1)
    used = [place for pair in pairs for place in pair]
    assert len(used) == len(set(used)) > 50
    assert all(part[a].polarity == "positive" and part[b].polarity == "negative" for a, b in pairs)
    assert match_opposites([], seed=0) == [] == match_opposites(part[:1], seed=0)


def test_oracle_and_constants_on_oasis():
    oracle = vea.evaluate("oracle", "statements", data=DATA)["statements"]["scores"]["text"]
    assert oracle["accuracy"] == 1 == oracle["pair_accuracy"]
    constant = vea.evaluate("constant:Correct", "statements", data=DATA)["statements"]["scores"]["text"]["parsers"]
    for held in constant["strict"].values():
        assert held["positive_ratio"] == 1
    assert constant["strict"]["emotion interpretation"]["accuracy"] == 0.5
    assert constant["strict"]["sentiment polarity"]["accuracy"] == pytest.approx(1 / 3)


def test_no_folder_is_one_sentence(tmp_path: Path):
    with pytest.raises(VeaError, match="--data"):
        read_photos(tmp_path)
