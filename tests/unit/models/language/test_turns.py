"""Conversations as tokens."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "evals"))
import tiny

from vea.errors import VeaError
from vea.models.language.turns import (
    DIGITS,
    Chat,
    Part,
    branch_mask,
    digit_target,
    encode,
    expected_number,
    first_tokens,
    pack,
)


@pytest.fixture(scope="module")
def tokens():
    return tiny.tokenizer()


def encoded(tokens, turns, *, picture=True, most=200, system=None):
    chat = Chat(tokens, where="tiny", system=system)
    return encode(chat.parts(turns, picture=picture), tokens, image_tokens=3, max_tokens=most, end=tokens.eos_token_id)


def test_only_answers_and_their_ends_are_learned(tokens):
    made = encoded(tokens, [("claim one", "Correct"), ("claim two", "Incorrect")])
    learned = [tokens.decode([t for t, yes in zip(made.ids, made.learned) if yes])]
    assert learned == ["Correct<|im_end|>Incorrect<|im_end|>"]
    assert sum(made.image) == 3 and made.turns == 2
    whole = tokens.decode([t for t, image in zip(made.ids, made.image) if not image])
    assert whole == tokens.apply_chat_template(
        [
            {"role": "user", "content": "claim one"}, {"role": "assistant", "content": "Correct"},
            {"role": "user", "content": "claim two"}, {"role": "assistant", "content": "Incorrect"},
        ],
        tokenize=False,
    )  # fmt: skip


def test_later_turns_are_left_out_whole_and_image_tokens_never(tokens):
    long = encoded(tokens, [("claim one", "Correct"), ("claim " * 40, "Incorrect")], most=60)
    assert long.turns == 1 and sum(long.image) == 3 and long.learned.count(True) >= 2
    with pytest.raises(VeaError, match=r"has \d+ tokens and model.max_tokens is 60"):
        encoded(tokens, [("claim " * 80, "Correct")], most=60)


def test_a_template_that_eats_the_system_turn_is_named(tokens):
    eats = tiny.tokenizer()
    eats.chat_template = tokens.chat_template.replace("in messages %}", "in messages if m['role'] != 'system' %}")
    with pytest.raises(VeaError, match="leaves the system turn out"):
        Chat(eats, where="tiny", system="You read feelings.")
    Chat(eats, where="tiny", system=None)
    eats.chat_template = None
    with pytest.raises(VeaError, match="no chat template"):
        Chat(eats, where="tiny", system=None)


def test_packed_conversations_share_their_beginning_and_do_not_see_each_other(tokens):
    talks = [encoded(tokens, [(q, a)]) for q, a in (("claim one", "Correct"), ("evoke joy", "Incorrect"), ("x", "5"))]
    row = pack(talks)
    shared = row.branch.count(0)
    assert shared > 3 and len(row.ids) == shared + sum(len(t.ids) - shared for t in talks)
    for number, talk in enumerate(talks, start=1):
        own = [t for t, b in enumerate(row.branch) if b in (0, number)]
        assert [row.ids[t] for t in own] == talk.ids and [row.place[t] for t in own] == [*range(len(talk.ids))]
        assert [row.learned[t] for t in own] == talk.learned
    branch = torch.tensor([row.branch])
    mask = branch_mask(branch, branch >= 0)[0, 0]
    for q in range(len(row.ids)):
        assert {k for k in range(len(row.ids)) if mask[q, k]} == {
            k for k in range(q + 1) if row.branch[k] in (0, row.branch[q])
        }


def test_the_same_question_twice_keeps_a_token_of_its_own(tokens):
    row = pack([encoded(tokens, [("claim one", answer)]) for answer in ("Correct", "Correct")])
    first = row.learned.index(True)
    assert row.branch[first - 1] == row.branch[first] == 1


def test_numbers_are_learned_as_their_neighbours_and_read_as_expectation():
    for value in (0.0, 0.31, 0.5, 1.0):
        target = digit_target(value)
        assert float(target @ torch.arange(10.0)) / 9 == pytest.approx(value, abs=1e-6)
        assert int((target > 0).sum()) <= 2 and float(target.sum()) == pytest.approx(1)
    logits = torch.full((1, 20), -30.0)
    logits[0, 5], logits[0, 6] = 1.0, 1.0
    shares = torch.tensor([[logits[0, i] for i in range(10)]]).double().softmax(1)
    expected = float((shares * torch.arange(10)).sum() / 9)
    assert float(expected_number(logits, [[i] for i in range(10)])) == pytest.approx(expected, abs=1e-6)


def test_digits_have_first_tokens(tokens):
    found = first_tokens(tokens, DIGITS)
    assert len({ids[0] for ids in found}) == 10


def test_an_answer_that_the_template_changes_is_an_error(tokens):
    odd = tiny.tokenizer()
    odd.chat_template = "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(VeaError, match="chat template"):
        Chat(odd, where="tiny", system=None).parts([("a", "b"), ("c", "d")], picture=False)
    assert Part("a", True).learned
