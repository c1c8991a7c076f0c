"""The loaders: a global batch depends on (seed, step, batch size) only, and nothing is lost or read twice."""

import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from vea.commands import loader as loader_cli
from vea.config import AugmentConfig, DataConfig, DatasetRef, PretrainConfig, RecogniseConfig, TrainConfig
from vea.data.loading import loader
from vea.data.loading.loader import EvalPlaces, eval_loader, train_loader
from vea.data.sample import Sample
from vea.data.shards.index import read_index
from vea.data.shards.plan import write_dataset
from vea.data.shards.sidecars import index_checksum
from vea.errors import VeaError
from vea.storage.identity import teacher_identity
from vea.tasks.items import item_spec
from vea.taxonomy.fields import LabelField, merged_fields

FIELDS = {
    "expression": LabelField("class", ("happy", "sad", "fear")),
    "tags": LabelField("multilabel", ("a", "b")),
    "votes": LabelField("distribution", ("x", "y")),
    "valence": LabelField("value", low=-1, high=1),
}


def picture(n: int) -> bytes:
    """A PNG whose first channel grows to the right and whose third says which sample it is."""
    image = np.zeros((24, 32, 3), np.uint8)
    image[..., 2] = np.arange(32) * 8  # OpenCV's order: red
    image[..., 0] = n % 256
    return cv2.imencode(".png", image)[1].tobytes()


def sample(n: int, prefix: str = "s") -> Sample:
    labels: dict = {"expression": FIELDS["expression"].classes[n % 3], "valence": n / 1000}
    if n % 4 == 0:
        labels = {"tags": ["b"], "votes": [1, 3]}
    return Sample(f"{prefix}{n:04d}", picture(n), "png", labels, [f"caption {n}"], [[8, 4, 24, 20]])


def write(folder, count: int, *, prefix: str = "s", fields=FIELDS, split: str = "train"):
    samples = (sample(n, prefix) for n in range(count))
    write_dataset({split: samples}, folder, name=folder.name, title="", fields=fields, card=None, synthetic=True,
                  shard_size=17)  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("loader") / "set", 101)


def break_images(root: str, keys: set[str], split: str = "train") -> None:
    """Overwrites the image bytes of ``keys`` in the tars."""
    index = read_index(root)
    for shard in index.splits[split]["shards"]:
        path = index.root / shard["file"]
        content = bytearray(path.read_bytes())
        for image_at, size, json_at, json_size in np.load(path.with_suffix(".idx")).tolist():
            if any(f'"{key}"'.encode() in content[json_at : json_at + json_size] for key in keys):
                content[image_at : image_at + size] = bytes(size)
        path.write_bytes(content)


def config(*refs, recipe=PretrainConfig, workers=0, batch=8, readers=4, seed=0, **more):
    refs = [DatasetRef(path=ref) if isinstance(ref, str) else ref for ref in refs]
    return recipe(
        name="test", seed=seed, train=TrainConfig(steps=1), augment=AugmentConfig(image_size=16, scale=(0.5, 1)),
        data=DataConfig(train=refs, global_batch_size=batch, virtual_readers=readers, workers=workers), **more,
    )  # fmt: skip


def steps(settings, *, start=0, count=3, world=1, micro=3) -> list[dict]:
    """Returns the global batches of ``count`` steps, put together from all ranks and micro-batches."""
    local = settings.data.global_batch_size // world
    ranks = [
        train_loader(settings, item_spec(settings), start_step=start, micro_batch=micro, rank=rank, world_size=world)
        for rank in range(world)
    ]
    whole = []
    for _ in range(count):
        parts: list[dict] = []
        for rank in ranks:
            taken = 0
            while taken < local:
                parts.append(next(rank))
                taken += len(parts[-1]["keys"])
            assert taken == local
        whole.append(joined(parts))
    for rank in ranks:
        rank.close()
    return whole


