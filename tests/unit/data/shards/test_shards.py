import errno
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from vea.commands.shards import check
from vea.commands.shards import main as shards_main
from vea.data.sample import Sample
from vea.data.shards import reader as reading
from vea.data.shards import writer
from vea.data.shards.check import label_counts
from vea.data.shards.index import read_index, read_offsets
from vea.data.shards.plan import write_dataset, write_part
from vea.data.shards.reader import ShardReader
from vea.data.shards.writer import Records, Skipped, safe_key
from vea.errors import RunError, VeaError
from vea.taxonomy.fields import LabelField

FIELDS = {
    "mood": LabelField("class", ("sad", "happy")),
    "votes": LabelField("distribution", ("sad", "happy")),
    "things": LabelField("multilabel", ("cat", "dog", "hat")),
    "valence": LabelField("value", low=1.0, high=7.0),
}


def picture(seed: int, *, size=(24, 16), mode="RGB", form="JPEG", **save) -> bytes:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)
    out = io.BytesIO()
    image.save(out, form, **save)
    return out.getvalue()


def sample(i: int, **changes) -> Sample:
    labels = {"mood": FIELDS["mood"].classes[i % 2], "valence": 1.0 + i % 6, "things": ["cat", "hat"][: i % 3]}
    known = {
        "key": f"s{i:04d}",
        "image": picture(i),
        "extension": "jpg",
        "labels": labels,
        "text": [f"drawing {i}"],
        "source": "test",
    }
    return Sample(**{**known, **changes})


def write(out, splits=None, **options):
    splits = (
        {"train": [sample(i) for i in range(10)], "val": [sample(i) for i in range(10, 13)]}
        if splits is None
        else splits
    )
    options = {
        "name": "tiny",
        "title": "Tiny",
        "fields": FIELDS,
        "card": {"terms": "none", "citation": "no one"},
        "shard_size": 4,
        **options,
    }
    return (write_part if "part" in options else write_dataset)(splits, out, **options)


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_index_reader_and_files(tmp_path):
    index = write(tmp_path / "set")
    assert left_behind(tmp_path) == ["set"], "no lock, no temporary folder"
    assert {split: entry["samples"] for split, entry in index.splits.items()} == {"train": 10, "val": 3}
    assert [shard["samples"] for shard in index.splits["train"]["shards"]] == [4, 4, 2]
    assert index.fields == FIELDS
    assert index.raw["terms"] == "none" and index.raw["skipped"] == [] and index.synthetic is False
    reader = ShardReader(tmp_path / "set", "train")
    assert len(reader) == 10
    for i in (9, 0, 4, 3):
        key, image, metadata = reader.read(i)
        assert key == metadata["id"] == f"s{i:04d}"
        assert image == picture(i), "an image that needs no change keeps its bytes"
        assert metadata["labels"] == sample(i).labels and metadata["text"] == [f"drawing {i}"]
        assert metadata["split"] == "train"
    with pytest.raises(IndexError):
        reader.read(10)


def test_plain_webdataset_reads_the_tars(tmp_path):
    write(tmp_path / "set")
    urls = [str(path) for path in sorted((tmp_path / "set").glob("train-*.tar"))]
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [f"s{i:04d}" for i in range(10)]
    assert rows[3]["json"]["labels"]["mood"] == "happy"
    assert rows[3]["jpg"].size == (24, 16)


