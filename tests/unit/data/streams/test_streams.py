"""Tars as others write them: keyed order, resume in the middle, broken members, sizes known and learned."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest

from vea.config import DatasetRef, load_config
from vea.data import synthetic
from vea.data.loading.loader import eval_loader, train_loader
from vea.data.streams import shard as shards
from vea.data.streams.counts import Counts
from vea.data.streams.shard import Damaged, Missing, left_unread, records
from vea.data.streams.stream import StreamSet
from vea.data.streams.urls import expand, is_stream, stem
from vea.errors import RunError, VeaError
from vea.tasks.items import item_spec

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VEA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def write_tars(folder: Path, sizes: list[int], *, broken: frozenset[int] = frozenset()) -> str:
    """Writes tars of KEY.jpg, KEY.txt, KEY.json, KEY.cls as img2dataset and others do; returns their name in braces."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, size in enumerate(sizes):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for place in range(size):
                sample, key = synthetic.scene(number % 7, size=48), f"{shard:05d}{place:04d}"
                picture = b"\xff\xd8 no picture" if number in broken else sample.image
                add(tar, f"{key}.{'JPG' if number % 2 else sample.extension}", picture)
                add(tar, f"{key}.txt", f"picture {number}".encode())
                add(tar, f"{key}.json", json.dumps({"mood": ["calm", "wild"][number % 2], "n": number}).encode())
                add(tar, f"{key}.cls", str(number % 2).encode())
                number += 1
    return f"{folder}/{{00000..{len(sizes) - 1:05d}}}.tar"


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> str:
    return write_tars(tmp_path_factory.mktemp("tars") / "laion", [7, 5, 9, 6, 8, 4, 7, 10])


def config_of(path: str, *words: str, workers: int = 0, name: str = "pretrain/smoke.yaml"):
    given = [f"data.train=[{{path: '{path}', shuffle: 4}}]", "data.val=[]", "data.global_batch_size=8"]
    fixed = ["data.virtual_readers=4", f"data.workers={workers}", "augment.image_size=32"]
    return load_config(REPOSITORY / "configs" / name, [*given, *fixed, *words])


def keys(config, *, start: int = 0, steps: int = 6, world: int = 1, micro: int = 8) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(steps)]
    local = config.data.global_batch_size // world
    for rank in range(world):
        place = {"start_step": start, "stop_step": start + steps, "rank": rank, "world_size": world}
        batches = train_loader(config, item_spec(config), micro_batch=micro, **place)
        for step in range(steps):
            row: list[str] = []
            while len(row) < local:
                batch = next(batches)
                assert batch["slot"].tolist() == list(
                    range(rank * local + len(row), rank * local + len(row) + len(batch["keys"]))
                )
                row += batch["keys"]
            found[step] += row
        batches.close()
    return found


def test_what_is_a_stream():
    assert all(
        map(is_stream, ["a/{0..3}.tar", "s3://b/1.tar", "http://h/1.tar?sig=x", "pipe:cat a", "a.tar::b.tar", "x.tgz"])
    )
    assert not any(map(is_stream, ["data/set", "http://h/set", "s3://b/set/index.json", "data.target/set"]))
    assert expand("a/{00..02}.tar::b.tar") == ["a/00.tar", "a/01.tar", "a/02.tar", "b.tar"]
    assert stem("pipe:aws s3 cp s3://b/x/00012.tar -") == "00012" and stem("http://h/00001.tar?sig=/a.b") == "00001"
    with pytest.raises(VeaError, match="twice"):
        expand("a.tar::a.tar")


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize("micro", [8, 1])
def test_ranks_and_workers_change_nothing(tars, world, workers, micro):
    alone = keys(config_of(tars))
    assert keys(config_of(tars, workers=workers), world=world, micro=micro) == alone
    assert len({key for row in alone for key in row}) == 48, "6 steps of 8, none twice within a pass"


def test_a_pipe_and_a_file_give_the_same(tars):
    piped = tars.replace(str(Path(tars).parent), f"pipe:cat {Path(tars).parent}")
    assert keys(config_of(piped), steps=20) == keys(config_of(tars), steps=20)


def test_every_sample_comes_once_a_pass(tars):
    rows = keys(config_of(tars), steps=40)
    for reader, size in enumerate([12, 15, 12, 17]):  # two shards each, two draws a step
        drawn = [key for row in rows for key in row[reader * 2 : reader * 2 + 2]]
        assert sorted(drawn[:size]) == sorted(drawn[size : 2 * size]) and len(set(drawn[:size])) == size
        assert drawn[:size] != drawn[size : 2 * size]


@pytest.mark.parametrize("start", [1, 5, 13, 29])
@pytest.mark.parametrize("piped", [False, True])
def test_a_resume_goes_on_and_decodes_nothing_to_skip(tars, start, piped, monkeypatch, cache):
    path = tars.replace(str(Path(tars).parent), f"pipe:cat {Path(tars).parent}") if piped else tars
    whole = keys(config_of(path), steps=start + 2)
    read: list[str] = []
    monkeypatch.setattr(
        "vea.data.streams.stream.member",
        lambda record, suffix: read.append(record.key) or shards.member(record, suffix),
    )
    assert keys(config_of(path), start=start, steps=2) == whole[start:]
    assert set(read) == {key for row in whole[start:] for key in row}, "no member of a skipped sample is read"
    for kept in cache.rglob("*.json"):  # another machine, which has counted nothing
        kept.unlink()
    assert keys(config_of(path), start=start, steps=2) == whole[start:]