def joined(parts: list[dict]) -> dict:
    def join(values):
        if isinstance(values[0], torch.Tensor):
            return torch.cat(values)
        if isinstance(values[0], dict):
            return {name: join([value[name] for value in values]) for name in values[0]}
        return list(itertools.chain(*values))

    return {name: join([part[name] for part in parts]) for name in parts[0]}


def assert_equal(one: dict, two: dict) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.allclose(value, two[name], rtol=0, atol=0, equal_nan=True), name
        elif isinstance(value, dict):
            assert_equal(value, two[name])
        else:
            assert value == two[name], name


# ------------------------------------------------------------------------------------------------------------ training


def test_a_global_batch_does_not_depend_on_ranks_workers_or_micro_batches(data):
    expected = steps(config(data), start=5)
    assert [batch["slot"].tolist() for batch in expected] == [list(range(8))] * 3
    for world, workers, micro in [(1, 2, 8), (2, 1, 3), (4, 2, 1)]:
        found = steps(config(data, workers=workers), start=5, world=world, micro=micro)
        for one, two in zip(expected, found, strict=True):
            assert_equal(one, two)  # keys, pixels, masks, text: the whole batch


def test_a_resume_continues_exactly(data):
    whole = steps(config(data), count=30)  # 240 draws of 101 samples: more than two passes
    for start in (1, 13, 26):
        for one, two in zip(whole[start : start + 4], steps(config(data), start=start, count=4), strict=True):
            assert_equal(one, two)


