"""Tiny models of real classes: the shared prefix changes no decision, and both read-outs come from one folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from vea.errors import VeaError
from vea.evals.backends import open_backend
from vea.evals.oasis import PROMPT
from vea.evals.question import Question
from vea.models.language.turns import first_tokens

pytest.importorskip("transformers")
STATEMENTS = ["It is good.", "The overall sentiment of the image is negative and sad", "x", "The image might evoke joy"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("models")
    return {"blind": tiny.language_model(top / "lm"), "vlm": tiny.vision_language_model(top / "vlm")}


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[Question]:
    rng, made = np.random.default_rng(0), []
    for i, size in enumerate(((60, 90), (100, 80))):
        path = tmp_path_factory.mktemp("pictures") / f"{i}.png"
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        made += [
            Question(f"{i}/{s}", PROMPT.format(statement=s), path, ("Correct", "Incorrect"), max_tokens=4)
            for s in STATEMENTS
        ]
    return made


@pytest.mark.parametrize("kind", ["blind", "vlm"])
def test_a_shared_prefix_changes_nothing(folders, questions, kind: str):
    shared, alone = (
        dict(open_backend(str(folders[kind]), share_prefix=share).ask(questions, ["probability"]))
        for share in (True, False)
    )
    assert shared.keys() == alone.keys() == set(range(8))
    for place in shared:
        assert shared[place].probabilities == pytest.approx(alone[place].probabilities, abs=1e-4)
        assert 0 <= shared[place].mass <= 1 and shared[place].text is None


def test_a_picture_changes_the_answer_and_a_blind_model_sees_none(folders, questions):
    seen = dict(open_backend(str(folders["vlm"])).ask(questions, ["probability", "text"]))
    blind = dict(open_backend(f"blind:{folders['vlm']}").ask(questions, ["probability"]))
    assert isinstance(seen[0].text, str)
    assert seen[0].probabilities != seen[4].probabilities
    assert blind[0].probabilities == pytest.approx(blind[4].probabilities)


def test_spellings_and_shared_first_tokens():
    tokens = tiny.tokenizer()
    correct, incorrect = first_tokens(tokens, ["Correct", "Incorrect"])
    assert correct and incorrect and not set(correct) & set(incorrect)
    with pytest.raises(VeaError, match="same token"):
        first_tokens(tokens, ["zebra", "zest"])


@pytest.mark.parametrize("content", ["{}", "not json", '{"model_type": "llama"}'])
def test_a_folder_that_is_no_model_is_one_sentence(content: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(VeaError, match="cannot be loaded"):
        open_backend(str(tmp_path))
