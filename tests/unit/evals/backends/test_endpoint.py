"""A server that answers, and one that does not."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from server import Misbehaving

from vea.errors import RunError, VeaError
from vea.evals.backends.endpoint import Endpoint, encode_picture, shares_of
from vea.evals.question import Question

CHOICES = ("Correct", "Incorrect")


def questions(count: int, picture: Path | None = None) -> list[Question]:
    return [Question(key=str(i), prompt=f"statement {i}", picture=picture, choices=CHOICES) for i in range(count)]


def ask(server: Misbehaving, count: int = 12, **options):
    backend = Endpoint(server.url, backoff=0.001, timeout=5, concurrency=4, **options)
    try:
        return backend, dict(backend.ask(questions(count), ["text", "probability"]))
    finally:
        backend.close()
        server.close()


def test_both_readouts_of_one_request():
    server = Misbehaving(lambda n: None)
    backend, answers = ask(server, 3)
    assert backend.name == "toy" and server.requests == 3
    a, b = math.exp(-0.5), math.exp(-2)
    for answer in answers.values():
        assert answer.text == "Correct" and answer.tokens == 7
        assert answer.probabilities == pytest.approx({"Correct": a / (a + b), "Incorrect": b / (a + b)})
        assert answer.mass == pytest.approx(a + b)


@pytest.mark.parametrize("trouble", [429, 500, "half", "nothing", "nonsense"])
def test_troubles_are_survived_and_counted(trouble):
    server = Misbehaving(lambda n: trouble if n % 3 == 0 else None)
    backend, answers = ask(server, 12)
    assert len(answers) == 12 and all(answer.error is None for answer in answers.values())
    assert sum(backend.counts.values()) >= 4, backend.counts
    assert max(server.prompts.values()) == 1  # nobody was asked again after a good answer


def test_what_stays_unanswered_says_why():
    server = Misbehaving(lambda n: 500 if n < 6 else None)
    backend, answers = ask(server, 1, retries=2)
    assert "500" in answers[0].error and backend.counts["500"] == 3


def test_a_dead_server_ends_the_run():
    server = Misbehaving(lambda n: 500)
    with pytest.raises(RunError, match="in a row"):
        ask(server, 60, retries=0)


def test_no_server_and_a_refusal_are_one_sentence():
    with pytest.raises(RunError, match="no server answers"):
        Endpoint("http://127.0.0.1:9/v1")
    with pytest.raises(VeaError, match="401"):
        ask(Misbehaving(lambda n: 401), 2)


def test_a_server_without_logprobs_gives_text():
    _, answers = ask(Misbehaving(lambda n: None, logprobs=False), 2)
    assert answers[0].probabilities is None and answers[0].text == "Correct"
    backend, answers = ask(Misbehaving(lambda n: "no logprobs"), 6)
    assert all(answer.text == "Correct" for answer in answers.values()) and backend.counts["refused logprobs"] >= 1


def test_pictures_travel_at_the_stated_size(tmp_path: Path):
    import base64
    import io

    path = tmp_path / "wide.png"
    Image.fromarray(np.zeros((50, 400, 3), np.uint8)).save(path)
    data = base64.b64decode(encode_picture(path, side=100).partition(",")[2])
    assert Image.open(io.BytesIO(data)).size == (100, 13)


def test_tokens_that_begin_two_choices_count_for_none():
    top = [{"token": "a", "logprob": -1.0}, {"token": "awe", "logprob": -2.0}, {"token": "anger", "logprob": -3.0}]
    shares, mass = shares_of(top, ["awe", "anger"])
    assert mass == pytest.approx(math.exp(-2) + math.exp(-3)) and shares["awe"] > shares["anger"]
    assert shares_of([], ["a", "b"]) == ({"a": 0.5, "b": 0.5}, 0)
