"""The items of vea's tasks: two masked views with a text, or one view with its labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from vea.config import DatasetRef, FinetuneConfig, PretrainConfig, RecogniseConfig, RunConfig
from vea.data.loading.collate import Item, LabelEncoder, mask_noise
from vea.data.loading.items import Drawn, ItemMaker, ItemSpec, Place
from vea.data.loading.sets import ShardSet
from vea.data.prompts import prompt
from vea.data.streams.stream import StreamSet
from vea.data.streams.urls import is_stream
from vea.data.views.decode import Encoded
from vea.data.views.person import head_window
from vea.data.views.views import Views
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import merged_fields


def item_spec(config: RunConfig) -> ItemSpec:
    """Returns what the task of ``config`` tells the loaders, without building the task."""
    if isinstance(config, PretrainConfig):
        return PretrainItems(config)
    if isinstance(config, FinetuneConfig):
        return LabelItems(config, channels=config.model.channels if isinstance(config, RecogniseConfig) else 3)
    raise VeaError(f"recipe {config.recipe!r} reads no data")


class PretrainItems:
    """Items of pretraining: ``scene``, ``person``, ``has_person``, ``noise`` (2, N), ``text``, cached embeddings.

    Args:
        config: the resolved config.
        num_patches: N, the patches of a view; None reads it off the encoder's name and arguments.
    """

    def __init__(self, config: PretrainConfig, *, num_patches: int | None = None) -> None:
        self.config, self.num_patches = config, num_patches

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set with the teacher's embeddings that ``teacher.cache`` names."""
        if is_stream(ref.path):
            if self.config.teacher and self.config.teacher.cache != "none":
                raise VeaError(f"{ref.path} is read as a stream, which has no sidecars: set teacher.cache=none")
            return StreamSet(ref)
        return ShardSet(ref, teacher=self.config.teacher, prompts=self.config.prompt)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker."""
        return _PretrainMaker(self.config, num_patches=self.num_patches or infer_num_patches(self.config), train=train)


class _PretrainMaker(ItemMaker):
    def __init__(self, config: PretrainConfig, *, num_patches: int, train: bool) -> None:
        super().__init__(Views(config.augment, seed=config.seed, train=train), num_views=2)
        self.seed, self.prompt, self.train, self.num_patches = config.seed, config.prompt, train, num_patches

    def item(self, drawn: Drawn) -> Item:
        scene, person, has_person = self.views.two(
            drawn.encoded, boxes=drawn.person_boxes(), key=drawn.key, pass_number=drawn.pass_number
        )
        arrays = {"has_person": np.array(has_person), "noise": self._noise(drawn.place)}
        arrays |= drawn.shards.embeddings(drawn.i)
        text = prompt(drawn.metadata, config=self.prompt)
        return Item(drawn.key, drawn.place[1], {"scene": scene, "person": person}, arrays, lists={"text": text})

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        arrays = {"has_person": np.array(False), "noise": self._noise(place)}
        arrays |= {name: np.zeros_like(row) for name, row in shards.embeddings(0).items()}
        return Item(key, place[1], {"scene": image, "person": image}, arrays, lists={"text": ""})

    def _noise(self, place: Place) -> np.ndarray:
        # evaluation: the masks of a sample do not depend on the batch size
        where = place if self.train else ("eval", place[1])
        return mask_noise(self.seed, *where, num_patches=self.num_patches)


class LabelItems:
    """Items of fine-tuning: ``image``, ``labels`` by field, ``texts``.

    Args:
        config: the resolved config; ``config.labels`` are the fields, none stands for all of the sets.
        channels: of the image, 3 or 1 for grey.
    """

    def __init__(self, config: FinetuneConfig, *, channels: int = 3) -> None:
        self.config, self.channels = config, channels

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set."""
        return StreamSet(ref) if is_stream(ref.path) else ShardSet(ref)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker; raises ``VeaError`` where no set has a label that the config names."""
        wanted = self.config.labels
        fields = merged_fields({shards.name: shards.fields for shards in sets}, used=wanted)
        for name in wanted:
            if name not in fields:
                names = ", ".join(shards.name for shards in sets)
                raise VeaError(f"no label {name!r} in {names}{did_you_mean(name, fields)}")
        encoder = LabelEncoder({name: fields[name] for name in wanted or fields})
        return _LabelMaker(self.config, encoder, channels=self.channels, train=train)


class _LabelMaker(ItemMaker):
    def __init__(self, config: FinetuneConfig, encoder: LabelEncoder, *, channels: int, train: bool) -> None:
        super().__init__(Views(config.augment, seed=config.seed, channels=channels, train=train), num_views=1)
        self.encoder, self.head_only = encoder, config.augment.region == "head"

    def item(self, drawn: Drawn) -> Item:
        image: np.ndarray | Encoded = drawn.encoded
        if self.head_only:
            image = drawn.image
            height, width = image.shape[:2]
            window = head_window(drawn.person_boxes(), width=width, height=height)
            if window is not None:
                image = image[window[1] : window[3], window[0] : window[2]]
        views = {"image": self.views.one(image, key=drawn.key, pass_number=drawn.pass_number)}
        labels = self.encoder.encode(drawn.metadata.get("labels") or {}, key=drawn.key, known=drawn.shards.fields)
        return Item(drawn.key, drawn.place[1], views, lists={"texts": drawn.metadata.get("text") or []}, labels=labels)

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        labels = self.encoder.encode({}, key=key, known={})
        return Item(key, place[1], {"image": image}, lists={"texts": []}, labels=labels)


def infer_num_patches(config: PretrainConfig) -> int:
    """Returns the patches of a view for the config's encoder: the square of image side over patch side.

    Raises:
        VeaError: the patch size is neither in ``model.encoder.args`` nor in the encoder's name, or does not divide.
    """
    encoder = config.model.encoder
    named = re.search(r"patch(\d+)", encoder.name)
    patch = encoder.args.get("patch_size") or (int(named.group(1)) if named else None)
    if patch is None:
        raise VeaError(f"model.encoder.args: set patch_size, the name {encoder.name!r} does not say it")
    side = config.augment.image_size
    if side % patch:
        raise VeaError(f"augment.image_size ({side}) is not a multiple of the encoder's patch size ({patch})")
    return (side // patch) ** 2
