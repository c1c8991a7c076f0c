"""Labels in anybody's words on their way into lessons: mapped, aggregated, left open and counted."""

import json

import numpy as np
import pytest
from PIL import Image

from vea.commands import instructions as command
from vea.errors import VeaError
from vea.evals.instructions import collect, read_back
from vea.evals.lesson_shards import write_lessons
from vea.evals.outside_labels import outside, read_records

EKMAN = "anger,disgust,fear,happiness,sadness,surprise"


@pytest.fixture
def foreign(tmp_path):
    """A set of class folders in the words of another house."""
    for split in ("train", "test"):
        for number, name in enumerate(("joyful", "furious", "nostalgic")):
            place = tmp_path / "foreign" / split / name
            place.mkdir(parents=True)
            level = 40 * number + (7 if split == "test" else 0)
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(place / f"{split}.png")
    return tmp_path / "foreign"


@pytest.fixture
def texts(tmp_path):
    rows = [
        {"id": "a", "text": "We won!", "context": "The last match",
         "labels": [["happy", "proud"], ["joyful"], ["happy"]]},
        {"id": "b", "text": "He left.", "labels": ["sad"]},
        {"id": "c", "text": "Old songs.", "labels": [["nostalgic"], ["wistful"]]},
        {"id": "d", "text": "What now?", "labels": [["fear"], ["sad"], ["fear"]], "split": "val"},
    ]  # fmt: skip
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_foreign_classes_are_asked_in_the_taxonomy_and_open_ones_left_out(foreign):
    labels = outside(EKMAN)
    lessons = collect([f"choice:{foreign}"], split="train", data=None, seed=0, labels=labels)
    assert sorted(lesson.answer for lesson in lessons) == ["anger", "happiness"]
    for lesson in lessons:
        assert lesson.question.choices == tuple(EKMAN.split(",")) and read_back(lesson)
        assert "disgust" in lesson.question.prompt and "joyful" not in lesson.question.prompt
    assert labels.record() == {
        "how": {"exact": 0, "lemma": 0, "synonym": 2, "nearest": 0, "open": 1}, "open": {"nostalgic": 1}, "left_out": 1
    }  # fmt: skip


def test_a_text_is_asked_with_and_without_what_surrounds_it(texts):
    labels = outside(EKMAN)
    lessons = collect([f"texts:{texts}"], split="train", data=None, seed=0, labels=labels)
    assert [lesson.answer for lesson in lessons] == ["happiness", "happiness", "sadness"]
    assert "In the context of: 'The last match', We won!" in lessons[0].question.prompt
    assert "match" not in lessons[1].question.prompt
    assert lessons[0].question.row["open"] == ["proud"] and labels.left_out == 1
    assert "open 3" in labels.line() and "1 records left out" in labels.line()


@pytest.mark.parametrize(
    ("how", "k", "held"),
    [
        ("union", 1, {"fear": 2 / 3, "sadness": 1 / 3}), ("intersection", 1, {}), ("majority", 1, {"fear": 2 / 3}),
        ("k-of-n", 2, {"fear": 2 / 3}), ("soft", 1, {"fear": 2 / 3, "sadness": 1 / 3}),
    ],
)  # fmt: skip
def test_annotators_come_together_after_their_words_are_mapped(how, k, held):
    assert outside(EKMAN, how=how, k=k)([["fear"], ["sad"], ["afraid"]])[0] == pytest.approx(held)


def test_the_nearest_class_needs_a_threshold_tuned_on_validation(tmp_path):
    near = {"gleeful": [0.9, 0.1], "teapot": [0.6, 0.5], "spoon": [0.55, 0.5], "happiness": [1, 0], "fear": [0, 1],
            "brightish": [0.95, 0.2]}  # fmt: skip

    def embed(words):
        rows = np.array([near.get(word, [0.0, 0.0]) for word in words], float)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    known = tmp_path / "val.csv"
    known.write_text("label,class\nbrightish,happiness\nteapot,\n")
    labels = outside("happiness,fear", tuned_on=known, embed=embed)
    assert labels([["spoon"]]) == ({}, ["spoon"])
    assert labels([["brightish"]])[0] == {"happiness": 1.0} and labels.counts["nearest"] == 1


def test_the_command_writes_both_forms_and_says_what_stayed_open(foreign, texts, tmp_path, capsys):
    out = tmp_path / "made.jsonl"
    command.main([f"choice:{foreign}", f"texts:{texts}", "--labels", EKMAN, "--annotators", "soft", "--out", str(out)])
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 5 and next(row for row in rows if row["key"] == "a/0")["shares"] == {"happiness": 1.0}
    assert "labels brought to 6 classes" in " ".join(capsys.readouterr().out.split())
    counts = write_lessons([f"texts:{texts}"], tmp_path / "shards", labels=outside(EKMAN))
    assert counts["records"] == 3 and counts["labels"]["left_out"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--annotators", "soft"], "belong to --labels"), (["--labels", "ekmen"], "no emotion taxonomy named"),
        (["--labels", EKMAN, "--annotators", "k-of-n", "--k", "0"], "k of at least 1"),
        (["--labels", EKMAN, "--nearest", "nothing.csv"], "no CSV file"), ([], "name the taxonomy"),
    ],
)  # fmt: skip
def test_bad_words_are_one_sentence(texts, tmp_path, words, said):
    with pytest.raises(VeaError, match=said):
        command.main([f"texts:{texts}", "--out", str(tmp_path / "x.jsonl"), *words])
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize("line", ["no json", "[1]", '{"text": "x"}', '{"text": "x", "labels": "joy"}',
                                  '{"text": "x", "labels": [3]}', '{"text": " ", "labels": ["joy"]}'])  # fmt: skip
def test_a_bad_record_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine", "labels": ["joy"]}\n' + line + "\n")
    with pytest.raises(VeaError, match="line 2"):
        read_records(path, split="train")


def test_a_wrong_class_in_the_validation_labels_is_named(tmp_path):
    known = tmp_path / "val.csv"
    known.write_text("label,class\nbrightish,hapiness\n")
    with pytest.raises(VeaError, match="'hapiness' is not a class"):
        outside(EKMAN, tuned_on=known, embed=lambda words: np.zeros((len(words), 2)))
