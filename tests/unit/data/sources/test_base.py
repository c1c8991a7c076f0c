"""Raw data as people have it: every honest form of a layout gives the same samples."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vea.data.cards import find_card
from vea.data.shards.writer import Skipped
from vea.data.sources import make_source
from vea.data.sources.base import read_csv, read_jsonl, texts_of
from vea.data.sources.webdataset import member_name
from vea.errors import VeaError

CARDS = Path(__file__).resolve().parents[4] / "datasets" / "cards"


def picture(seed: int = 0, form: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(out, form)
    return out.getvalue()


def samples(name: str, root: Path, split: str = "train") -> dict:
    return {sample.key: sample for sample in make_source(find_card(name, CARDS)).samples(root, split)}


def tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


A, B = picture(1), picture(2)
TARS = {
    "plain": [("0.jpg", A), ("0.txt", b"one"), ("1.jpg", B), ("1.txt", b"two")],
    "dot slash": [("./0.jpg", A), ("./0.txt", b"one"), ("./1.jpg", B), ("./1.txt", b"two")],
    "dots in folders": [("v1.0/0.jpg", A), ("v1.0/0.txt", b"one"), ("v1.0/1.jpg", B), ("v1.0/1.txt", b"two")],
    "same names": [("a/0.jpg", A), ("a/0.txt", b"one"), ("b/0.jpg", B), ("b/0.txt", b"two")],
    "macos": [("._0.jpg", b"x"), ("0.jpg", A), ("0.txt", b"one"), ("__MACOSX/0.jpg", b"x"), (".DS_Store", b"x"),
              ("1.jpg", B), ("._1.txt", b"x"), ("1.txt", b"two")],
    "apart": [("0.jpg", A), ("1.jpg", B), ("0.txt", b"one"), ("1.txt", b"two")],
    "upper case": [("0.JPG", A), ("0.TXT", b"one"), ("1.JPEG", B), ("1.txt", b"two")],
    "json": [("0.jpg", A), ("0.json", b'{"caption": "one"}'), ("1.jpg", B), ("1.json", b'{"caption": ["two"]}')],
    "with a mark": [("0.jpg", A), ("0.txt", b"\xef\xbb\xbfone"), ("1.jpg", B), ("1.txt", b"two")],
}  # fmt: skip


@pytest.mark.parametrize("form", TARS)
def test_every_form_of_a_tar_has_its_two_samples(tmp_path, form):
    tar(tmp_path / "00000.tar", TARS[form])
    found = samples("webdataset", tmp_path)
    assert len(found) == 2 and not any(isinstance(sample, Skipped) for sample in found.values())
    assert sorted((sample.image, sample.text) for sample in found.values()) == sorted([(A, ["one"]), (B, ["two"])])


@pytest.mark.parametrize(
    ("name", "parts"),
    [("0.jpg", ("0", "jpg")), ("./0.seg.PNG", ("0", "seg.png")), ("a.b/c/0.txt", ("a.b/c/0", "txt")),
     ("._0.jpg", ("", "")), ("a/.hidden/0.jpg", ("a/.hidden/0", "")), ("README", ("README", ""))],
)  # fmt: skip
def test_the_rule_of_names(name, parts):
    found = member_name(name)
    assert found[1] == parts[1] and (not parts[1] or found == parts)


@pytest.mark.parametrize("below", ["", "train"])
def test_img2dataset_without_tars(tmp_path, below):
    for folder, data, text in (("00000", A, "one"), ("00001", B, "two")):
        (tmp_path / below / folder).mkdir(parents=True)
        (tmp_path / below / folder / "000.jpg").write_bytes(data)
        (tmp_path / below / folder / "000.txt").write_text(text)
        (tmp_path / below / folder / "._000.jpg").write_bytes(b"mac")
    found = samples("webdataset", tmp_path)
    assert {key: sample.text for key, sample in found.items()} == {"00000__000": ["one"], "00001__000": ["two"]}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_affectnet_with_both_splits(tmp_path, suffix):
    for split in ("train", "val"):
        for part in ("images", "annotations"):
            (tmp_path / f"{split}_set" / part).mkdir(parents=True)
        for number in range(2):
            data = picture(number, "PNG" if suffix == ".png" else "JPEG")
            (tmp_path / f"{split}_set" / "images" / f"{number}{suffix}").write_bytes(data)
            for part, value in (("exp", 1), ("val", 0.5), ("aro", -2)):
                np.save(tmp_path / f"{split}_set" / "annotations" / f"{number}_{part}.npy", np.array(value))
    train, val = samples("affectnet7", tmp_path), samples("affectnet7", tmp_path, "val")
    assert set(train) == {"train_0", "train_1"} and set(val) == {"val_0", "val_1"}
    assert train["train_0"].labels == {"expression": "happy", "valence": 0.5}


@pytest.mark.parametrize("below", ["", "Manually_Annotated_Images"])
def test_affectnet_of_the_first_release(tmp_path, below):
    (tmp_path / below / "103").mkdir(parents=True)
    (tmp_path / below / "103" / "a.b.jpg").write_bytes(A)
    head = "subDirectory_filePath,face_x,expression,valence,arousal\n"
    (tmp_path / "training.csv").write_text(head + "103/a.b.jpg,1,6,-0.5,0.25\n103/a.b.jpg,1,9,-2,-2\n")
    found = samples("affectnet7", tmp_path)
    assert found["train_103__a.b"].labels == {"expression": "anger", "valence": -0.5, "arousal": 0.25}


@pytest.mark.parametrize("name", ["fer2013.csv", "icml_face_data.csv"])
def test_both_names_of_kaggles_file(tmp_path, name):
    pixels = " ".join(["7"] * 48 * 48)
    head = "emotion, Usage, pixels\n" if name.startswith("icml") else "emotion,Usage,pixels\n"
    (tmp_path / name).write_text(head + f"0,Training,{pixels}\n\n3,Training,{pixels}\n")
    votes = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    row = "Training,fer0.png,10,0,0,0,0,0,0,0,0,0\n"
    (tmp_path / "fer2013new.csv").write_text(votes + row + "\n" + row + "\n\n")
    found = samples("fer2013", tmp_path)
    assert [sample.labels["expression"] for _, sample in sorted(found.items())] == ["angry", "happy"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_blank_lines(tmp_path, encoding, end):
    (tmp_path / "a.csv").write_bytes(
        end.join([" file , words", "1.jpg,caf\u00e9", "", ",", '2.jpg,"a, b"', ""]).encode(encoding)
    )
    assert read_csv(tmp_path / "a.csv", ["file"]) == [
        {"file": "1.jpg", "words": "caf\u00e9"}, {"file": "2.jpg", "words": "a, b"}]  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(end.join(['{"a": "caf\u00e9"}', "", '{"a": null}']).encode(encoding))
    assert read_jsonl(tmp_path / "a.jsonl") == [{"a": "caf\u00e9"}, {"a": None}]


@pytest.mark.parametrize("line", ["1.jpg", "1.jpg,a,b", '1.jpg,"never closed'])
def test_a_row_of_another_length_is_named(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"file,words\n0.jpg,ok\n{line}\n")
    if "closed" in line:
        assert read_csv(tmp_path / "a.csv", ["file"])[1]["words"].startswith("never closed")
        return
    with pytest.raises(VeaError, match=r"a\.csv, line 3: \d cells, the header has 2"):
        read_csv(tmp_path / "a.csv", ["file"])


def test_no_text_and_no_object_are_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n\0,1\n")
    with pytest.raises(VeaError, match="zero byte"):
        read_csv(tmp_path / "a.csv", ["a"])
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n["a"]\n')
    with pytest.raises(VeaError, match="line 2"):
        read_jsonl(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("value", "texts"),
    [("a dog runs", ["a dog runs"]), (["a", " b "], ["a", "b"]), (None, []), ([None, "a", ""], ["a"]), (7, []),
     ({}, [])],
)  # fmt: skip
def test_captions_as_people_write_them(tmp_path, value, texts):
    assert texts_of(value) == texts
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(A)
    (tmp_path / "captions.jsonl").write_text(
        json.dumps({"file": "a.jpg", "captions": value, "split": "train", "objects": None})
    )
    card = find_card("captions", CARDS).model_copy(update={"options": {}})
    assert [sample.text for sample in make_source(card).samples(tmp_path, "train")] == [texts]


def test_flat_class_folders_are_told_what_to_do(tmp_path, capsys):
    for name in ("happy", "sad"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(A)
    with pytest.raises(VeaError, match=r"divide.*--folder"):
        make_source(find_card("image_folder", CARDS)).splits(tmp_path)


def test_image_folders_with_links_and_every_ordinary_format(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.jpg").write_bytes(A)
    (tmp_path / "root" / "train" / "sad").mkdir(parents=True)
    os.symlink(tmp_path / "store", tmp_path / "root" / "train" / "happy")
    (tmp_path / "root" / "train" / "sad" / "a.jfif").write_bytes(B)
    (tmp_path / "root" / "train" / "sad" / "._a.jfif").write_bytes(b"mac")
    found = samples("image_folder", tmp_path / "root")
    assert {sample.labels["label"] for sample in found.values()} == {"happy", "sad"} and len(found) == 2