def test_shards_of_known_size_are_not_opened(tmp_path, monkeypatch):
    config = config_of(write_tars(tmp_path / "tars", [2] * 40))
    whole = keys(config, steps=12)
    opened: list[str] = []
    monkeypatch.setattr("vea.data.streams.stream.records", lambda url: opened.append(url) or records(url))
    assert keys(config, start=9, steps=1) == whole[9:10]
    assert len(set(opened)) == 8, "the two shards of a window a reader; the others were counted before"


def test_img2dataset_statistics_say_what_can_be_passed_over(tmp_path, monkeypatch):
    sizes = [5, 6, 7, 8]
    path = write_tars(tmp_path / "tars", sizes)
    for shard, size in enumerate(sizes):
        (tmp_path / "tars" / f"{shard:05d}_stats.json").write_text(json.dumps({"count": 10, "successes": size}))
    assert Counts(expand(path)).total() == 26
    (tmp_path / "tars" / "00001_stats.json").write_text(json.dumps({"count": 10, "successes": 9}))
    with pytest.raises(RunError, match=r"00001.tar holds 6 samples, the statistics beside it say 9"):
        keys(config_of(path), steps=8)
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    table = pyarrow.table({"key": list("abcd"), "status": ["success", "failed_to_download", "success", "success"]})
    for shard in range(4):
        (tmp_path / "tars" / f"{shard:05d}_stats.json").unlink()
        parquet.write_table(table, tmp_path / "tars" / f"{shard:05d}.parquet")
    monkeypatch.setenv("VEA_CACHE_DIR", str(tmp_path / "other"))
    assert Counts(expand(path)).total() == 12


def test_fewer_shards_than_readers(tmp_path):
    path = write_tars(tmp_path / "tars", [13])
    rows = keys(config_of(path.replace("{00000..00000}", "00000")), steps=10)
    for reader in range(4):
        drawn = [key for row in rows for key in row[reader * 2 : reader * 2 + 2]]
        size = len(range(reader, 13, 4))
        assert len(set(drawn)) == size and sorted(drawn[:size]) == sorted(drawn[size : 2 * size])


def test_broken_pictures_and_groups_are_counted(tmp_path):
    path = write_tars(tmp_path / "tars", [6, 6, 6, 6], broken=frozenset({2, 9}))
    with tarfile.open(tmp_path / "tars" / "00002.tar", "a") as tar:
        add(tar, "lonely.txt", b"no picture")
    config = config_of(path)
    place = {"start_step": 0, "stop_step": 3, "rank": 0, "world_size": 1, "micro_batch": 8}
    batches = list(train_loader(config, item_spec(config), **place))
    assert {key for batch in batches for key in batch["replaced"]} == {
        "00000_000000002", "00001_000010003", "00002_lonely"}  # fmt: skip
    assert all(batch["valid"].all() and len(batch["keys"]) == 8 for batch in batches)
    again = keys(config_of(path, workers=2), steps=3)
    assert again == [batch["keys"] for batch in batches]


