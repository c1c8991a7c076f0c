"""The wheel metric against a plain second reading of its rules, with published tables and with our own wheels."""

import json
import math
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from vea.errors import VeaError
from vea.metrics import hit_rate, wheel_scores
from vea.metrics.open_vocabulary import agree, mean_labels, read_tables, read_words

TABLES = Path(os.environ.get("VEA_DATA", "/nowhere")) / "emotion_wheels_mer"
published = pytest.mark.skipif(not TABLES.exists(), reason="VEA_DATA holds no emotion_wheels_mer")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("[happy, sad]", ["happy", "sad"]),
        ("['very happy', \"sad\"]", ["very happy", "sad"]),
        ("happy", ["happy"]),
        ("", []),
        ("[]", []),
        ("[", []),
        ("[[a],b]]", ["[a]", "b]"]),
        (["a, b", "c"], ["a, b", "c"]),
        (None, []),
        (float("nan"), []),
        (" [a]", ["[a"]),
    ],
)
def test_words_of_the_published_form(given, words: list[str]):
    assert read_words(given) == words


def slow_scores(truths, predictions, flat: dict, *, year: str, level: int) -> list[float]:
    """The rules once more, written the long way round."""
    results = []
    for wheel in flat["wheels"].values():
        place = {}
        for one, inner in wheel.items():
            place[one] = one if level == 1 else sorted(inner)[0]
            for two, outer in inner.items():
                place[two] = one if level == 1 else two
                for three in outer:
                    place[three] = one if level == 1 else two

        def sector(word: str, place=place) -> str:
            if word not in flat["forms_to_bases"]:
                return ""
            whole = [r for b in flat["forms_to_bases"][word] for r in flat["bases_to_wheel_words"][b]]
            for raw in sorted(whole):
                if raw in place:
                    return place[raw]
            return ""

        p, r = [], []
        for truth, prediction in zip(truths, predictions):
            gt = {sector(w.lower().strip()) for w in read_words(truth)} - {""}
            pred = {sector(w.lower().strip()) for w in read_words(prediction)} - {""}
            if not gt:
                continue
            p.append(len(gt & pred) / len(pred) if pred else 0)
            r.append(len(gt & pred) / len(gt) if pred else 0)
        empty = 0.0 if year == "2026" else math.nan
        mp, mr = (np.mean(x) if x else empty for x in (p, r))
        results.append([2 * mp * mr / (mp + mr) if mp + mr > 0 else empty, mp, mr])
    return np.mean(results, 0).tolist()


@published
@pytest.mark.parametrize("year", ["2025", "2026"])
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_published_tables(year: str, level: int, seed: int):
    flat = json.loads((TABLES / year / "flat.json").read_text())
    draw = random.Random(seed)
    words = [*sorted(flat["forms_to_bases"]), "nonsense", "Not A Word"]
    basic = ["happy", "sad", "Fear ", "angry", "neutral", "surprised", "disgust", "joyful"]
    sample = [draw.choices(words, k=draw.randint(0, 5)) + draw.choices(basic, k=draw.randint(0, 3)) for _ in range(200)]
    truths = [words if draw.random() < 0.5 else str(words) for words in sample]
    predictions = [draw.sample(w, len(w) // 2) + draw.choices(words, k=2) for w in sample]
    found = wheel_scores(truths, predictions, tables=TABLES / year, rules=f"mer{year}", level=level)
    expected = slow_scores(truths, predictions, flat, year=year, level=level)
    assert [found["f"], found["precision"], found["recall"]] == pytest.approx(expected, abs=1e-12)
    assert list(found["wheels"]) == [f"wheel{i}" for i in range(1, 6)]


@published
@pytest.mark.parametrize("year", ["2025", "2026"])
def test_sheets_and_flat_json_are_read_alike(year: str, tmp_path: Path):
    shutil.copy(TABLES / year / "flat.json", tmp_path)
    sheets, flat = read_tables(TABLES / year), read_tables(tmp_path)
    assert sheets.wheels == flat.wheels
    for name in ("forms", "bases"):
        one, two = getattr(sheets, name), getattr(flat, name)
        assert {k: set(v) for k, v in one.items()} == {k: set(v) for k, v in two.items()}


@published
def test_the_fault_of_the_first_tables():
    old, new = (
        [read_tables(TABLES / year).sector("fear", f"wheel{i}", 1) for i in range(1, 6)] for year in ("2025", "2026")
    )
    assert old[1:] == ["happy", "joyful", "genius", "joyful"]
    assert new == ["scared", "fearful", "scared", "fear", "scared"]


def test_nothing_right_is_nan_in_2025_and_zero_in_2026():
    old, new = (wheel_scores([["happy"]], [["sad"]], rules=rules) for rules in ("mer2025", "mer2026"))
    assert math.isnan(old["f"]) and new["f"] == 0
    old, new = (wheel_scores([["zzz"]], [["sad"]], rules=rules) for rules in ("mer2025", "mer2026"))
    assert math.isnan(old["f"]) and new["f"] == 0 and new["wheels"]["parrott"]["used"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_properties_on_our_wheels(seed: int):
    from vea.taxonomy.wheels import families

    draw = random.Random(seed)
    words = sorted(families())
    truths = [draw.sample(words, draw.randint(1, 4)) for _ in range(50)]
    assert wheel_scores(truths, truths)["f"] == pytest.approx(1)
    noisy = [[*truth, *draw.sample(words, 6)] for truth in truths]
    assert wheel_scores(truths, noisy)["f"] < 1  # over-predicting costs precision
    shuffled = [draw.sample(truth, len(truth)) for truth in noisy]
    assert wheel_scores(truths, noisy) == wheel_scores(truths, shuffled)
    assert mean_labels(noisy) > mean_labels(truths)


def test_hit_rate_counts_labels_without_a_place():
    rate = hit_rate(["happy", "sad", "zzz"], [["joy"], "[anger, fear]", ["zzz"]])
    assert rate == pytest.approx(float(np.mean(list(rate.wheels.values()))))
    assert rate.wheels["plutchik"] == pytest.approx(1 / 3)
    assert rate.unmapped == {"parrott": 1, "plutchik": 1, "geneva": 1}


def test_agreement_filter():
    assert agree(["happy"], "joyful, calm") and not agree(["happy"], ["sad"])


@pytest.mark.parametrize(
    "call",
    [
        lambda: wheel_scores([["a"]], []),
        lambda: wheel_scores([], [], rules="mer2024"),
        lambda: wheel_scores([], [], level=3),
        lambda: wheel_scores([], [], tables="/nowhere/at/all"),
        lambda: hit_rate(["a"], []),
    ],
)
def test_bad_input_is_one_sentence(call):
    with pytest.raises(VeaError):
        call()


@pytest.mark.parametrize("broken", ["format.csv", "wheel1.xlsx", "flat.json"])
def test_broken_tables_are_one_sentence(broken: str, tmp_path: Path):
    for name in ("format.csv", "wheel1.xlsx") if broken != "flat.json" else ("flat.json",):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(VeaError, match="cannot be read"):
        read_tables(tmp_path)