def test_tars_are_plain_ustar_with_fixed_headers(tmp_path):
    write(tmp_path / "set")
    with tarfile.open(tmp_path / "set" / "train-000000.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:2]] == ["s0000.jpg", "s0000.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    assert (tmp_path / "set" / "train-000000.tar").read_bytes()[257:265] == b"ustar\x0000"


def test_offsets_point_at_the_members(tmp_path):
    write(tmp_path / "set")
    offsets = np.load(tmp_path / "set" / "train-000001.idx")
    assert offsets.shape == (4, 4) and offsets.dtype == np.uint64
    with tarfile.open(tmp_path / "set" / "train-000001.tar") as tar:
        members = tar.getmembers()
    expected = [
        (a.offset_data, a.size, b.offset_data, b.size) for a, b in zip(members[::2], members[1::2], strict=True)
    ]
    assert offsets.tolist() == [list(row) for row in expected]


def test_same_input_gives_same_bytes(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, max_side=10)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and len(one) == 2 * 4 + 1


def test_label_counts(tmp_path):
    votes = [sample(i, key=f"v{i}", labels={"votes": [0.25, 0.75]}) for i in range(3)]
    index = write(tmp_path / "set", {"train": [sample(i) for i in range(10)] + votes})
    counts = label_counts(index, "train")
    assert counts["mood"] == {"sad": 5, "happy": 5}
    assert counts["things"] == {"cat": 6, "dog": 0, "hat": 3}
    assert counts["votes"] == {"sad": 0, "happy": 3}
    values = [1.0 + i % 6 for i in range(10)]
    assert counts["valence"]["count"] == 10 and counts["valence"]["max"] == 6.0
    assert counts["valence"]["mean"] == pytest.approx(sum(values) / 10, abs=1e-6)


def _key_in_child(reader, queue):
    queue.put(reader.read(7)[0])


def test_reader_survives_pickle_and_fork(tmp_path):
    write(tmp_path / "set")
    reader = ShardReader(tmp_path / "set", "train")
    assert reader.read(7)[0] == "s0007"
    assert pickle.loads(pickle.dumps(reader)).read(7) == reader.read(7)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_key_in_child, args=(reader, queue))
    child.start()
    assert queue.get() == "s0007"
    child.join()


