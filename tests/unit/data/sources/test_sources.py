"""Readers on small folders in exactly the real layouts, and against the real data where VEA_DATA is set."""

import csv
import importlib.util
import io
import itertools
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from vea.data.cards import find_card, read_card
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.reader import ShardReader
from vea.data.shards.writer import Skipped
from vea.data.sources import LAYOUTS, make_source
from vea.data.sources.captions import person_boxes
from vea.data.sources.fer2013plus import majority_class, multi_target, vote_distribution
from vea.errors import VeaError
from vea.taxonomy.emotions import FER2013_7, FERPLUS_8, MIKELS_8

REPOSITORY = Path(__file__).resolve().parents[4]
CARDS = REPOSITORY / "datasets" / "cards"
NAMES = sorted(path.stem for path in CARDS.glob("*.yaml"))

_spec = importlib.util.spec_from_file_location("vea_prepare_script", REPOSITORY / "datasets" / "prepare.py")
_script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_script)
prepare = _script.main


def picture(seed: int, form="JPEG", mode="RGB", size=(20, 16)) -> bytes:
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(out, form)
    return out.getvalue()


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read_all(name: str, root: Path, split: str, **kwargs) -> dict[str, Sample | Skipped]:
    card = find_card(name, CARDS)
    return {sample.key: sample for sample in make_source(card).samples(root, split, **kwargs)}


# --------------------------------------------------------------------------------------------------------------- cards


@pytest.mark.parametrize("name", NAMES)
def test_cards_are_complete(name):
    card = read_card(CARDS / f"{name}.yaml")
    assert card.name == name and card.layout in LAYOUTS
    assert all(text.strip() for text in (card.title, card.task, card.obtain, card.terms, card.citation))
    assert set(card.splits) <= {"train", "val", "test"} and "train" in card.splits
    for field in card.label_fields.values():
        assert len(set(field.classes)) == len(field.classes)
        assert (field.kind == "value") == (field.low is not None)
    make_source(card)


def test_cards_agree_with_the_taxonomies():
    faces = find_card("fer2013plus", CARDS).label_fields
    assert faces["expression"].classes == tuple(FER2013_7.classes)
    assert faces["ferplus"].classes == faces["votes"].classes == tuple(FERPLUS_8.classes)
    emoset = find_card("emoset", CARDS).label_fields
    assert emoset["emotion"].classes == tuple(MIKELS_8.classes)
    sizes = {
        "emotion": 8,
        "brightness": 11,
        "colorfulness": 11,
        "scene": 254,
        "object": 409,
        "facial_expression": 6,
        "human_action": 264,
    }
    assert {name: len(field.classes) for name, field in emoset.items()} == sizes
    assert "bakery/shop" in emoset["scene"].classes and "Alarm clock" in emoset["object"].classes


def test_card_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(VeaError, match="did you mean 'oasis'"):
        find_card("oasys", CARDS)
    with pytest.raises(VeaError, match="not readable YAML"):
        read_card(put(tmp_path / "a.yaml", "a: [1"))
    with pytest.raises(VeaError, match=r"unknown key 'layot' .did you mean 'layout'"):
        read_card(put(tmp_path / "b.yaml", (CARDS / "oasis.yaml").read_text().replace("layout:", "layot:")))
    card = read_card(
        put(tmp_path / "c.yaml", (CARDS / "wikiart.yaml").read_text().replace("val_percent", "val_percnt"))
    )
    with pytest.raises(VeaError, match="did you mean 'val_percent'"):
        make_source(card)
    card = read_card(
        put(tmp_path / "d.yaml", (CARDS / "oasis.yaml").read_text().replace("layout: oasis", "layout: oasi"))
    )
    with pytest.raises(VeaError, match=r"unknown layout 'oasi' .did you mean 'oasis'"):
        make_source(card)


# ---------------------------------------------------------------------------------------------------------- fer2013plus

VOTES = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")


@pytest.mark.parametrize(
    ("votes", "shares"),
    [
        ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]),
        ([6, 0, 1, 1, 0, 0, 0, 0, 2, 0], [1, 0, 0, 0, 0, 0, 0, 0]),  # single votes go; 6 of 8 reach three quarters
        ([4, 0, 0, 0, 3, 2, 0, 0, 0, 0], [4 / 7, 0, 0, 0, 3 / 7, 0, 0, 0]),  # 7 of 9: the third class is not needed
        ([5, 0, 0, 5, 0, 0, 0, 0, 0, 0], [0.5, 0, 0, 0.5, 0, 0, 0, 0]),
        ([2, 2, 2, 2, 2, 0, 0, 0, 0, 0], None),  # five at the top
        ([3, 0, 0, 0, 0, 0, 0, 0, 7, 0], None),  # unknown at the top
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 10], None),
        ([5, 0, 0, 0, 0, 0, 0, 0, 5, 0], None),  # an emotion and unknown tie, and half of the votes is too little
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], None),  # nothing left
        ([4, 3, 0, 0, 0, 0, 0, 0, 3, 0], [4 / 7, 3 / 7, 0, 0, 0, 0, 0, 0]),  # unknown, third, stops and does not count
    ],
)
def test_vote_distribution(votes, shares):
    found = vote_distribution(votes)
    assert found == (shares if shares is None else pytest.approx(shares, abs=1e-6))