def test_every_sample_once_per_pass_of_its_reader(data):
    keys = [key for batch in steps(config(data, batch=4), count=75) for key in batch["keys"]]
    for reader in range(4):
        mine = keys[reader::4]
        length = 101 * (reader + 1) // 4 - 101 * reader // 4
        for number in range(75 // length):
            assert len(set(mine[number * length : (number + 1) * length])) == length


def test_pretraining_batches(data):
    batch = steps(config(data), count=1)[0]
    assert batch["scene"].dtype == batch["person"].dtype == torch.uint8
    assert batch["scene"].shape == batch["person"].shape == (8, 3, 16, 16)
    assert batch["has_person"].dtype == torch.bool and batch["has_person"].all()
    assert batch["noise"].shape == (8, 2, 1) and batch["noise"].dtype == torch.float32
    assert batch["text"] == [f"caption {int(key[1:])}" for key in batch["keys"]]
    assert batch["valid"].all() and batch["replaced"] == []
    for name in ("scene", "person"):  # the picture belongs to its key
        assert batch[name][:, 2].float().mean((1, 2)).tolist() == [int(key[1:]) for key in batch["keys"]]
    to_left = [(batch[name][:, 0, :, 0] > batch[name][:, 0, :, -1]).all(1).tolist() for name in ("scene", "person")]
    assert to_left[0] == to_left[1]


def test_the_masks_are_uniform_and_differ_by_step_slot_and_view(data):
    settings = config(data)
    settings.model.encoder.args = {"patch_size": 2}
    first, second = (batch["noise"] for batch in steps(settings, count=2))
    assert first.shape == (8, 2, 64)
    rows = torch.cat([first.flatten(0, 1), second.flatten(0, 1)])
    assert len({tuple(row.tolist()) for row in rows}) == 32
    assert rows.min() >= 0 and rows.max() < 1 and abs(rows.mean() - 0.5) < 0.02


def test_labels(data):
    batch = steps(config(data, recipe=RecogniseConfig, targets=dict.fromkeys(FIELDS, 1.0)), count=4)
    batch = joined(batch)
    assert batch["image"].shape == (32, 3, 16, 16)
    columns = [batch["labels"][name] for name in FIELDS]
    for key, expression, tags, votes, valence in zip(batch["keys"], *columns, strict=True):
        n = int(key[1:])
        if n % 4:
            assert expression == n % 3 and valence == pytest.approx(n / 1000) and tags.tolist() == [0, 0]
            assert votes.isnan().all()
        else:
            assert expression == -1 and valence.isnan() and tags.tolist() == [0, 1] and votes.tolist() == [0.25, 0.75]
    assert batch["labels"]["expression"].dtype == torch.int64
    assert {batch["labels"][name].dtype for name in ("tags", "votes", "valence")} == {torch.float32}


def test_grey_images_for_a_grey_network(data):
    settings = config(data, recipe=RecogniseConfig)
    settings.model.channels = 1
    assert steps(settings, count=1)[0]["image"].shape == (8, 1, 16, 16)


def test_a_mixture_has_its_weights_and_fractions(data, tmp_path):
    other = write(tmp_path / "other", 40, prefix="o")
    refs = [DatasetRef(path=data, weight=3, fraction=0.3), DatasetRef(path=other, weight=1)]
    keys = [key for batch in steps(config(*refs, batch=32, readers=16), count=64) for key in batch["keys"]]
    counts = Counter(key[0] for key in keys)
    assert counts["s"] / len(keys) == pytest.approx(0.75, abs=0.02)
    assert len({key for key in keys if key[0] == "s"}) == 30
    assert len({key for key in keys if key[0] == "o"}) == 40


def test_sets_that_disagree_about_a_label_are_refused(data, tmp_path):
    others = [LabelField("class", ("happy", "fear", "sad")), LabelField("multilabel", ("happy",))]
    for number, field in enumerate(others):
        unlabelled = {"train": [Sample("k", picture(0), "png")]}
        out = tmp_path / f"bad{number}"
        bad = write_dataset(unlabelled, out, name="bad", title="", fields={"expression": field}, card=None)
        with pytest.raises(VeaError, match="cannot be mixed") as caught:
            steps(config(data, str(bad.root), recipe=RecogniseConfig))
        assert data in str(caught.value) and str(bad.root) in str(caught.value)


def test_sets_need_to_agree_only_about_what_is_learned_and_on_its_scale():
    low, high, mood = LabelField("value", (), 1, 7), LabelField("value", (), -1, 1), FIELDS["expression"]
    fields = {"a": {"valence": low, "mood": mood}, "b": {"valence": high, "mood": mood}}
    with pytest.raises(VeaError, match=r"a and b cannot be mixed: 'valence' goes from 1 to 7 .* from -1 to 1"):
        merged_fields(fields)
    assert merged_fields(fields, used=["mood"]) == fields["a"]


def test_a_corrupt_image_is_replaced_and_shifts_nothing(tmp_path, caplog):
    root = write(tmp_path / "set", 40)
    expected = steps(config(root), count=10)
    bad = {"s0003", "s0004", "s0021"}
    break_images(root, bad)
    with caplog.at_level(logging.WARNING, "vea.data"):
        found = steps(config(root), count=10)
    seen = []
    for before, after in zip(expected, found, strict=True):
        assert not bad & set(after["keys"])
        for key, other in zip(before["keys"], after["keys"], strict=True):
            assert key == other or key in bad
        seen += after["replaced"]
    assert set(seen) == bad
    assert len(caplog.records) == 3  # each is told once, however often it is met
    for one, two in zip(found, steps(config(root, workers=2), count=10, world=2), strict=True):
        assert_equal(one, two)


def test_only_corrupt_images_end_the_run_with_a_sentence(tmp_path):
    root = write(tmp_path / "set", 12)
    break_images(root, {f"s{n:04d}" for n in range(12)})
    for workers in (0, 1):
        with pytest.raises(VeaError, match="in a row cannot be decoded") as caught:
            steps(config(root, workers=workers), count=1)
        assert "Traceback" not in str(caught.value)


def test_mistakes_are_sentences(data):
    with pytest.raises(VeaError, match="not a multiple of the 3 ranks"):
        train_loader(config(data), item_spec(config(data)), start_step=0, micro_batch=1, rank=0, world_size=3)
    with pytest.raises(VeaError, match=r"data\.train"):
        steps(config())
    with pytest.raises(VeaError, match=r"no label 'expresion'.*expression"):
        steps(config(data, recipe=RecogniseConfig, targets={"expresion": 1.0}))
    settings = config(data)
    settings.model.encoder.args = {"patch_size": 5}
    with pytest.raises(VeaError, match="not a multiple of the encoder's patch size"):
        steps(settings)


@pytest.mark.parametrize("views", ["pretrain", "classify"])
def test_batches_that_are_kept_are_not_overwritten(data, views):
    def batches(workers):
        settings = config(data, workers=workers)
        return train_loader(settings, item_spec(settings), start_step=0, micro_batch=3, rank=0, world_size=1)

    one, two = batches(2), batches(0)
    kept = [next(one) for _ in range(30)]  # more than there are buffers
    for _ in range(5):
        next(one)
    for batch in kept:
        assert_equal(batch, next(two))
    one.close()


def test_a_batch_on_its_way_can_be_pinned(data, monkeypatch):
    """On a GPU, DataLoader pins every tensor of what a worker sent; here without one."""
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(tuple(self.shape)) or self)
    made = loader._Made(["scene", "person"], torch.zeros(2, 3, 3, 4, 4), {"slot": torch.zeros(3)}, [])
    batch = pin_memory(made, None).batch()
    assert sorted(pinned) == [(2, 3, 3, 4, 4), (3,)] and batch.keys() == {"scene", "person", "slot"}