def test_missing_and_cut_shards(tmp_path):
    path = write_tars(tmp_path / "tars", [6, 6, 6, 6])
    (tmp_path / "tars" / "00001.tar").unlink()
    with pytest.raises(VeaError, match=r"1 of 4 shards are missing, first .*00001.tar.*missing_shards"):
        keys(config_of(path))
    allowed = f"data.train=[{{path: '{path}', shuffle: 4, missing_shards: 2}}]"
    with pytest.raises(RunError, match=r"the shards of reader 1 hold no samples \(shard .*00001.tar is missing"):
        keys(config_of(path, allowed))
    data = (tmp_path / "tars" / "00002.tar").read_bytes()
    write_tars(tmp_path / "more", [6] * 8)
    for name, cut in (("00001", None), ("00002", len(data) // 2)):
        (tmp_path / "more" / f"{name}.tar").write_bytes(data[:cut]) if cut else (
            tmp_path / "more" / f"{name}.tar"
        ).unlink()
    path = f"{tmp_path}/more/{{00000..00007}}.tar"
    with pytest.raises(RunError, match=r"00002.tar is damaged after \d samples"):
        keys(
            config_of(
                path,
                allowed.replace(str(tmp_path / "tars"), str(tmp_path / "more"))
                .replace("00003", "00007")
                .replace(": 2", ": 1"),
            ),
            steps=8,
        )
    tolerant = config_of(path, f"data.train=[{{path: '{path}', shuffle: 4, missing_shards: 2}}]")
    rows = keys(tolerant, steps=16)
    assert not any(key.startswith("00001_") for row in rows for key in row)
    assert {key for row in rows for key in row if key.startswith("00002_")} < {f"00002_00002{i:04d}" for i in range(6)}
    assert keys(tolerant, start=9, steps=7) == rows[9:], "a resume knows what the damaged shard gave"


def test_one_shard_in_both_ways_and_its_ends(tmp_path):
    write_tars(tmp_path, [5])
    whole = tmp_path / "00000.tar"
    with tarfile.open(whole, "a") as tar:
        add(tar, "__meta__/x.jpg", b"passed over")
        add(tar, "a/b.c.d.png", b"another name")
        add(tar, "twice.jpg", b"1")
        add(tar, "twice.jpg", b"2")
    piped = [record.key for record in records(f"pipe:cat {whole}")]
    seen = list(records(str(whole)))
    assert [record.key for record in seen] == piped and piped[-1] == "00000_twice"
    assert shards.member(seen[-1], "jpg") == b"1" and "the first one is used" in str(seen[-1].problems)
    data = whole.read_bytes()
    for cut in range(600, seen[-1].members["jpg"][0], 3333):
        short = tmp_path / "short.tar"
        short.write_bytes(data[:cut])
        found = []
        for url in (str(short), f"pipe:cat {short}"):
            found.append([])
            with pytest.raises((Damaged, Missing)):
                for record in records(url):
                    found[-1].append(record.key)
        assert found[0] == found[1], cut
    with pytest.raises(Missing):
        list(records("pipe:false"))
    with pytest.raises(Missing):
        list(records(str(tmp_path / "none.tar")))


def test_what_only_prepared_sets_have(tars):
    for word, expected in [("fraction: 0.5", "has no fraction"), ("persons: p", "remove persons")]:
        with pytest.raises(VeaError, match=expected):
            keys(config_of(tars, f"data.train=[{{path: '{tars}', {word}}}]"))
    config = config_of(tars)
    with pytest.raises(VeaError, match=r"only data\.train takes"):
        eval_loader(config, item_spec(config), refs=config.data.train, batch_size=4, rank=0, world_size=1)


def test_labels_and_texts(tars):
    ref = f"data.train=[{{path: '{tars}', classes: {{mood: [calm, wild]}}}}]"
    config = config_of(tars, ref, name="finetune/expression_synthetic.yaml")
    config.__class__.model_rebuild()
    from vea.data.streams.stream import StreamSet

    stream = StreamSet(config.data.train[0])
    assert stream.fields["mood"].classes == ("calm", "wild")
    record = next(records(stream.urls[0]))
    found = stream._metadata(record)
    assert found["labels"] == {"mood": "calm"} and found["text"] == ["picture 0"]


def test_a_training_run_from_tars(tars, tmp_path, script):
    words = [
        f"data.train=[{{path: '{tars}'}}]",
        "data.val=[]",
        "train.steps=3",
        "train.warmup_steps=0",
        "data.epoch_samples=32",
        f"out={tmp_path / 'run'}",
    ]
    more = ["train.log_every=1", "tracking.backend=none", "data.workers=1"]
    script("pretrain/train.py", "configs/pretrain/smoke.yaml", *words, *more)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert len(trained) == 3 and all(row["epoch"] == row["samples"] / 32 for row in trained)


@pytest.mark.parametrize(
    ("files", "classes", "wanted"),
    [
        ({"cls": b"1"}, {}, {".cls": 3}),
        ({"cls": b"1"}, {"emotion": ["a", "b"]}, {}),
        ({"cls": b"1"}, {"emotion": ["a", "b"], "valence": ["low", "high"]}, {".cls": 3}),
        ({"emotion.cls": b"1", "npy": b"x"}, {}, {".emotion.cls": 3, ".npy": 3}),
        ({"json": b'{"labels": {"emotion": "a", "age": 3, "sex": null}}'}, {"emotion": ["a"]}, {"age of .json": 3}),
        ({"json": b'{"emotion": "a", "width": 3, "url": "x"}'}, {}, {"emotion of .json": 3}),
        ({"json": b'{"emotion": "a"}'}, {"emotion": ["a"]}, {}),
        ({"json": b"[1"}, {}, {}),
        ({"txt": b"a dog"}, {}, {}),
    ],
)
def test_labels_that_nothing_reads_are_said_at_the_start(tmp_path, caplog, files, classes, wanted):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(3):
            add(tar, f"a/k{number}.jpg", b"a picture")
            add(tar, f"a/.k{number}.cls", b"of macOS")
            for suffix, data in files.items():
                add(tar, f"a/k{number}.{suffix}", data)
    url = str(tmp_path / "0.tar")
    assert left_unread(url, classes) == wanted
    with caplog.at_level(logging.WARNING, logger="vea.data"):
        StreamSet(DatasetRef(path=url, classes=classes))
    lines = [record.message for record in caplog.records if "that nothing reads" in record.message]
    assert len(lines) == bool(wanted) and all(f"{what} (3)" in lines[0] for what in wanted)
    assert left_unread(str(tmp_path / "none.tar"), classes) == left_unread("http://a/0.tar", classes) == {}