def test_reader_closes_shards_it_has_not_used_lately(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_OPEN_SHARDS", 2)
    write(tmp_path / "set", {"train": [sample(i) for i in range(10)]}, shard_size=1)
    reader = ShardReader(tmp_path / "set", "train")
    assert [reader.read(i)[0] for i in (0, 5, 9, 0)] == ["s0000", "s0005", "s0009", "s0000"]
    assert len(reader._open) == 2


def test_a_shard_that_is_opened_again_keeps_its_offsets_within_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_OPEN_SHARDS", 2)
    loaded = []
    monkeypatch.setattr(reading, "read_offsets", lambda path, shard, read=read_offsets: loaded.append(path.stem)
                        or read(path, shard))  # fmt: skip
    write(tmp_path / "set", {"train": [sample(i) for i in range(12)]}, shard_size=2)
    reader = ShardReader(tmp_path / "set", "train")
    keys = [reader.read(i)[0] for _ in range(3) for i in range(12)]
    assert keys == 3 * [f"s{i:04d}" for i in range(12)]
    assert len(loaded) == 6, "once each, though four of six shards are always closed"
    monkeypatch.setattr(reading, "MAX_OFFSETS", 2)  # less than is open
    reader = pickle.loads(pickle.dumps(reader))
    assert [reader.read(i)[0] for _ in range(3) for i in range(12)] == keys
    assert len(reader._offsets) == 1 and len(reader._open) == 2 and len(loaded) == 6 + 18


# ------------------------------------------------------------------------------------------------ damage and mistakes


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "train-000001.tar").unlink(), "train-000001.tar is missing"),
        (lambda d: (d / "train-000001.tar").write_bytes((d / "train-000001.tar").read_bytes()[:-600]), "truncated"),
        (lambda d: (d / "train-000001.idx").unlink(), "train-000001.idx is missing"),
        (lambda d: (d / "train-000001.idx").write_bytes(b"\x93NUMPY no"), "train-000001.idx is not readable"),
        (lambda d: (d / "train-000001.idx").write_bytes((d / "train-000002.idx").read_bytes()), "index says 4 samples"),
        (lambda d: (d / "index.json").write_text("{"), "index.json is damaged"),
        (lambda d: (d / "index.json").write_text('{"format": 9}'), "format 9"),
        (lambda d: (d / "index.json").unlink(), "has no index.json"),
        (lambda d: [path.unlink() for path in d.iterdir()], "is empty"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_damage_is_one_sentence(tmp_path, damage, says):
    write(tmp_path / "set")
    damage(tmp_path / "set")
    with pytest.raises(VeaError, match=says) as caught:
        ShardReader(tmp_path / "set", "train").read(5)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_unknown_split_names_the_nearest(tmp_path):
    write(tmp_path / "set")
    with pytest.raises(VeaError, match="did you mean 'train'"):
        ShardReader(tmp_path / "set", "trian")


def test_split_without_samples_is_refused_by_the_reader(tmp_path):
    write(tmp_path / "set")
    raw = json.loads((tmp_path / "set" / "index.json").read_text())
    raw["splits"]["val"] = {"samples": 0, "shards": []}
    (tmp_path / "set" / "index.json").write_text(json.dumps(raw))
    with pytest.raises(VeaError, match="holds no samples"):
        ShardReader(tmp_path / "set", "val")


def test_checksum_catches_what_sizes_do_not(tmp_path, capsys):
    write(tmp_path / "set")
    assert shards_main(["check", str(tmp_path / "set")]) == 0
    path = tmp_path / "set" / "train-000000.tar"
    offset = int(np.load(path.with_suffix(".idx"))[1, 0])
    data = bytearray(path.read_bytes())
    data[offset : offset + 8] = b"\0" * 8
    path.write_bytes(data)
    problems, _ = check(read_index(tmp_path / "set"))
    assert any("another checksum" in line for line in problems)
    assert any("s0001: the image cannot be decoded" in line for line in problems)
    assert shards_main(["check", str(tmp_path / "set")]) == 1
    assert "2 problems" in capsys.readouterr().out


def test_stats_prints_counts(tmp_path, capsys):
    write(tmp_path / "set", synthetic=True)
    assert shards_main(["stats", str(tmp_path / "set")]) == 0
    text = capsys.readouterr().out
    assert "Tiny (synthetic)" in text and "train: 10 samples, 3 shards" in text and "happy" in text
    assert shards_main(["stats", str(tmp_path / "nothing")]) == 2


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "/abs", "a.b", "name with spaces", "bakery/shop", "x" * 200, "héé", "", "a\nb"]
)
def test_unsafe_keys_become_plain_file_names(tmp_path, key):
    safe = safe_key(key)
    assert safe == safe_key(key) and safe_key(safe) == safe
    assert set(safe) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") and 0 < len(safe) <= 80
    write(tmp_path / "set", {"train": [sample(0, key=key)]})
    assert ShardReader(tmp_path / "set", "train").read(0)[0] == safe
    with tarfile.open(tmp_path / "set" / "train-000000.tar") as tar:
        assert tar.getnames() == [f"{safe}.jpg", f"{safe}.json"]


def test_unsafe_keys_that_look_alike_stay_apart():
    assert len({safe_key(key) for key in ("a.b", "a b", "a/b", "a_b", "a__b")}) == 5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"mood": "hapy"}}, "unknown class 'hapy' .did you mean 'happy'"),
        ({"labels": {"mod": "happy"}}, "no such field .did you mean 'mood'"),
        ({"labels": {"things": ["cow"]}}, "unknown class 'cow'"),
        ({"labels": {"votes": [1.0]}}, "needs 2 numbers"),
        ({"labels": {"votes": [1.0, float("nan")]}}, "needs 2 numbers"),
        ({"labels": {"valence": 7.5}}, "outside 1.0 .. 7.0"),
        ({"labels": {"valence": float("nan")}}, "outside"),
        ({"key": "s0003"}, "occurs twice"),
    ],
)
def test_wrong_samples_are_refused_and_leave_nothing(tmp_path, changes, says):
    with pytest.raises(VeaError, match=says):
        write(tmp_path / "set", {"train": [*(sample(i) for i in range(5)), sample(9, **changes)]})
    assert left_behind(tmp_path) == []