def make_fer(root: Path) -> None:
    rows = [  # file, split, FER2013, majority, votes
        ("fer0000000.png", "train", "angry", "neutral", [4, 0, 0, 1, 3, 2, 0, 0, 0, 0]),
        ("fer0000001.png", "train", "happy", "happiness", [0, 10, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("fer0000002.png", "train", "", "", [0, 0, 0, 0, 0, 0, 0, 0, 2, 8]),
        ("fer0028000.png", "valid", "sad", "sadness", [0, 0, 0, 9, 0, 0, 0, 0, 0, 0]),
        ("fer0032000.png", "test", "neutral", "neutral", [9, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("fer0032001.png", "test", "fear", "fear", [0, 0, 0, 0, 0, 0, 9, 0, 0, 0]),  # not in the zip
    ]
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            [
                "index",
                "file",
                "split",
                "usage",
                "fer_label",
                "fer_match_score",
                "fer_label_ambiguous",
                "plus_majority",
                *(f"v_{name}" for name in VOTES),
            ]
        )
        for i, (name, split, fer, plus, votes) in enumerate(rows):
            table.writerow([i, name, split, "", fer, "0.99", 0, plus, *votes])
    for split in ("train", "valid", "test"):
        with zipfile.ZipFile(root / f"{split}.zip", "w") as archive:
            for i, row in enumerate(rows):
                if row[1] == split and row[0] != "fer0032001.png":
                    archive.writestr(row[0], picture(i, "PNG", "L", (48, 48)))


def test_fer2013plus_layout(tmp_path):
    make_fer(tmp_path)
    train = read_all("fer2013plus", tmp_path, "train")
    assert set(train) == {"fer0000000", "fer0000001", "fer0000002"}
    first = train["fer0000000"]
    assert first.labels["expression"] == "angry" and first.labels["ferplus"] == "neutral"
    assert first.labels["votes"] == pytest.approx([4 / 7, 0, 0, 0, 3 / 7, 0, 0, 0], abs=1e-6)
    assert first.image == picture(0, "PNG", "L", (48, 48)) and first.extension == "png" and first.text == []
    assert train["fer0000002"].labels == {}, "labels that nobody gave are absent"
    assert list(read_all("fer2013plus", tmp_path, "val")) == ["fer0028000"]
    test = read_all("fer2013plus", tmp_path, "test")
    assert isinstance(test["fer0032001"], Skipped) and "missing" in test["fer0032001"].reason
    (tmp_path / "test.zip").write_bytes(b"PK not a zip")
    with pytest.raises(VeaError, match=r"test\.zip is damaged"):
        read_all("fer2013plus", tmp_path, "test")


# -------------------------------------------------------------------------------------------- oasis, wikiart, captions


def make_oasis(root: Path) -> None:
    rows = [
        ("I1", "Acorns_1", "Object", "train"),
        ("I2", "Bird_(blue)_2", "Animal", "train"),
        ("I3", "Lake_1", "Scenery", "valid"),
        ("I4", "Boy_1", "Person", "test"),
    ]
    lines = [
        "id,file,theme,theme_group,category,source,valence_mean,valence_sd,valence_n,arousal_mean,arousal_sd,arousal_n,"
        "caption_human,caption_auto,explicit,graphic,split,brightness_gray,brightness_v,colorfulness_hs"
    ]
    for i, (number, stem, category, split) in enumerate(rows):
        put(root / "images" / f"{stem}.jpg", picture(i))
        lines.append(
            f'{number},{stem}.jpg,x,x,{category},Pixabay,{1.5 + i},1,102,{2.5 + i / 2},1,101,"A thing, {i}.",auto,0,0,'
            f"{split},0.4,0.5,45"
        )
    put(root / "oasis.csv", "\n".join(lines) + "\n")


def test_oasis_layout(tmp_path):
    make_oasis(tmp_path)
    train = read_all("oasis", tmp_path, "train")
    assert set(train) == {"Acorns_1", "Bird_(blue)_2"}
    assert train["Bird_(blue)_2"].labels == {"valence": 2.5, "arousal": 3.0, "category": "Animal"}
    assert train["Bird_(blue)_2"].text == ["A thing, 1."]
    assert list(read_all("oasis", tmp_path, "val")) == ["Lake_1"]
    put(tmp_path / "oasis.csv", (tmp_path / "oasis.csv").read_text().replace("caption_human", "caption_humn"))
    with pytest.raises(VeaError, match=r"no column 'caption_human' .did you mean 'caption_humn'"):
        read_all("oasis", tmp_path, "train")


def make_wikiart(root: Path, count: int) -> None:
    rows = []
    for i in range(count):
        style = ("Baroque", "Post_Impressionism")[i % 2]
        rows.append(
            {"file": f"{style}_{i:05d}.jpg", "style": style, "artist": "a painter", "title": f"view {i}", "year": None}
        )
        put(root / "images" / rows[-1]["file"], picture(i) if i < 3 else b"x")
    put(root / "index.jsonl", "\n".join(json.dumps(row) for row in rows))


def test_wikiart_layout_and_hash_split(tmp_path):
    make_wikiart(tmp_path, 400)
    train, val = (read_all("wikiart", tmp_path, split) for split in ("train", "val"))
    assert not set(train) & set(val) and len(train) + len(val) == 400
    assert 8 <= len(val) <= 36, "about one in twenty"
    make_wikiart(tmp_path, 300)
    assert set(read_all("wikiart", tmp_path, "val")) <= set(val), "more paintings never move one to the other split"
    key, sample = next(iter(train.items()))
    assert sample.labels["style"] in key
    assert sample.text[0].startswith("view ") and sample.text[0].endswith(
        f"({sample.labels['style'].replace('_', ' ')})"
    )


def make_captions(root: Path) -> None:
    flickr = [
        {"file": f"{i}_ab.jpg", "width": 20, "height": 16, "split": split, "captions": [f"A dog {i} .", " Two. "]}
        for i, split in enumerate(["train", "train", "val", "test"])
    ]
    put(root / "flickr8k_1k" / "captions.jsonl", "\n".join(map(json.dumps, flickr)))
    for i, row in enumerate(flickr):
        put(root / "flickr8k_1k" / "images" / row["file"], picture(i))
    for split in ("train", "val"):
        row = {
            "file": f"00000000000{len(split)}.jpg",
            "width": 20,
            "height": 16,
            "captions": ["a boy"],
            "people": [],
            "objects": [
                {"category": "person", "bbox": [1.0, 2.0, 3.0, 4.0], "area": 9.0, "iscrowd": 0},
                {"category": "dog", "bbox": [0, 0, 20, 16], "area": 300.0, "iscrowd": 0},
                {"category": "person", "bbox": [5.0, 1.0, 10.0, 12.5], "area": 90.0, "iscrowd": 0},
                {"category": "person", "bbox": [0, 0, 20, 16], "area": 200.0, "iscrowd": 1},
            ],
        }
        put(root / "coco_mini" / f"{split}.jsonl", json.dumps(row) + "\n")
        put(root / "coco_mini" / "images" / row["file"], picture(len(split)))


def test_captions_layouts(tmp_path):
    make_captions(tmp_path)
    train = read_all("captions", tmp_path, "train")
    assert set(train) == {"flickr8k-0_ab", "flickr8k-1_ab", "coco-000000000005"}
    assert train["flickr8k-0_ab"].text == ["A dog 0 .", "Two."] and train["flickr8k-0_ab"].source == "flickr8k_1k"
    assert train["coco-000000000005"].person_boxes == [[5.0, 1.0, 15.0, 13.5], [1.0, 2.0, 4.0, 6.0]], "biggest first"
    assert set(read_all("captions", tmp_path, "val")) == {"flickr8k-2_ab", "coco-000000000003"}
    assert set(read_all("captions", tmp_path, "test")) == {"flickr8k-3_ab"}
    assert set(read_all("flickr8k_1k", tmp_path / "flickr8k_1k", "train")) == {"flickr8k-0_ab", "flickr8k-1_ab"}
    assert set(read_all("coco_mini", tmp_path / "coco_mini", "val")) == {"coco-000000000003"}
    (tmp_path / "coco_mini" / "train.jsonl").write_text("{}\nnot json\n")
    with pytest.raises(VeaError, match="line 2"):
        read_all("captions", tmp_path, "train")


def test_person_boxes_without_area_are_dropped():
    assert person_boxes([{"category": "person", "bbox": [1, 1, 0, 5]}]) == []


# -------------------------------------------------------------------------------------------------------------- emoset


def info_json(*, flat=False) -> dict:
    fields = find_card("emoset", CARDS).label_fields
    maps = {
        name: {
            "label2idx": {c: i for i, c in enumerate(field.classes)},
            "idx2label": {str(i): c for i, c in enumerate(field.classes)},
        }
        for name, field in fields.items()
    }
    return maps["emotion"] if flat else maps


def make_emoset(root: Path, *, four=False, flat=False) -> None:
    images = {
        "train": [
            (
                "amusement",
                "amusement_00000",
                {
                    "image_id": "amusement_00000",
                    "emotion": "amusement",
                    "brightness": 0.4,
                    "colorfulness": 1.0,
                    "scene": "bakery/shop",
                    "facial_expression": "happy",
                    "human_action": "answering questions",
                    "object": ["Alarm clock", "Pen"],
                },
            ),
            ("sadness", "sadness_00007", {"image_id": "sadness_00007", "emotion": "sadness", "brightness": 0.0}),
        ],
        "val": [("awe", "awe_00001", {"emotion": "awe", "object": []})],
        "test": [("fear", "fear_00002", {"emotion": "fear", "scene": None})],
    }
    put(root / "info.json", json.dumps(info_json(flat=flat)))
    for split, entries in images.items():
        rows = []
        for emotion, name, annotation in entries:
            paths = [f"image/{emotion}/{name}.jpg", f"annotation/{emotion}/{name}.json"]
            put(root / paths[0], picture(len(name)))
            put(root / paths[1], json.dumps(annotation))
            rows.append([emotion, name, *paths] if four else [emotion, *paths])
        put(root / f"{split}.json", json.dumps(rows))


@pytest.mark.parametrize("four", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_emoset_layout(tmp_path, four, flat):
    make_emoset(tmp_path, four=four, flat=flat)
    source = make_source(find_card("emoset", CARDS))
    fields = source.fields(tmp_path)
    assert fields == find_card("emoset", CARDS).label_fields and source.warnings == []
    train = read_all("emoset", tmp_path, "train")
    assert train["amusement_00000"].labels == {
        "emotion": "amusement",
        "brightness": "0.4",
        "colorfulness": "1.0",
        "scene": "bakery/shop",
        "facial_expression": "happy",
        "human_action": "answering questions",
        "object": ["Alarm clock", "Pen"],
    }
    assert train["sadness_00007"].labels == {"emotion": "sadness", "brightness": "0.0"}, "0.0 is a value, not a gap"
    assert read_all("emoset", tmp_path, "val")["awe_00001"].labels == {"emotion": "awe"}
    assert read_all("emoset", tmp_path, "test")["fear_00002"].labels == {"emotion": "fear"}


def test_weak_emoset_takes_what_is_sure_and_the_ratings_of_oasis(tmp_path):
    row = {"dataset": "oasis", "image": "oasis/images/Dog 1.jpg", "split": "valid", "brightness": 0.4,
           "colorfulness": 1.0, "scene": ["beach"], "object": ["Dog", "Ball"], "human_action": ["diving cliff", "yoga"],
           "facial_expression": None}  # fmt: skip
    other = row | {"dataset": "coco_mini", "image": "coco_mini/images/7.jpg", "split": "val", "scene": [], "object": [],
                   "brightness": 0.0, "human_action": ["yoga"], "facial_expression": "sad"}  # fmt: skip
    put(tmp_path / "emoset_taxonomy/info.json", json.dumps(info_json()))
    put(tmp_path / "emoset_taxonomy/weak_annotations.jsonl", f"{json.dumps(row)}\n{json.dumps(other)}\n")
    put(tmp_path / "oasis/oasis.csv", "file,valence_mean,arousal_mean\nDog 1.jpg,5.5,2.25\n")
    for name in (row["image"], other["image"]):
        put(tmp_path / name, picture(3))
    source = make_source(find_card("emoset_weak", CARDS))
    fields = source.fields(tmp_path)
    assert len(fields["scene"].classes) == 254 and fields["object"].kind == "multilabel" and not source.warnings
    assert "emotion" not in fields and not read_all("emoset_weak", tmp_path, "train")
    found = read_all("emoset_weak", tmp_path, "val")
    assert found["oasis-Dog 1"].labels == {
        "valence": 5.5, "arousal": 2.25, "brightness": "0.4", "colorfulness": "1.0", "scene": "beach",
        "object": ["Dog", "Ball"],
    }  # fmt: skip
    assert found["coco_mini-7"].labels == {
        "brightness": "0.0", "colorfulness": "1.0", "human_action": "yoga", "facial_expression": "sad"
    }  # fmt: skip


def test_emoset_without_annotation_or_image(tmp_path):
    make_emoset(tmp_path)
    (tmp_path / "annotation/amusement/amusement_00000.json").unlink()
    (tmp_path / "image/sadness/sadness_00007.jpg").unlink()
    train = read_all("emoset", tmp_path, "train")
    assert train["amusement_00000"].labels == {"emotion": "amusement"}
    assert isinstance(train["sadness_00007"], Skipped)


def test_emoset_order_of_info_json_wins_and_is_reported(tmp_path):
    make_emoset(tmp_path)
    info = info_json()
    info["emotion"]["label2idx"] = {name: i for i, name in enumerate(sorted(MIKELS_8.classes))}
    put(tmp_path / "info.json", json.dumps(info))
    source = make_source(find_card("emoset", CARDS))
    assert source.fields(tmp_path)["emotion"].classes == tuple(sorted(MIKELS_8.classes))
    assert len(source.warnings) == 1 and "'emotion' other than the card from index 1" in source.warnings[0]
    info["scene"]["label2idx"]["pond"] = 0
    put(tmp_path / "info.json", json.dumps(info))
    with pytest.raises(VeaError, match="indices of 'scene'"):
        source.fields(tmp_path)


@pytest.mark.parametrize("row", [["amusement", "x.jpg"], "amusement", {"emotion": "awe"}])
def test_emoset_rows_of_another_form(tmp_path, row):
    make_emoset(tmp_path)
    put(tmp_path / "train.json", json.dumps([row]))
    with pytest.raises(VeaError, match="row 0"):
        read_all("emoset", tmp_path, "train")


# -------------------------------------------------------------------------------------------------------- image folders


def make_folders(root: Path, val="val") -> None:
    for split, classes in {"train": ("Sad", "Happy", "Very Angry"), val: ("Sad", "Happy")}.items():
        for number, name in enumerate(classes):
            for i in range(2):
                put(root / split / name / f"img {i}.jpg", picture(10 * number + i))
    put(root / "train" / "Sad" / "img 0.png", picture(77, "PNG"))  # the same stem again
    put(root / "train" / "Sad" / ".DS_Store", b"x")
    put(root / "train" / "Sad" / "notes.txt", b"x")


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_image_folder_layout(tmp_path, val):
    make_folders(tmp_path, val)
    source = make_source(find_card("image_folder", CARDS))
    assert source.splits(tmp_path) == ["train", "val"]
    assert source.fields(tmp_path)["label"].classes == ("Happy", "Sad", "Very Angry")
    train = read_all("image_folder", tmp_path, "train")
    assert len(train) == 7
    assert train["train__Sad/img 0.png"].image == picture(77, "PNG") and train["train__Sad/img 0.jpg"].image == picture(
        0
    )
    assert train["train__Very Angry__img 1"].labels == {"label": "Very Angry"}
    assert len(read_all("image_folder", tmp_path, "val")) == 4


def test_image_folder_with_given_order(tmp_path, capsys):
    make_folders(tmp_path / "raw")
    out = tmp_path / "faces"
    assert (
        prepare(
            [
                "image_folder",
                "--root",
                str(tmp_path / "raw"),
                "--out",
                str(out),
                "--field",
                "mood",
                "--classes",
                "Very Angry,Sad,Happy",
            ]
        )
        == 0
    )
    index = read_index(out)
    assert index.name == "faces" and index.fields["mood"].classes == ("Very Angry", "Sad", "Happy")
    assert index.splits["train"]["shards"][0]["label_counts"]["mood"] == {"Very Angry": 2, "Sad": 3, "Happy": 2}
    assert (
        prepare(
            [
                "image_folder",
                "--root",
                str(tmp_path / "raw"),
                "--out",
                str(tmp_path / "b"),
                "--classes",
                "Angry,Sad,Happy",
            ]
        )
        == 2
    )
    assert "'Very Angry' that is not among the classes" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_image_folder_without_splits(tmp_path):
    with pytest.raises(VeaError, match="none of the folders train, val, test"):
        make_source(find_card("image_folder", CARDS)).splits(tmp_path)


# ---------------------------------------------------------------------------------------------------------- the command


def test_order_is_by_hash_and_limit_takes_its_head(tmp_path):
    make_wikiart(tmp_path, 60)
    keys = list(read_all("wikiart", tmp_path, "train"))
    assert keys != sorted(keys) and list(read_all("wikiart", tmp_path, "train", limit=7)) == keys[:7]
    styles = ["Baroque" in key for key in keys]
    assert sum(a != b for a, b in itertools.pairwise(styles)) > 15, "classes are mixed"


def test_prepare_writes_shards_and_warns_of_counts(tmp_path, capsys):
    make_captions(tmp_path / "raw")
    assert prepare(["captions", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "set")]) == 0
    printed = capsys.readouterr()
    assert "split 'train' should hold 905 samples by its card, found 3" in printed.err
    assert "train 3, val 2, test 1 samples" in printed.out and "terms: " in printed.out
    assert len(ShardReader(tmp_path / "set", "train")) == 3
    assert prepare(["captions", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "few"), "--limit", "1"]) == 0
    assert "warning" not in capsys.readouterr().err, "a limit explains the count"


@pytest.mark.parametrize(("name", "make"), [("fer2013plus", make_fer), ("oasis", make_oasis), ("emoset", make_emoset)])
def test_prepare_every_labelled_layout(tmp_path, name, make):
    make(tmp_path / "raw")
    assert prepare([name, "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "set"), "--max-side", "16"]) == 0
    index = read_index(tmp_path / "set")
    assert set(index.splits) == {"train", "val", "test"} and set(index.fields) == set(find_card(name, CARDS).fields)
    _, image, _ = ShardReader(tmp_path / "set", "train").read(0)
    assert max(Image.open(io.BytesIO(image)).size) == 16


def test_prepare_takes_the_root_from_the_environment(tmp_path, monkeypatch):
    make_oasis(tmp_path / "all" / "oasis")
    monkeypatch.setenv("VEA_DATA", str(tmp_path / "all"))
    assert prepare(["oasis", "--out", str(tmp_path / "set")]) == 0


def test_prepare_synthetic(tmp_path, capsys):
    arguments = ["synthetic", "--count", "20", "--size", "48", "--out"]
    assert prepare([*arguments, str(tmp_path / "one")]) == 0
    assert "train 16, val 2, test 2" in capsys.readouterr().out
    index = read_index(tmp_path / "one")
    assert index.synthetic and "synthetic" in index.title.lower() and {"expression", "emotion"} <= set(index.fields)
    assert prepare([*arguments, str(tmp_path / "two")]) == 0
    assert all(
        (tmp_path / "two" / path.name).read_bytes() == path.read_bytes() for path in (tmp_path / "one").iterdir()
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fer2013pls", "--out", "x"], "did you mean 'fer2013plus'"),
        (
            ["oasis", "--out", "x"],
            "oasis needs --root, the folder of the raw download. To obtain it: The images and norms",
        ),
        (["oasis", "--root", "nowhere", "--out", "x"], "raw folder nowhere of oasis does not exist. To obtain it"),
        (["oasis", "--root", ".", "--out", "x"], "oasis.csv is missing. To obtain it"),
        (["emoset", "--root", ".", "--out", "x"], "info.json is missing. To obtain it"),
        (["oasis", "--root", "."], "--out is missing"),
        (["oasis", "--root", ".", "--out", "x", "--limit", "0"], "--limit must be 1 or more"),
        (["oasis", "--root", ".", "--out", "x", "--count", "5"], "belong to synthetic data"),
        (["oasis", "--root", ".", "--out", "x", "--classes", "a"], "belong to image_folder"),
        ([], "which data set"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VEA_DATA", raising=False)
    assert prepare(arguments) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1 and message.startswith("error: ")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_list_shows_every_card(capsys):
    assert prepare(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in NAMES) and "94,481" in text


def test_datasets_is_not_a_package():
    assert not (REPOSITORY / "datasets" / "__init__.py").exists()


# ----------------------------------------------------------------------------------- layouts of sets that are not here


def fer_csv(root: Path, *, votes: bool) -> Path:
    lines = ["emotion,pixels,Usage"]
    for i, usage in enumerate(["Training", "Training", "PublicTest", "PrivateTest"]):
        lines.append(f"{i},{' '.join(str((i + j) % 256) for j in range(48 * 48))},{usage}")
    put(root / "fer2013.csv", "\n".join(lines) + "\n")
    if votes:
        head = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
        rows = ["Training,fer0000000.png,8,2,0,0,0,0,0,0,0,0", "Training,,0,0,0,0,0,0,0,0,0,10"]
        rows += ["PublicTest,fer2.png,4,0,0,4,0,0,2,0,0,0", "PrivateTest,fer3.png,0,10,0,0,0,0,0,0,0,0"]
        put(root / "fer2013new.csv", "\n".join([head, *rows]) + "\n")
    return root


def test_kaggle_csv_keeps_pixels_and_the_order_of_its_classes(tmp_path):
    found = read_all("fer2013", fer_csv(tmp_path, votes=False), "train")
    assert {key: sample.labels for key, sample in found.items()} == {
        "fer0000000": {"expression": "angry"},
        "fer0000001": {"expression": "disgust"},
    }
    pixels = np.array(Image.open(io.BytesIO(found["fer0000001"].image)))
    assert pixels.shape == (48, 48) and pixels.ravel()[:3].tolist() == [1, 2, 3]
    assert set(make_source(find_card("fer2013", CARDS)).fields(tmp_path)) == {"expression"}


def test_kaggle_csv_with_votes_has_every_mode_of_ferplus(tmp_path):
    root = fer_csv(tmp_path, votes=True)
    train = read_all("fer2013", root, "train")
    assert train["fer0000000"].labels["ferplus"] == "neutral"
    assert train["fer0000000"].labels["multi_target"] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert train["fer0000001"].labels == {"expression": "disgust"}  # no face: the old label only
    val = read_all("fer2013", root, "val")["fer0000002"].labels
    assert "ferplus" not in val and val["multi_target"] == [0.5, 0, 0, 0.5, 0, 0, 0, 0]


@pytest.mark.parametrize("damage", ["pixels", "emotion"])
def test_kaggle_csv_names_a_bad_row(tmp_path, damage):
    text = (fer_csv(tmp_path, votes=False) / "fer2013.csv").read_text().splitlines()
    text[1] = "0,1 2 3,Training" if damage == "pixels" else "9," + text[1].split(",", 1)[1]
    put(tmp_path / "fer2013.csv", "\n".join(text))
    with pytest.raises(VeaError, match="sample fer0000000: emotion must be 0 to 6"):
        read_all("fer2013", tmp_path, "train")


def test_rafdb_counts_from_one(tmp_path):
    put(tmp_path / "EmoLabel" / "list_patition_label.txt", "train_00001.jpg 5\ntrain_00002.jpg 1\ntest_0001.jpg 7\n")
    for name in ("train_00001", "test_0001"):
        put(tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg", picture(1))
    train = read_all("rafdb", tmp_path, "train")
    assert train["train_00001"].labels == {"expression": "sadness"}
    assert isinstance(train["train_00002"], Skipped) and "missing" in train["train_00002"].reason
    assert read_all("rafdb", tmp_path, "test")["test_0001"].labels == {"expression": "neutral"}
    put(tmp_path / "EmoLabel" / "list_patition_label.txt", "train_00001.jpg 8\n")
    with pytest.raises(VeaError, match="line 1: 'train_00001\\.jpg 8' is not"):
        read_all("rafdb", tmp_path, "train")


@pytest.mark.parametrize("classes, keys", [(7, {"train_1", "train_2"}), (8, {"train_1", "train_2", "train_3"})])
def test_affectnet_reads_npy_annotations(tmp_path, classes, keys):
    rows = {"1": (1, 0.5, -0.25), "2": (6, -2, -2), "3": (7, 0.0, 0.0), "4": (8, 0.0, 0.0)}  # 8 to 10: none, uncertain
    for key, values in rows.items():
        put(tmp_path / "train_set" / "images" / f"{key}.jpg", picture(int(key)))
        (tmp_path / "train_set" / "annotations").mkdir(exist_ok=True)
        for part, value in zip(("exp", "val", "aro"), values, strict=True):
            np.save(tmp_path / "train_set" / "annotations" / f"{key}_{part}.npy", np.array(str(value)))
    found = read_all(f"affectnet{classes}", tmp_path, "train")
    assert set(found) == keys
    assert found["train_1"].labels == {"expression": "happy", "valence": 0.5, "arousal": -0.25}
    assert found["train_2"].labels == {"expression": "anger"}  # -2: nobody rated it


def web_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_webdataset_of_img2dataset(tmp_path):
    caption = {"caption": "a dog", "url": "x"}
    members = {"000.jpg": picture(1), "000.json": json.dumps(caption).encode(), "001.jpg": picture(2)}
    members |= {"001.txt": "zwei Hündchen\n".encode(), "002.txt": b"no image", "003.jpg": picture(3)}
    web_tar(tmp_path / "00000.tar", members)
    whole = web_tar(tmp_path / "00001.tar", {"000.jpg": picture(4), "001.jpg": picture(5)}).read_bytes()
    (tmp_path / "00001.tar").write_bytes(whole[: 512 + len(picture(4)) // 2])
    found = read_all("webdataset", tmp_path, "train")
    assert found["00000_000"].text == ["a dog"] and found["00000_001"].text == ["zwei Hündchen"]
    assert found["00000_003"].text == [] and found["00000_003"].image == picture(3)
    assert isinstance(found["00000_002"], Skipped) and "no image among txt" in found["00000_002"].reason
    assert any(isinstance(sample, Skipped) and "00001.tar" in sample.reason for sample in found.values())
    assert list(read_all("webdataset", tmp_path, "train", limit=2)) == ["00000_000", "00000_001"]


def test_folders_without_splits_are_cut_inside_each_query_folder(tmp_path):
    for emotion, query in itertools.product(("anger", "joy"), ("cats", "sea")):
        for i in range(10):
            put(tmp_path / emotion / query / f"{i}.jpg", picture(i))
    found = {split: read_all("ube", tmp_path, split) for split in ("train", "val", "test")}
    assert {split: len(samples) for split, samples in found.items()} == {"train": 28, "val": 4, "test": 8}
    names = [key.split("__", 1)[1] for samples in found.values() for key in samples]
    assert len(set(names)) == 40  # every picture once
    groups = [key.split("__")[1:3] for key in found["test"]]
    assert all(groups.count(group) == 2 for group in groups)
    assert found["val"].popitem()[1].labels["emotion"] in ("anger", "joy")


@pytest.mark.parametrize("count", [37, 50, 90])
def test_no_picture_is_in_two_splits_or_none(tmp_path, count):
    """80:5:15 of fifty: 0.8 + 0.05 is more than 0.85, and rounds to another edge."""
    for i in range(count):
        put(tmp_path / "awe" / f"{i}.jpg", picture(0))
    found = [key.split("__")[-1] for split in ("train", "val", "test") for key in read_all("fi", tmp_path, split)]
    assert sorted(found, key=int) == [str(i) for i in range(count)]


def test_caer_s_takes_validation_out_of_the_official_test_set(tmp_path):
    for split, count in (("train", 5), ("test", 50)):
        for i in range(count):
            put(tmp_path / split / "Fear" / f"{i}.png", picture(i, "PNG"))
    counts = {split: len(read_all("caer_s", tmp_path, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 5, "val": 17, "test": 33}


def test_shipped_splits_are_left_alone(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for i in range(count):
            put(tmp_path / split / "awe" / f"{i}.jpg", picture(i))
    assert [len(read_all("fi", tmp_path, split)) for split in ("train", "val", "test")] == [3, 2, 1]


# ------------------------------------------------------------------------------------------------------------ real data

needs_data = pytest.mark.skipif(not os.environ.get("VEA_DATA"), reason="VEA_DATA is not set: no real data here")


@pytest.mark.real_data
@needs_data
@pytest.mark.parametrize("name", ["fer2013plus", "oasis", "wikiart", "flickr8k_1k", "coco_mini", "captions"])
def test_real_counts_are_those_of_the_card(name):
    card = find_card(name, CARDS)
    root = Path(os.environ["VEA_DATA"]) / card.folder
    source = make_source(card)
    found = {split: len(list(source.records(root, split))) for split in source.splits(root)}
    assert found == card.splits


@pytest.mark.real_data
@needs_data
@pytest.mark.parametrize("name", ["fer2013plus", "oasis", "wikiart", "captions"])
def test_real_samples_become_shards(name, tmp_path, capsys):
    assert prepare([name, "--out", str(tmp_path / name), "--limit", "20"]) == 0
    index = read_index(tmp_path / name)
    assert all(entry["samples"] == 20 for entry in index.splits.values()) and index.raw["skipped"] == []


@pytest.mark.real_data
@needs_data
@pytest.mark.parametrize(
    "rule, counts",
    [
        (vote_distribution, [27_956, 3_505, 3_505]),
        (majority_class, [25_060, 3_199, 3_153]),
        (multi_target, [27_671, 3_472, 3_472]),
    ],
)
def test_real_votes_match_the_counts_of_ferplus(rule, counts):
    """The counts are those of FER+'s own code in its three modes."""
    found = dict.fromkeys(("Training", "PublicTest", "PrivateTest"), 0)
    with open(Path(os.environ["VEA_DATA"]) / "fer2013plus" / "fer2013new.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["Image name"]:
                found[row["Usage"]] += rule([int(row[name]) for name in VOTES]) is not None
    assert list(found.values()) == counts


def emotic_person(box, categories, values, *, combined=False):
    person = {"body_bbox": np.array(box), "annotations_categories": {"categories": np.array(["Fear"], dtype=object)},
              "annotations_continuous": {"valence": 1, "arousal": 1, "dominance": 1}}  # fmt: skip
    words, numbers = np.array(categories, dtype=object), dict(zip(("valence", "arousal", "dominance"), values))
    if combined:
        return {**person, "combined_categories": words, "combined_continuous": numbers}
    return {**person, "annotations_categories": {"categories": words}, "annotations_continuous": numbers}


def test_emotic_gives_each_person_of_a_picture(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        put(tmp_path / "emotic" / "mscoco" / "images" / name, picture(1))
    two = [
        emotic_person([1, 2, 9, 8], ["Peace", "Doubt/Confusion"], (5, 3, 6)),
        emotic_person([2, 2, 6, 6], ["Pain"], (2, 8, float("nan"))),
    ]
    entries = [{"filename": "a.jpg", "folder": "mscoco/images", "person": np.array(two)}]
    val = {
        "filename": "b.jpg",
        "folder": "mscoco/images",
        "person": emotic_person([0, 0, 4, 4], ["Yearning"], (4, 4, 4), combined=True),
    }
    (tmp_path / "Annotations").mkdir()
    scipy.io.savemat(
        tmp_path / "Annotations" / "Annotations.mat", {"train": np.array(entries), "val": val, "test": val}
    )
    found = read_all("emotic", tmp_path, "train")
    assert set(found) == {"mscoco__images__a_0", "mscoco__images__a_1"}
    first, second = (found[f"mscoco__images__a_{i}"] for i in (0, 1))
    assert first.labels == {"categories": ["Peace", "Doubt/Confusion"], "valence": 5, "arousal": 3, "dominance": 6}
    assert first.person_boxes == [[1, 2, 9, 8]] and first.image == picture(1)
    assert second.labels == {"categories": ["Pain"], "valence": 2, "arousal": 8}, "what nobody judged is absent"
    (person,) = read_all("emotic", tmp_path, "val").values()
    assert person.labels["categories"] == ["Yearning"] and person.labels["valence"] == 4, "the combined judgement"
    scipy.io.savemat(
        tmp_path / "Annotations" / "Annotations.mat",
        {"val": {**val, "person": emotic_person([0, 0, 4, 4], ["Paine"], (1, 1, 1))}},
    )
    with pytest.raises(VeaError, match=r"unknown category 'Paine' .did you mean 'Pain'"):
        read_all("emotic", tmp_path, "val")
    (tmp_path / "Annotations" / "Annotations.mat").write_bytes(b"not a matrix")
    with pytest.raises(VeaError, match="is not EMOTIC's annotation file"):
        read_all("emotic", tmp_path, "val")


def artemis_table(path: Path, rows: list[tuple], *, split: bool = False) -> Path:
    columns = ["art_style", "painting", "emotion", "utterance", "repetition", *(["split"] if split else [])]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_artemis_groups_explanations_by_painting(tmp_path):
    long = " ".join(["word"] * 30)
    rows = [("Cubism", "a", "awe", f"the light in it shines {i}", 5, "train") for i in range(30)]
    others = [
        ("b", "fear", "it looks dark and cold", 5, "train"),
        ("b", "awe", "so,  many bright colours here", 5, "train"),
        ("b", "awe", "too short", 5, "train"),
        ("b", "awe", long, 5, "train"),
        ("b", "awe", "shown far too many times", 41, "train"),
        ("b", "boredom", "nothing happens in it at all", 5, "train"),
        ("c", "sadness", "nobody is left in the room", 5, "test"),
    ]
    rows += [("Cubism", *row) for row in others]
    artemis_table(tmp_path / "artemis_dataset_release_v0.csv", rows, split=True)
    for name in "abc":
        put(tmp_path / "wikiart" / "Cubism" / f"{name}.jpg", picture(1))
    source = make_source(find_card("artemis", CARDS))
    found = {sample.key: sample for sample in source.samples(tmp_path, "train")}
    assert set(found) == {"wikiart__Cubism__a", "wikiart__Cubism__b"}
    painting = found["wikiart__Cubism__b"]
    assert painting.text == ["fear because it looks dark and cold", "awe because so, many bright colours here"]
    names = find_card("artemis", CARDS).label_fields["emotion"].classes
    assert dict(zip(names, painting.labels["emotion"])) == {**dict.fromkeys(names, 0), "fear": 0.5, "awe": 0.5}
    assert "dominant" not in painting.labels and found["wikiart__Cubism__a"].labels["dominant"] == "awe"
    assert source.warnings and "'boredom'" in source.warnings[0]
    (test,) = source.samples(tmp_path, "test")
    assert test.labels["dominant"] == "sadness"


def test_artemis_v2_takes_equally_many_old_rows_and_cuts_by_painting(tmp_path):
    old = [("Baroque", f"o{i % 50}", "awe", f"old words about this thing {i}", 5) for i in range(200)]
    new = [("Baroque", f"n{i % 40}", "fear", f"new words about this thing {i}", 5) for i in range(80)]
    artemis_table(tmp_path / "artemis_dataset_release_v0.csv", old)
    artemis_table(tmp_path / "Contrastive.csv", new)
    for kind, count in (("o", 50), ("n", 40)):
        for i in range(count):
            put(tmp_path / "wikiart" / "Baroque" / f"{kind}{i}.jpg", picture(1))
    found = {split: read_all("artemis_v2", tmp_path, split) for split in ("train", "val", "test")}
    words = [text for samples in found.values() for sample in samples.values() for text in sample.text]
    assert sum(text.startswith("fear because new") for text in words) == 80
    assert sum(text.startswith("awe because old") for text in words) == 80
    assert (
        not set(found["train"]) & set(found["test"])
        and 0.7 < len(found["train"]) / sum(map(len, found.values())) < 0.95
    )


# ---------------------------------------------------------------------------------------------- tables that are damaged

HEADER = "file,category,valence_mean,arousal_mean,caption_human,split\n"
GOOD_ROW = "a.jpg,Animal,3.5,2.0,a dog,train\n"


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        (HEADER.encode() + b"a.jpg,Animal,3.5,2.0,caf\xe9,train\n", r"line 2: byte 0xe9 is not UTF-8"),
        ((HEADER + GOOD_ROW).encode("utf-16"), r"line 1: byte 0xff is not UTF-8"),
        (HEADER.encode() + b"a.jpg,Ani\0mal,3.5,2.0,a,train\n", r"line 2: it holds a zero byte"),
        ((HEADER + GOOD_ROW + "b.jpg,Animal\n").encode(), r"line 3: 2 cells, the header has 6"),
        ((HEADER + "a.jpg,Animal,3.5,2.0,a dog, running,train\n").encode(), r"line 2: 7 cells.*in quotes"),
        ((HEADER + 'a.jpg,Animal,3.5,2.0,"' + "x" * 200_000 + '",train\n').encode(), r"line 2: field larger than"),
        (b"", r"has no column 'file'"),
        (b"file,category\n", r"has no column 'valence_mean'"),
    ],
)
def test_a_damaged_table_is_one_sentence_with_file_and_line(tmp_path, table, wanted):
    put(tmp_path / "oasis.csv", table)
    put(tmp_path / "images" / "a.jpg", b"")
    with pytest.raises(VeaError, match=wanted) as told:
        read_all("oasis", tmp_path, "train")
    assert "oasis.csv" in str(told.value) and "\n" not in str(told.value)


def test_blank_lines_and_a_mark_in_front_are_no_damage(tmp_path):
    put(tmp_path / "oasis.csv", b"\xef\xbb\xbf" + (HEADER + "\n" + GOOD_ROW + "\r\n").encode())
    put(tmp_path / "images" / "a.jpg", b"x")
    assert list(read_all("oasis", tmp_path, "train")) == ["a"]


@pytest.mark.parametrize("value", [None, 1, "amusement", [], [1], {"label2idx": [0]}, {"label2idx": {"a": "0"}},
                                   {"label2idx": {"a": None}}, {"label2idx": {"a": 0.0}}])  # fmt: skip
def test_emosets_info_of_another_shape_is_one_sentence(tmp_path, value):
    put(tmp_path / "info.json", json.dumps({"emotion": value, "scene": {"label2idx": {"x": 0}}}))
    with pytest.raises(VeaError, match=r"info\.json"):
        make_source(find_card("emoset", CARDS)).fields(tmp_path)


@pytest.mark.parametrize("row", ["1", '"x"', "[]", "null", "[" * 5000])
def test_a_line_of_json_that_is_no_object_is_named(tmp_path, row):
    put(tmp_path / "captions.jsonl", '{"file": "a.jpg", "captions": ["x"], "split": "train"}\n' + row + "\n")
    put(tmp_path / "images" / "a.jpg", b"")
    with pytest.raises(VeaError, match=r"captions\.jsonl, line 2"):
        make_source(find_card("flickr8k_1k", CARDS)).to_write(tmp_path, "train")


# ---------------- malformed rows: a few are left out and listed, many are another table


def many_oasis(root: Path, *bad: str) -> None:
    rows = "".join(f"p{i}.jpg,Animal,3.5,2.0,a dog,train\n" for i in range(60))
    put(root / "oasis.csv", HEADER + rows + "".join(f"{row}\n" for row in bad))
    put(root / "images" / "p0.jpg", picture(0))


def many_captions(root: Path, *bad: str) -> None:
    rows = "".join(json.dumps({"file": f"p{i}.jpg", "captions": "a dog", "split": "train"}) + "\n" for i in range(60))
    put(root / "captions.jsonl", "\ufeff" + rows + "".join(f"{row}\n" for row in bad))
    put(root / "images" / "p0.jpg", picture(0))


def many_emosets(root: Path, *bad: str) -> None:
    make_emoset(root)
    rows = [json.dumps(["amusement", f"p{i}.jpg", f"p{i}.json"]) for i in range(60)]
    put(root / "train.json", "[" + ",".join([*rows, *bad]) + "]")


MALFORMED_ROWS = [
    ("oasis", many_oasis, ["q.jpg,Animal"]),
    ("oasis", many_oasis, ["q.jpg,Animal,3.5,2.0,a, b, c,train", "q"]),
    ("flickr8k_1k", many_captions, ["{", "[1]"]),
    ("flickr8k_1k", many_captions, ['{"file": null, "captions": ["x"], "split": "train"}']),
    ("flickr8k_1k", many_captions, ['{"captions": ["x"], "split": "train"}', "null"]),
    ("flickr8k_1k", many_captions, ['{"file": 7, "captions": ["x"], "split": "train"}']),
    ("emoset", many_emosets, ['["amusement", "q.jpg"]']),
    ("emoset", many_emosets, ["null", '["amusement", null, "q.json"]']),
]


@pytest.mark.parametrize(("name", "make", "bad"), MALFORMED_ROWS)
def test_a_few_malformed_rows_are_left_out_and_listed(tmp_path, name, make, bad):
    make(tmp_path, *bad)
    source = make_source(find_card(name, CARDS))
    assert len(source.listing(tmp_path, "train")) == 60
    (said,) = [line for line in source.warnings if "malformed" in line]
    assert f": {len(bad)} of {60 + len(bad)} lines are malformed and left out: " in said and "\n" not in said


@pytest.mark.parametrize(("name", "make", "bad"), MALFORMED_ROWS)
def test_many_malformed_rows_stop_the_preparation(tmp_path, name, make, bad):
    make(tmp_path, *(bad * 4))
    with pytest.raises(VeaError, match="lines are malformed") as told:
        make_source(find_card(name, CARDS)).listing(tmp_path, "train")
    assert "\n" not in str(told.value)


def test_a_quote_that_is_never_closed_counts_all_that_it_swallows(tmp_path):
    many_oasis(tmp_path, *(['q.jpg,Animal,3.5,2.0,"a dog,train'] + ["r.jpg,Animal,3.5,2.0,a dog,train"] * 20))
    with pytest.raises(VeaError, match=r"\(21 of 81 lines are malformed\)"):
        make_source(find_card("oasis", CARDS)).listing(tmp_path, "train")


def test_captions_of_one_name_in_two_folders_are_two_pictures(tmp_path):
    files = ["a/1.jpg", "b/1.jpg", "./c.jpg"]
    rows = "".join(json.dumps({"file": file, "captions": "a dog", "split": "train"}) + "\n" for file in files)
    put(tmp_path / "captions.jsonl", rows)
    put(tmp_path / "images" / "c.jpg", picture(0))
    keys = [key for key, _ in make_source(find_card("flickr8k_1k", CARDS)).listing(tmp_path, "train")]
    assert sorted(keys) == ["flickr8k-a__1", "flickr8k-b__1", "flickr8k-c"]
