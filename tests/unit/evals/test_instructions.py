"""Instructions: the same bytes each time, answers that parsers read, nothing of a test split."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.errors import RunError, VeaError
from vea.evals.instructions import TEMPLATES, collect, read_back, write_instructions

CLASSES = ("amusement", "awe", "sadness")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for split, count in (("train", 5), ("test", 2)):
        for name in CLASSES:
            place = tmp_path / "set" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(generator.integers(0, 255, (12, 12, 3), np.uint8)).save(place / f"{split}{i}.png")
    return tmp_path / "set"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_builds_are_the_same_bytes_and_a_seed_changes_them(folder: Path, tmp_path: Path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        write_instructions([f"choice:{folder}"], tmp_path / name / "x.jsonl", seed=seed)
    first, second, other = ((tmp_path / name / "x.jsonl").read_bytes() for name in "abc")
    assert first == second != other


def test_records_are_conversations_about_pictures_that_are_there(folder: Path, tmp_path: Path):
    counts = write_instructions([f"choice:{folder}"], tmp_path / "x.jsonl")
    records = lines(tmp_path / "x.jsonl")
    assert counts["records"] == len(records) == 15 and counts["pictures"] == 15 and counts["leaked"] == 0
    for record in records:
        asked, told = record["conversations"]
        assert asked["from"] == "human" and asked["value"].startswith("<image>\n") and told["from"] == "gpt"
        assert told["value"] in CLASSES and record["split"] == "train" and record["key"].startswith(told["value"])
        Image.open(tmp_path / record["image"]).verify()


@pytest.mark.parametrize("renamed", [False, True])
def test_a_picture_of_the_test_split_teaches_nothing(folder: Path, tmp_path: Path, renamed: bool):
    shown = folder / "test" / "awe" / "test0.png"
    (folder / "train" / "sadness" / ("other.png" if renamed else "test0.png")).write_bytes(shown.read_bytes())
    counts = write_instructions([f"choice:{folder}"], tmp_path / "x.jsonl")
    assert counts["leaked"] == 1 and counts["records"] == 15


def test_balance_keeps_at_most_so_many_of_an_answer(folder: Path, tmp_path: Path):
    counts = write_instructions([f"choice:{folder}"], tmp_path / "x.jsonl", most=2)
    answers = [record["conversations"][1]["value"] for record in lines(tmp_path / "x.jsonl")]
    assert counts["records"] == 6 and {answers.count(name) for name in CLASSES} == {2}


@pytest.mark.parametrize(
    ("specs", "split", "words"),
    [
        (["statement"], "train", "did you mean"),
        (["texts:emoji"], "train", "texts:emobank"),
        (["choice:{folder}"], "test", "never from test"),
        (["choice:{folder}/train/awe"], "train", "nothing to teach"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    folder: Path, tmp_path: Path, specs: list[str], split: str, words: str
):
    out = tmp_path / "out" / "x.jsonl"
    with pytest.raises(VeaError, match=words):
        write_instructions([spec.format(folder=folder) for spec in specs], out, split=split, data=tmp_path)
    assert not out.exists()


def test_an_answer_that_no_parser_reads_stops_the_build(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lessons = collect([f"choice:{folder}"], split="train", data=None, seed=0)
    wrong = [type(x)(x.question, "none of these", x.name, x.source, x.split, x.task) for x in lessons]
    monkeypatch.setattr("vea.evals.instructions.collect", lambda *a, **k: wrong)
    with pytest.raises(RunError, match="15 answers are not read back"):
        write_instructions([f"choice:{folder}"], tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


def test_a_missing_picture_stops_the_build(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lessons = collect([f"choice:{folder}"], split="train", data=None, seed=0)
    lessons[0].question.picture.unlink()
    monkeypatch.setattr("vea.evals.instructions.collect", lambda *a, **k: lessons)
    with pytest.raises(VeaError, match="1 pictures are missing"):
        write_instructions([f"choice:{folder}"], tmp_path / "x.jsonl")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.skipif(not os.environ.get("VEA_DATA"), reason="needs VEA_DATA")
@pytest.mark.parametrize("spec", ["statements", "affect", "explanations", "open-vocabulary", "affect:fer"])
def test_real_answers_are_read_back(spec: str):
    lessons = collect([spec], split="train" if spec != "affect:fer" else "val", data=None, seed=0)[:4000]
    assert lessons or spec == "affect:fer"
    assert all(read_back(lesson) for lesson in lessons)


def test_templates_hold_the_question_once():
    assert len(set(TEMPLATES)) == 10 and all(t.count("{q}") == 1 for t in TEMPLATES)
