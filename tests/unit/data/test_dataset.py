"""``vea.open_dataset``: what a loop of one's own reads from a prepared set."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import vea
from vea.data import synthetic
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.errors import VeaError
from vea.taxonomy.fields import LabelField

FIELDS = {
    "expression": LabelField("class", ("happy", "sad", "fear")),
    "tags": LabelField("multilabel", ("a", "b")),
    "votes": LabelField("distribution", ("x", "y")),
    "valence": LabelField("value", low=-1, high=1),
}
LABELS = [{"expression": "fear", "valence": 0.5}, {"tags": ["b"], "votes": [1, 3]}, {}]


def picture(n: int) -> np.ndarray:
    return np.full((20 + n, 30, 3), (n, 2 * n, 3 * n), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("dataset") / "set"
    encoded = [cv2.imencode(".png", picture(n)[..., ::-1])[1].tobytes() for n in range(12)]
    samples = {
        "train": (Sample(f"s{n:03d}", data, "png", LABELS[n % 3], [f"text {n}"]) for n, data in enumerate(encoded)),
    }
    write_dataset(samples, path, name="set", title="", fields=FIELDS, card=None, synthetic=True, shard_size=5)
    return str(path)


def test_a_sample_is_a_decoded_picture_its_labels_and_its_key(folder):
    dataset = vea.open_dataset(folder, "train")
    assert isinstance(dataset, Dataset) and len(dataset) == 12
    for i, sample in enumerate(dataset):
        assert set(sample) == {"image", "labels", "key"}
        np.testing.assert_array_equal(sample["image"], picture(i))
        assert sample["labels"] == LABELS[i % 3] and sample["key"] == f"s{i:03d}"
    assert i == 11
    assert dataset.metadata(3)["text"] == ["text 3"]
    assert dataset.fields == FIELDS and dataset.split == "train" and dataset.index.synthetic


@pytest.mark.parametrize("form", [int, np.int64, lambda i: torch.tensor(i)])
@pytest.mark.parametrize("i", [0, 4, 5, 11, -1, -12])
def test_numbers_of_every_kind_name_a_sample(folder, i, form):
    assert vea.open_dataset(folder, "train")[form(i)]["key"] == f"s{i % 12:03d}"


@pytest.mark.parametrize(("i", "error"), [(12, IndexError), (-13, IndexError), ("s000", TypeError), (1.0, TypeError)])
def test_other_places_are_refused(folder, i, error):
    with pytest.raises(error):
        vea.open_dataset(folder, "train")[i]


def test_a_transform_sees_a_pil_image(folder):
    seen = []

    def transform(image: Image.Image) -> tuple[int, int]:
        seen.append(image.mode)
        return image.size

    assert vea.open_dataset(folder, "train", transform=transform)[2]["image"] == (30, 22)
    assert seen == ["RGB"]


@pytest.mark.parametrize("workers", [0, 2])
def test_encoded_labels_go_through_torchs_own_loader(folder, workers):
    dataset = vea.open_dataset(folder, "train", transform=to_tensor, encode=True)
    batches = list(
        DataLoader(dataset, batch_size=5, num_workers=workers, multiprocessing_context="fork" if workers else None)
    )
    assert [key for batch in batches for key in batch["key"]] == [f"s{n:03d}" for n in range(12)]
    labels = batches[0]["labels"]
    assert labels["expression"].tolist() == [2, -1, -1, 2, -1] and labels["expression"].dtype == torch.int64
    assert labels["tags"][1].tolist() == [0, 1] and labels["votes"][1].tolist() == [0.25, 0.75]
    assert labels["valence"][0] == 0.5 and labels["valence"][1].isnan()
    assert batches[0]["image"].shape == (5, 3, 8, 8)


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.resize((8, 8)))).permute(2, 0, 1)


def test_it_can_be_pickled_after_it_was_read(folder):
    dataset = vea.open_dataset(folder, "train")
    first = dataset[0]
    again = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(again[0]["image"], first["image"])


def test_a_damaged_picture_is_a_sentence(folder, tmp_path):
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    offsets = np.load(copy / "train-000000.idx")
    with (copy / "train-000000.tar").open("r+b") as file:
        file.seek(int(offsets[1, 0]))
        file.write(b"\0" * int(offsets[1, 1]))
    dataset = vea.open_dataset(copy, "train")
    assert dataset[0]["key"] == "s000" and dataset[2]["key"] == "s002"
    with pytest.raises(VeaError, match="'s001' cannot be decoded"):
        dataset[1]


def test_mistakes_are_sentences(folder, tmp_path):
    with pytest.raises(VeaError, match=r"no split 'tran'.*train"):
        vea.open_dataset(folder, "tran")
    with pytest.raises(VeaError, match="no prepared data set"):
        vea.open_dataset(tmp_path / "none", "train")


def test_a_prepared_set_as_webdataset(tmp_path):
    write_dataset({"train": synthetic.samples(10, size=48)}, tmp_path / "set", name="set", title="", card=None,
                  fields=synthetic.FIELDS, synthetic=True, shard_size=4)  # fmt: skip
    rows = list(vea.as_webdataset(tmp_path / "set"))
    whole = vea.open_dataset(tmp_path / "set")
    assert [row["__key__"] for row in rows] == [whole[i]["key"] for i in range(10)]
    assert json.loads(rows[3]["json"]) == whole.metadata(3)
    shuffled = list(vea.as_webdataset(tmp_path / "set", shuffle=100, decode="rgb8").to_tuple("__key__", "jpg;png"))
    assert sorted(key for key, _ in shuffled) == sorted(row["__key__"] for row in rows)
    assert dict(shuffled)[whole[0]["key"]].shape == whole[0]["image"].shape
    with pytest.raises(VeaError, match="no split"):
        vea.as_webdataset(tmp_path / "set", "tset")
