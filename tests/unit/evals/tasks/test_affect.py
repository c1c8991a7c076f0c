"""Intensities, labels, ratings, open words and explanations on real data: the oracle on top, a constant at 0."""

import os
from pathlib import Path

import pytest

import vea
from vea.errors import VeaError
from vea.evals.question import Answer, Question
from vea.evals.tasks import open_task
from vea.evals.tasks.affect import read_number

DATA = Path(os.environ.get("VEA_DATA", "/nowhere"))
real = pytest.mark.skipif(not DATA.exists(), reason="VEA_DATA is not set")


@pytest.mark.parametrize(
    ("text", "number"), [("0.879", 0.879), ("-3: very negative", -3), ("I say 7/9", 7), ("none", None), (None, None)]
)
def test_numbers_of_replies(text, number):
    assert read_number(text) == number


def test_expected_value_and_silence():
    task = open_task("affect")
    question = Question("k", "p", choices=("0", "9"), values=(0.0, 1.0), row={"measure": "V-reg", "truth": 0.5})
    assert task.value(question, Answer(probabilities={"0": 0.25, "9": 0.75}), "probability") == 0.75
    assert task.value(question, Answer(text="no idea"), "text") is None
    silent = task.scores([question, question], [Answer(text=""), Answer(text="")], "text")
    assert silent["without_an_answer"] == 2 and silent["mean"] == 0


@real
@pytest.mark.parametrize("source", ["oasis", "bass", "emoji"])
def test_oracle_and_constant(source: str):
    oracle = vea.evaluate("oracle", f"affect:{source}", limit=80)["affect"]["scores"]["text"]
    constant = vea.evaluate("constant:5", f"affect:{source}", limit=80)["affect"]["scores"]["text"]
    assert oracle["mean"] > 0.9
    assert all(value == 0 for name, value in constant["measures"].items() if "reg" in name)


@real
def test_ratings_of_votes():
    oracle = vea.evaluate("oracle", "ratings", limit=40)["ratings"]
    scores = oracle["scores"]["probability"]
    assert scores["spearman"] > 0.8 and scores["humans"]["spearman"] < 1
    assert vea.evaluate("constant:Yes", "ratings", limit=40)["ratings"]["scores"]["probability"]["spearman"] == 0
    people = oracle["context"]["EmoNet-Face, 40 emotions"]
    assert people["raters"] == 7 and people["judgements"] > 65_000
    assert people["unanimous"] == pytest.approx(0.62, abs=0.005)


@real
@pytest.mark.parametrize(("task", "key"), [("open-vocabulary", "f"), ("explanations", "polarity_accuracy")])
def test_tasks_of_free_text(task: str, key: str):
    oracle = vea.evaluate("oracle", task)[task]["scores"]
    nothing = vea.evaluate("constant:table", task)[task]["scores"]["text"]
    assert list(oracle) == ["text"] and oracle["text"][key] > 0.95
    assert nothing[key] == 0


def test_bad_sources_are_one_sentence(tmp_path: Path):
    for task in ("affect:oasys", "open-vocabulary:/nowhere.csv"):
        with pytest.raises(VeaError):
            vea.evaluate("oracle", task, data=tmp_path)
    for task in ("affect:bass", "affect:emoji", "affect:fer", "ratings", "explanations"):
        with pytest.raises(VeaError, match="--data"):
            vea.evaluate("oracle", task, data=tmp_path)
