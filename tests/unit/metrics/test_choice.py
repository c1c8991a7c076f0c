"""VECBench: which candidate a reply names, and the groups."""

import random

import pytest

from vea.errors import VeaError
from vea.metrics import choice_scores
from vea.metrics.choice import GROUPS, parse_choice

MIKELS = ["amusement", "anger", "awe", "contentment", "disgust", "excitement", "fear", "sadness"]


@pytest.mark.parametrize(
    ("text", "candidates", "emobserver", "emocaliber", "strict"),
    [
        ("Sadness", MIKELS, "sadness", "sadness", "sadness"),
        ("sadness, not anger", MIKELS, "anger", "anger", "sadness"),
        ("enjoyment", ["joy", "fear"], "joy", "joy", "unknown"),
        ("discontentment", MIKELS, "contentment", "contentment", "unknown"),
        ("lawe", MIKELS, "awe", "awe", "unknown"),
        ("nothing", MIKELS, "amusement", "unknown", "unknown"),
        (None, MIKELS, "amusement", "unknown", "unknown"),
        ("<answer>Fear</answer> anger", MIKELS, "fear", "fear", "fear"),
        ("anger <answer></answer>", MIKELS, "amusement", "anger", "unknown"),
        ("<answer>fear\n</answer> anger", MIKELS, "fear", "anger", "fear"),
        ("anger</think>fear", MIKELS, "fear", "anger", "fear"),
        ("fear or anger", MIKELS, "anger", "anger", "unknown"),
        ("very positive", ["positive", "very positive"], "positive", "positive", "very positive"),
        ("FEAR", ["Fear"], "Fear", "fear", "Fear"),
    ],
)
def test_parse(text: str | None, candidates: list[str], emobserver: str, emocaliber: str, strict: str):
    found = [parse_choice(text, candidates, protocol=name) for name in ("emobserver", "emocaliber", "strict")]
    assert found == [emobserver, emocaliber, strict]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_means_of_tasks(seed: int):
    draw = random.Random(seed)
    tasks = [task for group in GROUPS.values() for task in group]
    rows = [
        {
            "task": "UnbaisedEmo-6" if task == "UnbiasedEmo-6" else task,
            "candidates": MIKELS,
            "label": draw.choice(MIKELS),
            "predict": draw.choice(MIKELS),
        }
        for task in tasks
        for _ in range(draw.randint(1, 9))
    ]
    scores = choice_scores(rows)
    for group, members in GROUPS.items():
        assert scores[f"{group}_acc"] == pytest.approx(sum(scores[f"{t}_acc"] for t in members) / len(members))
    total = sum(scores[f"{group}_acc"] for group in GROUPS) / 3
    assert scores["total_acc"] == pytest.approx(total)


def test_case_matters_to_emobserver_only():
    rows = [{"task": "FI-2", "candidates": ["positive", "negative"], "label": "Positive", "predict": "positive"}]
    assert [choice_scores(rows, protocol=p)["FI-2_acc"] for p in ("emobserver", "emocaliber", "strict")] == [0, 1, 1]
    assert choice_scores([])["total_acc"] == 0


def test_bad_input_is_one_sentence():
    with pytest.raises(VeaError, match="did you mean"):
        choice_scores([], protocol="emobservr")
    with pytest.raises(VeaError, match="row 0"):
        choice_scores([{"task": "FI-2", "label": "x"}])


@pytest.mark.parametrize(
    ("reply", "named"),
    [("0.1", "0.1"), ("It is 0.1.", "0.1"), ("0", "0"), ("0.15", "unknown"), ("10.1", "unknown"),
     ("0.0 or 0.1", "unknown"), ("1.0", "1.0"), ("nothing", "unknown")],
)  # fmt: skip
def test_numbers_are_named_whole(reply, named):
    assert parse_choice(reply, ("0", "0.0", "0.1", "1.0"), protocol="strict") == named