def test_a_loader_leaves_torchs_generator_alone(data):
    torch.manual_seed(3)
    expected = torch.rand(1)
    for workers in (0, 1):
        torch.manual_seed(3)
        steps(config(data, workers=workers), count=1)
        assert torch.rand(1) == expected


def test_workers_outlive_the_signals_that_ask_the_trainer_to_save(data):
    batches = train_loader(
        config(data, workers=1), item_spec(config(data, workers=1)), start_step=0, micro_batch=8, rank=0, world_size=1
    )
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        os.kill(worker.pid, number)
    assert len([next(batches) for _ in range(12)]) == 12
    assert worker.is_alive()
    batches.close()
    worker.join(5)
    assert not worker.is_alive()


def test_a_script_that_still_holds_a_loader_ends_at_once(data):
    script = f"""
from vea.config import *
from vea.data.loading.loader import train_loader
from vea.tasks.items import item_spec
data = DataConfig(train=[DatasetRef(path={data!r})], global_batch_size=8, virtual_readers=4, workers=2)
config = PretrainConfig(name="x", data=data, train=TrainConfig(steps=1), augment=AugmentConfig(image_size=16))
batches = train_loader(config, item_spec(config), start_step=0, micro_batch=8, rank=0, world_size=1)
print(len(next(batches)["keys"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "8\n", done.stderr


def test_cached_teacher_embeddings(data, tmp_path):
    root = write(tmp_path / "set", 40)
    settings = config(root)
    settings.teacher.cache = "image"
    with pytest.raises(VeaError, match="teacher_image"):
        steps(settings, count=1)
    index = read_index(root)
    folder = index.root / "sidecars" / "teacher_image"
    folder.mkdir(parents=True)
    meta = {"format": 1, "pass": "teacher-image", "index_sha256": index_checksum(index), "suffix": ".npy"}
    (folder / "meta.json").write_text(json.dumps({**meta, "options": {}, "model": teacher_identity(settings.teacher)}))
    first = 0
    for shard in index.splits["train"]["shards"]:
        rows = np.arange(first, first + shard["samples"], dtype=np.float16)[:, None].repeat(4, 1)
        np.save((folder / shard["file"]).with_suffix(".npy"), rows)
        first += shard["samples"]
    for batch in steps(settings, count=5):
        assert batch["teacher_image"].dtype == torch.float32 and batch["teacher_image"].shape == (8, 4)
        assert batch["teacher_image"][:, 0].tolist() == [int(key[1:]) for key in batch["keys"]]


# ---------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("workers", "batch_size"), [(0, 8), (2, 8), (0, 1000)])
def test_evaluation_reads_every_sample_once_in_order(data, world, workers, batch_size):
    settings = config(recipe=RecogniseConfig, workers=workers)
    refs = [DatasetRef(path=data), DatasetRef(path=data, fraction=0.1)]
    ranks = [
        list(eval_loader(settings, item_spec(settings), refs=refs, batch_size=batch_size, rank=rank, world_size=world))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert len({batch["image"].shape for batches in ranks for batch in batches}) == 1
    keys = []
    for batches in zip(*ranks, strict=True):
        for batch in batches:
            assert batch["valid"].dtype == torch.bool
            assert (batch["labels"]["expression"][~batch["valid"]] == -1).all()
            keys += itertools.compress(batch["keys"], batch["valid"].tolist())
    assert keys[:101] == [f"s{n:04d}" for n in range(101)]
    assert len(keys) == 111 and keys[101:] == sorted(set(keys[101:]))


def test_sets_in_turn_are_a_whole_pass_too(tmp_path):
    sizes = {"a": 2, "b": 20, "c": 5}
    refs = [DatasetRef(path=write(tmp_path / name, size, prefix=name)) for name, size in sizes.items()]
    batches = eval_loader(config(), item_spec(config()), refs=refs, batch_size=6, rank=0, world_size=1, in_turn=True)
    whole = joined(list(batches))
    keys = list(itertools.compress(whole["keys"], whole["valid"].tolist()))
    assert keys[:8] == ["a0000", "b0000", "c0000", "a0001", "b0001", "c0001", "b0002", "c0002"]
    assert sorted(keys) == sorted(f"{name}{n:04d}" for name, size in sizes.items() for n in range(size))


def test_evaluation_places_for_many_sizes():
    for num_samples, batch_size, world in itertools.product([1, 2, 7, 16, 100], [1, 3, 16], [1, 2, 3, 8]):
        ranks = [
            list(EvalPlaces(num_samples=num_samples, batch_size=batch_size, rank=rank, world_size=world))
            for rank in range(world)
        ]
        assert len({len(batches) for batches in ranks}) == 1
        numbers = sorted(number for batches in ranks for batch in batches for _, number in batch)
        assert numbers == list(range(len(numbers))) and num_samples <= len(numbers)
        assert len(numbers) < num_samples + batch_size * world


def test_evaluation_leaves_corrupt_images_out(tmp_path, caplog):
    root = write(tmp_path / "set", 20)
    break_images(root, {"s0007"})
    refs = [DatasetRef(path=root)]
    whole = joined(list(eval_loader(config(), item_spec(config()), refs=refs, batch_size=6, rank=0, world_size=1)))
    assert whole["replaced"] == ["s0007"] and whole["keys"][7] == "s0007"
    assert [n for n in range(20) if not whole["valid"][n]] == [7]
    assert "s0007" in caplog.text


def test_evaluation_masks_do_not_depend_on_the_batch_size(data):
    refs = [DatasetRef(path=data)]
    one, two = (
        joined(list(eval_loader(config(), item_spec(config()), refs=refs, batch_size=size, rank=0, world_size=1)))
        for size in (7, 50)
    )
    assert torch.equal(one["noise"][:101], two["noise"][:101]) and torch.equal(one["scene"][:101], two["scene"][:101])


# ------------------------------------------------------------------------------------------------------------- command


def test_loader_keys_prints_the_same_lines_for_any_world_and_workers(data, tmp_path, capsys):
    from vea.config import to_yaml

    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config(data)))
    printed = []
    for world, workers in [(1, 0), (1, 2), (2, 1), (4, 2)]:
        arguments = f"--start 9 --steps 4 --world {world} --workers {workers}".split()
        assert loader_cli.main(["keys", str(path), *arguments]) == 0
        printed.append(capsys.readouterr().out)
    assert len(set(printed)) == 1
    lines = [line.split("\t") for line in printed[0].splitlines()]
    assert [line[0] for line in lines] == ["9", "10", "11", "12"]
    assert [line[1:] for line in lines] == [batch["keys"] for batch in steps(config(data), start=9, count=4)]
    assert loader_cli.main(["keys", str(path), "--world", "3"]) == 2
    assert "not a multiple of the 3 ranks" in capsys.readouterr().err
