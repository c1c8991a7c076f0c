"""No answer is lost, torn lines are skipped, and what was kept is not asked again."""

import json
from pathlib import Path

import pytest

from vea.evals.answers import Answers
from vea.evals.question import Answer, Question, answer_key


def test_kept_answers_come_back(tmp_path: Path):
    with Answers(tmp_path) as answers:
        answers.keep("a", Answer(text="Correct", probabilities={"Correct": 0.7}, mass=0.9, tokens=3))
        answers.keep("b", Answer(text=""))
    with Answers(tmp_path) as answers:
        assert answers.get("a") == Answer(text="Correct", probabilities={"Correct": 0.7}, mass=0.9, tokens=3)
        assert answers.get("b") == Answer(text="") and answers.get("c") is None and answers.torn == 0


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_by_a_kill_costs_one_answer(tmp_path: Path, cut: int):
    with Answers(tmp_path) as answers:
        answers.keep("a", Answer(text="x"))
        answers.keep("b", Answer(text="y" * 30))
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    with Answers(tmp_path) as answers:
        assert answers.get("a") == Answer(text="x")
        answers.keep("c", Answer(text="z"))
    with Answers(tmp_path) as answers:
        assert answers.get("a") and answers.get("c") == Answer(text="z")
        assert (answers.get("b") is None) == bool(answers.torn)


def test_lines_of_others_are_skipped(tmp_path: Path):
    (tmp_path / "answers.jsonl").write_text(
        '{"key": "a"}\n[]\n\xff\nnull\n' + json.dumps({"key": "b", "answer": {"text": "t", "new": 1}}) + "\n",
        encoding="latin-1",
    )
    with Answers(tmp_path) as answers:
        assert answers.get("b") == Answer(text="t") and answers.torn == 4


def test_the_key_is_model_prompt_choices_picture_and_settings():
    base = dict(model="m", settings={"a": 1}, question=Question("k", "p", choices=("x",)), picture="d")
    key = answer_key(**base)
    assert key == answer_key(**base | {"question": Question("other", "p", choices=("x",), group="g", row={"z": 1})})
    others = [{"question": Question("k", "q", choices=("x",))}, {"question": Question("k", "p", choices=("y",))}]
    for change in ({"model": "n"}, {"settings": {"a": 2}}, {"picture": "e"}, *others):
        assert answer_key(**base | change) != key