def test_no_samples_at_all_is_an_error(tmp_path):
    with pytest.raises(VeaError, match="no samples were found"):
        write(tmp_path / "set", {"train": []})
    with pytest.raises(VeaError, match="1 skipped, the first: the file is empty"):
        write(tmp_path / "set", {"train": [sample(0, image=b"")]})
    assert left_behind(tmp_path) == []


# -------------------------------------------------------------------------------------------------------------- images


def test_undecodable_images_are_listed_and_printed(tmp_path, capsys):
    good = picture(1)
    bad = {"empty": b"", "text": b"<html>not found</html>", "cut": good[: len(good) // 2]}
    samples = [
        sample(0),
        *(sample(i, key=key, image=data) for i, (key, data) in enumerate(bad.items(), start=1)),
        Skipped("gone", "the image file is missing: x.jpg"),
    ]
    index = write(tmp_path / "set", {"train": samples})
    assert index.splits["train"]["samples"] == 1
    reasons = {entry["key"]: entry["reason"] for entry in index.raw["skipped"]}
    assert set(reasons) == {*bad, "gone"}
    assert reasons["empty"] == "the file is empty" and reasons["text"] == "not an image that can be read"
    assert "truncated" in reasons["cut"].lower() and "missing" in reasons["gone"]
    printed = capsys.readouterr().err
    assert all(f"skipped {key}: {reason}" in printed for key, reason in reasons.items())


def test_kept_formats_keep_their_bytes_and_get_the_true_extension(tmp_path):
    images = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
    samples = [sample(i, image=picture(i, form=form), extension="jpeg") for i, form in enumerate(images)]
    write(tmp_path / "set", {"train": samples})
    with tarfile.open(tmp_path / "set" / "train-000000.tar") as tar:
        assert [name for name in tar.getnames() if not name.endswith("json")] == [
            f"s{i:04d}.{extension}" for i, extension in enumerate(images.values())
        ]
        assert tar.extractfile("s0001.png").read() == samples[1].image


@pytest.mark.parametrize(("form", "mode"), [("BMP", "RGB"), ("GIF", "P"), ("TIFF", "CMYK"), ("PPM", "L")])
def test_other_formats_become_jpeg(tmp_path, form, mode):
    write(tmp_path / "set", {"train": [sample(0, image=picture(0, form=form, mode=mode), extension=form.lower())]})
    _, data, _ = ShardReader(tmp_path / "set", "train").read(0)
    image = Image.open(io.BytesIO(data))
    assert image.format == "JPEG" and image.size == (24, 16) and image.mode in ("L", "RGB")


def test_max_side_scales_image_and_boxes(tmp_path):
    big = sample(0, image=picture(0, size=(100, 50)), person_boxes=[[10.0, 20.0, 90.0, 50.0]])
    small = sample(1, person_boxes=[[1.0, 2.0, 3.0, 4.0]])
    write(tmp_path / "set", {"train": [big, small]}, max_side=40)
    reader = ShardReader(tmp_path / "set", "train")
    _, data, metadata = reader.read(0)
    assert Image.open(io.BytesIO(data)).size == (40, 20)
    assert metadata["person_boxes"] == [[4.0, 8.0, 36.0, 20.0]]
    assert reader.read(1)[1] == small.image and reader.read(1)[2]["person_boxes"] == small.person_boxes


def test_reencoding_shows_the_image_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    write(tmp_path / "set", {"train": [sample(0, image=picture(0, size=(80, 40), exif=exif))]}, max_side=40)
    _, data, _ = ShardReader(tmp_path / "set", "train").read(0)
    assert Image.open(io.BytesIO(data)).size == (20, 40)


def test_sixteen_bits_and_transparency_become_eight_bit_pictures():
    grey = io.BytesIO()
    Image.fromarray((np.arange(64 * 32, dtype=np.uint16) * 32).reshape(32, 64)).save(grey, "PNG")
    ready = writer.prepare_image(sample(0, image=grey.getvalue()), max_side=32, quality=95)
    values = np.asarray(Image.open(io.BytesIO(ready.image)))
    assert values.min() < 12 and values.max() > 240, "scaled, not clipped"
    clear = io.BytesIO()
    Image.new("RGBA", (64, 32), (255, 0, 0, 0)).save(clear, "PNG")
    ready = writer.prepare_image(sample(0, image=clear.getvalue()), max_side=32, quality=95)
    assert np.asarray(Image.open(io.BytesIO(ready.image))).min() > 250, "transparent is white"


# ----------------------------------------------------------------------------------------------------------- atomicity


def test_existing_set_is_kept_unless_told(tmp_path):
    write(tmp_path / "set")
    before = {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir()}
    with pytest.raises(VeaError, match="--overwrite"):
        write(tmp_path / "set", {"train": [sample(99)]})
    assert {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir()} == before
    with pytest.raises(VeaError, match="occurs twice"):
        write(tmp_path / "set", {"train": [sample(99), sample(99)]}, overwrite=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "set").iterdir()} == before, (
        "a failed overwrite changes nothing"
    )
    write(tmp_path / "set", {"train": [sample(99)]}, overwrite=True)
    assert ShardReader(tmp_path / "set", "train").read(0)[0] == "s0099"
    assert left_behind(tmp_path) == ["set"]


def test_foreign_folder_and_file_are_never_touched(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"precious")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(VeaError, match="not a prepared data set"):
        write(tmp_path / "photos", overwrite=True)
    with pytest.raises(VeaError, match="is a file"):
        write(tmp_path / "file", overwrite=True)
    assert (tmp_path / "photos" / "a.jpg").read_bytes() == b"precious"


def test_second_writer_is_refused(tmp_path):
    def while_writing(i):
        if i == 1:
            with pytest.raises(VeaError, match=r"this process is writing .*already"):
                write(tmp_path / "set")
        return sample(i)

    records = Records(["s0000", "s0001"], while_writing)
    assert write(tmp_path / "set", {"train": records}).splits["train"]["samples"] == 2
    assert left_behind(tmp_path) == ["set"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def counted(splits, loaded: list[str], *, dies_at: str = ""):
    """Records that note what was loaded; the one with the key ``dies_at`` kills its process."""

    def of(samples):
        def load(i):
            if samples[i].key == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            loaded.append(samples[i].key)
            return samples[i]

        return Records([sample.key for sample in samples], load)

    return {split: of(samples) for split, samples in splits.items()}


def example_splits():
    """Three shards of train, of which one has a hole, and one of val."""
    train = [sample(i) if i != 5 else sample(i, image=b"") for i in range(10)]
    return {"train": train, "val": [sample(i) for i in range(10, 13)]}


def test_processes_and_parts_write_the_same_bytes(tmp_path):
    alone = write(tmp_path / "alone", example_splits())
    assert [shard["samples"] for shard in alone.splits["train"]["shards"]] == [4, 3, 2], "records decide, not luck"
    write(tmp_path / "jobs", example_splits(), jobs=3)
    assert files_of(tmp_path / "jobs") == files_of(tmp_path / "alone")
    for part in (3, 1, 1, 2):  # in any order; one of them twice
        assert not (tmp_path / "parts").exists(), "seen only when it is whole"
        index = write(tmp_path / "parts", example_splits(), part=(part, 3))
        assert (index is None) == (part != 2)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "alone")
    assert left_behind(tmp_path) == ["alone", "jobs", "parts"]


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    write(tmp_path / "whole", example_splits())
    life = multiprocessing.get_context("fork").Process(
        target=lambda: write(tmp_path / "set", counted(example_splits(), [], dies_at="s0009"))
    )
    life.start()
    life.join()
    assert life.exitcode == -signal.SIGKILL and not (tmp_path / "set").exists()
    loaded: list[str] = []
    write(tmp_path / "set", counted(example_splits(), loaded))
    assert loaded == ["s0008", "s0009", "s0010", "s0011", "s0012"], "two complete shards are not read again"
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole"), "the hole of the first life is still listed"
    assert left_behind(tmp_path) == ["set", "whole"]


def test_a_killed_writing_process_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match="a writing process was killed"):
        write(tmp_path / "set", counted(example_splits(), [], dies_at="s0009"), jobs=2)
    assert write(tmp_path / "set", counted(example_splits(), []), jobs=2).splits["train"]["samples"] == 9


