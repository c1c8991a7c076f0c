import io

import numpy as np
import pytest
from PIL import Image

from vea.commands.shards import contact_sheet
from vea.commands.shards import main as shards_main
from vea.data import synthetic
from vea.data.duplicates import MAX_BITS, duplicate_lines, near_pairs, picture_hash
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset


def random_hashes(count: int, seed: int = 0) -> list[bytes]:
    return [row.tobytes() for row in np.random.default_rng(seed).integers(0, 256, (count, 32), dtype=np.uint8)]


def flip(digest: bytes, bits: np.ndarray) -> bytes:
    flat = np.unpackbits(np.frombuffer(digest, np.uint8))
    flat[bits] ^= 1
    return np.packbits(flat).tobytes()


def test_every_near_pair_is_found_and_no_other():
    rng = np.random.default_rng(1)
    hashes = random_hashes(300)
    expected = []
    for i in range(0, 100):
        changed = int(rng.integers(0, 31))
        hashes.append(flip(hashes[i], rng.permutation(256)[:changed]))
        if changed <= MAX_BITS:
            expected.append((i, 300 + i))
    assert 30 < len(expected) < 70, "both sides of the limit are drawn"
    assert near_pairs(hashes) == expected


def test_many_equal_pictures_are_neighbours_not_all_pairs():
    assert near_pairs([b"\1" * 32] * 4) == [(0, 1), (1, 2), (2, 3)]
    assert near_pairs([]) == []
    with pytest.raises(ValueError, match="at most 15 bits"):
        near_pairs([b"\1" * 32], max_bits=16)


def test_hash_survives_reencoding_and_scaling_not_another_picture():
    scenes = [Image.open(io.BytesIO(synthetic.scene(i, size=96).image)) for i in range(12)]
    for scene in scenes:
        small = scene.resize((48, 48))
        assert near_pairs([picture_hash(scene), picture_hash(small)]) == [(0, 1)]
    assert near_pairs([picture_hash(scene) for scene in scenes]) == []


def test_lines_name_leakage_first():
    a, b, c = random_hashes(3)
    lines = duplicate_lines(
        [("train", "t0", a), ("train", "t1", b), ("train", "t2", b), ("test", "x", a), ("val", "y", c)]
    )
    assert lines == [
        "leakage between train and test: 1 near-identical pictures, such as t0 ~ x",
        "duplicates within train: 1 near-identical pictures, such as t1 ~ t2",
    ]


def test_leakage_through_a_chain_of_equal_and_near_pictures_is_counted():
    (a,) = random_hashes(1)
    near = flip(a, np.arange(5))
    pictures = [("train", "t", near), ("val", "v", a), ("test", "x", a), ("test", "y", a)]
    assert duplicate_lines(pictures) == [
        "leakage between train and test: 2 near-identical pictures, such as t ~ x, t ~ y",
        "leakage between train and val: 1 near-identical pictures, such as t ~ v",
        "leakage between val and test: 2 near-identical pictures, such as v ~ x, v ~ y",
        "duplicates within test: 1 near-identical pictures, such as x ~ y",
    ]


@pytest.fixture
def leaking(tmp_path):
    scenes = list(synthetic.samples(6, size=64))
    again = io.BytesIO()
    Image.open(io.BytesIO(scenes[2].image)).resize((40, 40)).save(again, "PNG")
    test = [*synthetic.samples(2, split="test", size=64), Sample(key="twin", image=again.getvalue(), extension="png")]
    write_dataset({"train": scenes, "test": test}, tmp_path / "set", name="leaky", title="Leaky", card=None,
                  fields=synthetic.FIELDS, shard_size=2, expected={"train": 6, "test": 4, "val": None})  # fmt: skip
    return tmp_path / "set"


def test_check_reports_leakage_and_counts_other_than_the_cards(leaking, capsys):
    assert shards_main(["check", str(leaking), "--no-decode"]) == 1
    assert "near-identical" not in capsys.readouterr().out, "nothing was decoded"
    for words in ([], ["--jobs", "2"]):
        assert shards_main(["check", str(leaking), *words]) == 1
        out = capsys.readouterr().out
        assert "split 'test' should hold 4 samples by its card, found 3" in out and "1 problems" in out
        assert "leakage between train and test: 1 near-identical pictures, such as synthetic-0-00000002 ~ twin" in out


def test_leakage_alone_fails_only_when_strict(tmp_path):
    scene = next(iter(synthetic.samples(1, size=64)))
    twin = Sample(key="twin", image=scene.image, extension="jpg")
    write_dataset({"train": [scene, twin]}, tmp_path / "set", name="x", title="", card=None, fields=synthetic.FIELDS)
    assert shards_main(["check", str(tmp_path / "set")]) == 0
    assert shards_main(["check", str(tmp_path / "set"), "--strict"]) == 1


def test_show_and_stats_draw(leaking, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert shards_main(["show", str(leaking), "--count", "5"]) == 0
    sheet = Image.open(tmp_path / "leaky-train.png")
    assert sheet.width == 5 * 160 and len(sheet.getcolors(1 << 24)) > 100, "pictures, not white"
    index = read_index(leaking)
    one, same, other = (np.asarray(contact_sheet(index, "train", count=3, seed=seed)) for seed in (0, 0, 1))
    assert (one == same).all() and (one != other).any()
    assert shards_main(["stats", str(leaking), "--picture", str(tmp_path / "stats.png")]) == 0
    assert Image.open(tmp_path / "stats.png").height > 500
    assert shards_main(["show", str(leaking), "--split", "tset"]) == 2
    assert shards_main(["show", str(leaking), "--out", str(tmp_path / "sheet.nope")]) == 2
    assert "did you mean 'test'" in capsys.readouterr().err
