"""How a sample becomes an item."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vea.config import PromptConfig, RunConfig
from vea.data.loading.collate import Item, LabelEncoder, mask_noise
from vea.data.loading.sets import ShardSet
from vea.data.prompts import prompt
from vea.data.views.decode import CorruptImage, Encoded, decode
from vea.data.views.person import head_window
from vea.data.views.views import Views
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import merged_fields

ViewKind = Literal["pretrain", "classify"]
Place = tuple[int, int]  # (step, slot); evaluation: (batch, sample)


class ItemMaker:
    """Makes the items of one recipe from samples; the same for training and evaluation."""

    def __init__(
        self, config: RunConfig, sets: Sequence[ShardSet], *, views: ViewKind, train: bool, num_patches: int | None
    ) -> None:
        self.kind, self.seed, self.train = views, config.seed, train
        self.head_only = config.augment.region == "head"
        channels = getattr(getattr(config, "model", None), "channels", 3)
        self.views = Views(config.augment, seed=config.seed, channels=channels, train=train)
        self.prompt: PromptConfig = getattr(config, "prompt", PromptConfig())
        self.num_patches = 0
        self.encoder = LabelEncoder({})
        if views == "pretrain":
            self.num_patches = num_patches or infer_num_patches(config)
        else:
            wanted = getattr(config, "labels", None)
            fields = merged_fields({shards.name: shards.fields for shards in sets}, used=wanted)
            wanted = wanted or fields
            for name in wanted:
                if name not in fields:
                    names = ", ".join(shards.name for shards in sets)
                    raise VeaError(f"no label {name!r} in {names}{did_you_mean(name, fields)}")
            self.encoder = LabelEncoder({name: fields[name] for name in wanted})

    @property
    def num_bytes(self) -> int:
        """Of a sample's images."""
        return (2 if self.kind == "pretrain" else 1) * self.views.channels * self.views.config.image_size**2

    def make(self, shards: ShardSet, i: int, *, pass_number: int, place: Place) -> Item:
        """Returns the item of kept sample ``i``; raises ``Unusable`` with its key when the image is corrupt."""
        key, data, metadata = shards.read(i)
        try:
            return self._made(shards, i, key, data, metadata, pass_number, place)
        except CorruptImage as error:
            raise Unusable(key, shards.name, str(error)) from None

    def _made(
        self, shards: ShardSet, i: int, key: str, data: bytes, metadata: dict[str, Any], pass_number: int, place: Place
    ) -> Item:
        image: np.ndarray | Encoded = Encoded(data)
        if self.kind == "classify":
            if self.head_only:
                image = decode(data)
                height, width = image.shape[:2]
                window = head_window(shards.person_boxes(i, metadata), width=width, height=height)
                if window is not None:
                    image = image[window[1] : window[3], window[0] : window[2]]
            views = {"image": self.views.one(image, key=key, pass_number=pass_number)}
            labels = self.encoder.encode(metadata.get("labels") or {}, key=key, known=shards.fields)
            return Item(key, place[1], views, lists={"texts": metadata.get("text") or []}, labels=labels)
        scene, person, has_person = self.views.two(
            image, boxes=shards.person_boxes(i, metadata), key=key, pass_number=pass_number
        )
        views = {"scene": scene, "person": person}
        arrays = {"has_person": np.array(has_person), "noise": self._noise(place)}
        arrays |= shards.embeddings(i)
        return Item(key, place[1], views, arrays, lists={"text": prompt(metadata, config=self.prompt)})

    def blank(self, shards: ShardSet, *, place: Place, problem: Unusable | None = None) -> Item:
        """Returns a row that is not valid: black images and missing labels."""
        key = problem.key if problem else ""
        problems = {key: f"{problem}; it is left out of the evaluation"} if problem else {}
        size = self.views.config.image_size
        image = np.zeros((size, size, self.views.channels), dtype=np.uint8)
        if self.kind == "classify":
            labels = self.encoder.encode({}, key=key, known={})
            lists: dict[str, Any] = {"texts": []}
            return Item(key, place[1], {"image": image}, lists=lists, labels=labels, valid=False, problems=problems)
        arrays = {"has_person": np.array(False), "noise": self._noise(place)}
        arrays |= {name: np.zeros_like(row) for name, row in shards.embeddings(0).items()}
        views = {"scene": image, "person": image}
        return Item(key, place[1], views, arrays, lists={"text": ""}, valid=False, problems=problems)

    def _noise(self, place: Place) -> np.ndarray:
        # evaluation: the masks of a sample do not depend on the batch size
        where = place if self.train else ("eval", place[1])
        return mask_noise(self.seed, *where, num_patches=self.num_patches)


class Unusable(Exception):
    """A sample whose image cannot be decoded."""

    def __init__(self, key: str, where: str, reason: str) -> None:
        super().__init__(f"{where}: sample {key!r} cannot be decoded ({reason})")
        self.key = key


def infer_num_patches(config: RunConfig) -> int:
    """Returns the patches of a view for the config's encoder: the square of image side over patch side.

    Raises:
        VeaError: the patch size is neither in ``model.encoder.args`` nor in the encoder's name, or does not divide.
    """
    encoder = config.model.encoder  # type: ignore[attr-defined]
    named = re.search(r"patch(\d+)", encoder.name)
    patch = encoder.args.get("patch_size") or (int(named.group(1)) if named else None)
    if patch is None:
        raise VeaError(f"model.encoder.args: set patch_size, the name {encoder.name!r} does not say it")
    side = config.augment.image_size
    if side % patch:
        raise VeaError(f"augment.image_size ({side}) is not a multiple of the encoder's patch size ({patch})")
    return (side // patch) ** 2