def test_other_options_start_anew_and_other_parts_are_refused(tmp_path):
    write(tmp_path / "set", example_splits(), part=(1, 2))
    with pytest.raises(VeaError, match="parts of another preparation"):
        write(tmp_path / "set", example_splits(), part=(2, 2), quality=50)
    with pytest.raises(VeaError, match="no part 3 of 2"):
        write(tmp_path / "set", example_splits(), part=(3, 2))
    loaded: list[str] = []
    write(tmp_path / "set", counted(example_splits(), loaded), quality=50)
    assert len(loaded) == 13 and left_behind(tmp_path) == ["set"]


def test_two_parts_that_end_together_make_one_data_set(tmp_path):
    context = multiprocessing.get_context("fork")
    parts = [
        context.Process(target=lambda part=part: write(tmp_path / "set", example_splits(), part=(part, 4)))
        for part in (1, 2, 3, 4)
    ]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    assert [part.exitcode for part in parts] == [0] * 4
    write(tmp_path / "alone", example_splits())
    assert files_of(tmp_path / "set") == files_of(tmp_path / "alone")
    assert left_behind(tmp_path) == ["alone", "set"]


def test_rest_of_a_killed_run_is_cleared(tmp_path):
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "train-000007.tar").write_bytes(b"half")
    (tmp_path / ".set.lock").write_text("")
    write(tmp_path / "set")
    assert left_behind(tmp_path) == ["set"]
    assert not (tmp_path / "set" / "train-000007.tar").exists()


