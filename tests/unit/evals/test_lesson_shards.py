"""Lessons as shards, and questions in few words."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.data.shards.reader import ShardReader
from vea.errors import VeaError
from vea.evals import oasis
from vea.evals.instructions import TEXT_TASKS
from vea.evals.lesson_shards import few_words, write_lessons
from vea.evals.tasks import affect, choice


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("awe", "sadness"):
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8)).save(place / f"{split}{i}.png")
    return tmp_path / "set"


def read(out: Path, split: str) -> list[dict]:
    reader = ShardReader(out, split)
    return [json.loads(text) for i in range(len(reader)) for text in reader.read(i)[2]["text"]]


def test_pictures_carry_their_lessons_and_the_same_seed_gives_the_same_bytes(folder: Path, tmp_path: Path):
    for name in ("a", "b"):
        counts = write_lessons([f"choice:{folder}"], tmp_path / name, brief_share=0.5)
    assert counts["records"] == counts["pictures"] == 6
    found = {split: read(tmp_path / "a", split) for split in ("train", "val")}
    assert len(found["train"]) == len(found["val"]) == 6
    assert all(row["a"] in row["choices"] == ["awe", "sadness"] for row in found["train"])
    short = sum(row["q"] == "Emotion closest to the image:" for row in found["train"])
    assert 0 < short < 6
    assert (tmp_path / "a" / "train-000000.tar").read_bytes() == (tmp_path / "b" / "train-000000.tar").read_bytes()
    with pytest.raises(VeaError, match="it is a share"):
        write_lessons([f"choice:{folder}"], tmp_path / "c", brief_share=2)


@pytest.mark.parametrize(
    ("prompt", "few"),
    [
        (affect.VALENCE, "Valence of the viewer, 0 to 9:"),
        (oasis.PROMPT.format(statement="All is well."), "All is well. Correct or Incorrect?"),
        (choice.PROMPT.format(options="awe, joy"), "Emotion closest to the image:"),
        (TEXT_TASKS["A-reg"].format(text="A dog ran."), "Arousal of the reader, 0 to 9: A dog ran."),
        (TEXT_TASKS["E-c"].format(names="joy, fear", text="A dog ran."), "Emotions in the text: A dog ran."),
        ("What do you see?", None),
    ],
)
def test_questions_in_few_words_keep_what_is_their_own(prompt: str, few: str | None):
    assert few_words(prompt) == few
    hint = "A recogniser's primary candidates: joy (0.90). Consider these first, the others only if none fits. "
    assert few_words(hint + prompt) == (None if few is None else hint + few)
