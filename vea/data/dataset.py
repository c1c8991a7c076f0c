"""A split of a prepared data set as a torch Dataset, for loops of one's own; vea's recipes use ``vea.data.loading``."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping
from typing import Any, SupportsIndex

import torch
from PIL import Image
from torch.utils.data import Dataset

from vea.data.loading.collate import LabelEncoder
from vea.data.shards.index import Index, read_index
from vea.data.shards.reader import ShardReader
from vea.data.views.decode import CorruptImage, decode
from vea.errors import VeaError
from vea.taxonomy.fields import LabelField

Transform = Callable[[Image.Image], Any]


class EmotionDataset(Dataset[dict[str, Any]]):
    """One split, in the order in which it was written; made by ``open_dataset``.

    ``dataset[i]`` is ``{"image", "labels", "key"}``. It survives ``pickle`` and ``fork``: DataLoader may have workers.
    """

    def __init__(self, reader: ShardReader, *, transform: Transform | None = None, encode: bool = False) -> None:
        self.reader, self.transform = reader, transform
        self._encoder = LabelEncoder(reader.index.fields) if encode else None

    def __len__(self) -> int:
        return len(self.reader)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.reader.root)!r}, split={self.split!r}, {len(self)} samples)"

    @property
    def index(self) -> Index:
        """What ``index.json`` says: name, title, splits, whether the pictures are drawn."""
        return self.reader.index

    @property
    def split(self) -> str:
        """The name of the split."""
        return self.reader.split

    @property
    def fields(self) -> dict[str, LabelField]:
        """The labels by name: their kind, and their classes in order."""
        return self.reader.index.fields

    def metadata(self, i: SupportsIndex) -> dict[str, Any]:
        """Returns what is known of sample ``i`` but its pixels: ``id, labels, text, person_boxes, source, split``."""
        return self.reader.read(self._place(i))[2]

    def __getitem__(self, i: SupportsIndex) -> dict[str, Any]:
        """Returns sample ``i``; below 0 it counts from the end.

        Raises:
            IndexError: there is no such sample.
            VeaError: its image or its metadata is damaged.
        """
        key, data, metadata = self.reader.read(self._place(i))
        try:
            image: Any = decode(data)
        except CorruptImage as error:
            raise VeaError(
                f"{self.reader.root}: sample {key!r} cannot be decoded ({error}); `vea shards check` lists such samples"
            ) from None
        if self.transform is not None:
            image = self.transform(Image.fromarray(image))
        return {"image": image, "labels": self._labels(metadata.get("labels") or {}, key=key), "key": key}

    def _labels(self, labels: Mapping[str, Any], *, key: str) -> dict[str, Any]:
        if self._encoder is None:
            return dict(labels)
        arrays = self._encoder.encode(labels, key=key, known=self.fields)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _place(self, i: SupportsIndex) -> int:
        try:
            number = operator.index(i)
        except TypeError:
            raise TypeError(f"a sample has a whole number, not {type(i).__name__}") from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        return number % len(self)


def open_dataset(
    path: str | os.PathLike[str], split: str = "train", *, transform: Transform | None = None, encode: bool = False
) -> EmotionDataset:
    """Returns one split of a prepared data set as a torch Dataset.

    Args:
        path: its folder or ``index.json``, or the URL of either (http, https, s3); shards are fetched when first read.
        split: a name in its index.
        transform: called with the decoded picture, a PIL image in mode RGB, as torchvision's, timm's and open_clip's
            transforms are. None: ``image`` is an array, RGB uint8 (H, W, 3).
        encode: labels as tensors of fixed shape instead of words, every field of the set in each sample: class int64
            () with -1 for missing, label sets and distributions float32 (C,) and values float32 () with NaN.

    Raises:
        VeaError: there is no such data set or split, or its files are not those that its index names.
        RunError: a server does not answer.
    """
    return EmotionDataset(ShardReader(os.fspath(path), split), transform=transform, encode=encode)


def as_webdataset(
    path: str | os.PathLike[str], split: str = "train", *, shuffle: int = 0, decode: str | None = None, **options: Any
) -> Any:
    """Returns one split of a prepared set as a ``webdataset.WebDataset``, for pipelines of other libraries.

    Samples are dicts of ``__key__``, the encoded picture under its extension, and ``json``, its labels and texts. Add
    steps as to any: ``vea.as_webdataset("data/x", decode="pil").to_tuple("jpg;png;webp", "json")``.

    Args:
        path: folder, ``index.json`` or URL of a prepared set; a remote one is streamed, not kept.
        split: a name in its index.
        shuffle: samples of webdataset's shuffle buffer, and its shards in any order; 0: in the order of the index.
        decode: passed to ``.decode``, such as ``"pil"`` or ``"torchrgb"``; None: bytes.
        options: of ``webdataset.WebDataset``. Nodes share the shards unless ``nodesplitter`` says otherwise.

    Raises:
        VeaError: there is no such data set or split.
    """
    import webdataset

    from vea.data.streams.urls import register

    register()
    index = read_index(os.fspath(path))
    files = [shard["file"] for shard in index.split(split)["shards"]]
    if index.remote:
        query = f"?{index.remote.query}" if index.remote.query else ""
        urls = [f"{index.remote.url}/{file}{query}" for file in files]
    else:
        urls = [str((index.root / file).resolve()) for file in files]
    given = {"shardshuffle": len(urls) if shuffle else False, "nodesplitter": webdataset.split_by_node}
    if len(urls) < 2:
        given["empty_check"] = False  # a worker without a shard is no fault
    data = webdataset.WebDataset(urls, **{**given, **options})
    data = data.shuffle(shuffle) if shuffle else data
    return data.decode(decode) if decode else data