def test_full_disk_keeps_whole_shards_and_the_next_run_goes_on(tmp_path, monkeypatch):
    written = 0
    real = writer._ShardWriter._write

    def until_full(self, data):
        nonlocal written
        written += len(data)
        if written > 15_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(writer._ShardWriter, "_write", until_full)
        with pytest.raises(RunError, match=r"no space left on the disk for .*; 1 complete shards are kept") as caught:
            write(tmp_path / "set", example_splits())
    assert caught.value.exit_code == 1
    assert left_behind(tmp_path) == [".set.partial"]
    assert sorted(path.name for path in (tmp_path / ".set.partial").iterdir()) == [
        ".plan", "train-000000.idx", "train-000000.tar"
    ]  # fmt: skip
    write(tmp_path / "set", example_splits())
    write(tmp_path / "whole", example_splits())
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_images_too_large_are_refused_before_decoding(tmp_path, monkeypatch):
    huge = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(huge, "PNG")
    long = io.BytesIO()
    Image.new("1", (30_000, 10)).save(long, "PNG")
    samples = [sample(0, image=data.getvalue()) for data in (huge, long)]
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    for large in samples:
        with pytest.raises(ValueError, match=r"refused before decoding|exceeds limit"):
            writer.prepare_image(large, max_side=512, quality=90)


@pytest.mark.parametrize("options", [{"shard_size": 0}, {"quality": 0}, {"quality": 101}, {"max_side": 0}, {"jobs": 0}])
def test_options_out_of_range(tmp_path, options):
    with pytest.raises(VeaError, match="sizes start at 1"):
        write(tmp_path / "set", **options)
