"""What replies say about statements, to the letter of the published parsers."""

import pytest

from vea.errors import VeaError
from vea.metrics import pair_score, statement_scores
from vea.metrics.statements import parse_statement

C, W, A = "correct", "incorrect", "abstain"


@pytest.mark.parametrize(
    ("text", "conference", "emobserver", "strict"),
    [
        ("Correct", C, C, C),
        ("INCORRECT.", W, W, W),
        ("", A, A, A),
        (None, A, A, A),
        ("The statement is not correct.", C, C, W),
        ("It isn't correct", C, C, W),
        ("It is not incorrect", W, W, C),
        ("In-correct", C, C, W),
        ("correctness is high", C, C, A),
        ("uncorrect", C, C, A),
        ("Correct because it fits, not Incorrect", W, W, C),
        ("The answer: C", A, A, A),
        ("Apparently", A, C, A),
        ("A", A, C, A),
        ("It is a dog", A, C, A),
        ("(b)", A, W, A),
        ("bad", A, A, A),
        ("B", A, W, A),
        ("<answer>A</answer> incorrect", W, C, A),
        ("<think>incorrect</think>correct", W, C, C),
        ("<answer>correct</answer><answer>incorrect</answer>", W, C, W),
        ("<ANSWER>\nincorrect\n</ANSWER>", W, W, W),
        ("correct </think> <answer> incorrect", W, W, W),
        ("incorrect <answer>", W, A, A),
        ("<answer>incorrect</think> correct", W, C, C),
        ("No. Correct.", C, C, C),
        ("I am not sure whether it is correct", C, C, A),
        ("not only correct but plain", C, C, C),
    ],
)
def test_parsers(text: str | None, conference: str, emobserver: str, strict: str):
    found = [parse_statement(text, parser=name) for name in ("conference", "emobserver", "strict")]
    assert found == [conference, emobserver, strict]


def test_scores_of_classes():
    rows = [
        {"class": "sentiment polarity", "label": "Correct", "predict": "Correct"},
        {"class": "sentiment polarity", "label": "incorrect", "predict": "Correct"},
        {"class": "scene context", "label": "correct"},
        {"class": "scene context", "label": "incorrect", "predict": "Incorrect."},
    ]
    scores = statement_scores(rows)
    assert scores["overall"] == {"accuracy": 0.5, "positive_ratio": 0.5, "give_up_ratio": 0.25, "total": 4}
    assert scores["scene context"] == {"accuracy": 0.5, "positive_ratio": 0.0, "give_up_ratio": 0.5, "total": 2}
    assert statement_scores([])["overall"] == {"accuracy": 0, "positive_ratio": 0, "give_up_ratio": 0, "total": 0}


def test_pairs_need_both_versions():
    rows = [
        {"pair": 1, "label": "correct", "predict": "correct"},
        {"pair": 1, "label": "incorrect", "predict": "incorrect"},
        {"pair": 2, "label": "correct", "predict": "correct"},
        {"pair": 2, "label": "incorrect", "predict": "correct"},
        {"pair": 3, "label": "correct", "predict": "correct"},
    ]
    assert pair_score(rows) == {"accuracy": 0.5, "total": 2}


@pytest.mark.parametrize(("rows", "parser"), [([], "confernce"), ([{"predict": "x"}], "strict")])
def test_bad_input_is_one_sentence(rows: list, parser: str):
    with pytest.raises(VeaError):
        statement_scores(rows, parser=parser)
