"""The items of vea's tasks: two masked views with a text, one view with its labels, or one with several texts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vea.config import AlignConfig, DatasetRef, FinetuneConfig, PretrainConfig, RecogniseConfig, RunConfig
from vea.data.loading.collate import Item, LabelEncoder, mask_chances, mask_noise
from vea.data.loading.items import Drawn, ItemMaker, ItemSpec, Place, Unusable
from vea.data.loading.order import KeyedUniforms, keyed_words
from vea.data.loading.sets import ShardSet
from vea.data.prompts import NO_TEXT, attribute_prompt, prompt
from vea.data.streams.stream import StreamSet
from vea.data.streams.urls import is_stream
from vea.data.views.decode import CorruptImage, Encoded
from vea.data.views.person import head_window
from vea.data.views.salient import salient_cells, salient_noise, salient_patches
from vea.data.views.views import Views
from vea.errors import VeaError, did_you_mean
from vea.taxonomy.fields import merged_fields


def item_spec(config: RunConfig) -> ItemSpec:
    """Returns what the task of ``config`` tells the loaders, without building the task."""
    if isinstance(config, PretrainConfig):
        return PretrainItems(config)
    if isinstance(config, AlignConfig):
        return AlignItems(config, {})
    if isinstance(config, FinetuneConfig):
        return LabelItems(config, channels=config.model.channels if isinstance(config, RecogniseConfig) else 3)
    raise VeaError(f"recipe {config.recipe!r} reads no data")


class PretrainItems:
    """Items of pretraining: ``scene``, ``person``, ``has_person``, ``noise`` (2, N), ``text``, cached embeddings.

    With ``captions.mix: pair`` also ``mix`` (M, 5), the numbers of mixed negatives; with ``model.bank.field`` the
    validation has ``labels`` of that field, which the log alone reads.

    Args:
        config: the resolved config.
        num_patches: N, the patches of a view; None reads it off the encoder's name and arguments.
    """

    def __init__(self, config: PretrainConfig, *, num_patches: int | None = None) -> None:
        self.config, self.num_patches = config, num_patches

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set with the teacher's embeddings that ``teacher.cache`` names."""
        if is_stream(ref.path):
            if self.config.teacher is not None and self.config.teacher.cache != "none":
                raise VeaError(f"{ref.path} is read as a stream, which has no sidecars: set teacher.cache=none")
            for name in ("persons", "faces", "saliency"):
                if getattr(ref, name):
                    raise VeaError(f"{ref.path} is read as a stream, which has no sidecars: remove {name}")
            if self.config.captions.shuffled:
                raise VeaError(f"{ref.path} is read as a stream, whose captions cannot be shuffled; prepare the set")
            return StreamSet(ref)
        return ShardSet(ref, teacher=self.config.teacher, prompts=self.config.prompt)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker."""
        bank, label = self.config.model.bank, None
        if bank is not None and bank.field and not train:
            known = merged_fields({shards.name: shards.fields for shards in sets}, used=[bank.field])
            if bank.field not in known or known[bank.field].kind != "class":
                raise VeaError(f"model.bank.field: the sets of data.val have no class label {bank.field!r}")
            label = LabelEncoder({bank.field: known[bank.field]})
        patches = self.num_patches or infer_num_patches(self.config)
        return _PretrainMaker(self.config, num_patches=patches, train=train, label=label)


class _PretrainMaker(ItemMaker):
    def __init__(
        self, config: PretrainConfig, *, num_patches: int, train: bool, label: LabelEncoder | None = None
    ) -> None:
        super().__init__(Views(config.augment, seed=config.seed, train=train), num_views=2)
        self.seed, self.prompt, self.train, self.num_patches = config.seed, config.prompt, train, num_patches
        self.salient, self.captions, self.label = config.model.salient, config.captions, label
        self.num_kept = int(num_patches * (1 - config.model.mask_ratio))
        small, side = config.model.person_size, math.isqrt(num_patches)
        self.person_grid = small * side // config.augment.image_size if small else None
        self.num_mixed = config.captions.mix_count if config.captions.mix == "pair" else 0

    def item(self, drawn: Drawn) -> Item:
        boxes = drawn.person_boxes()
        scene, person, has_person = self.views.two(
            drawn.encoded, boxes=boxes, key=drawn.key, pass_number=drawn.pass_number
        )
        arrays = {"has_person": np.array(has_person), **self._keyed(drawn.place)}
        if self.salient is not None:
            arrays["noise"] = self._salient_noise(arrays["noise"], drawn, boxes)
        arrays |= drawn.shards.embeddings(drawn.i)
        text = self._text(drawn)
        labels = {}
        if self.label is not None:
            given = drawn.metadata.get("labels") or {}
            labels = self.label.encode(given, key=drawn.key, known=drawn.shards.fields)
        views = {"scene": scene, "person": person}
        return Item(drawn.key, drawn.place[1], views, arrays, lists={"text": text}, labels=labels)

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        arrays = {"has_person": np.array(False), **self._keyed(place)}
        arrays |= {name: np.zeros_like(row) for name, row in shards.embeddings(0).items()}
        labels = self.label.encode({}, key=key, known={}) if self.label is not None else {}
        return Item(key, place[1], {"scene": image, "person": image}, arrays, lists={"text": ""}, labels=labels)

    def _text(self, drawn: Drawn) -> str:
        metadata = drawn.metadata
        if self.captions.shuffled and len(drawn.shards) > 1:  # half the set further on: nobody keeps its own
            metadata = drawn.shards.read((drawn.i + len(drawn.shards) // 2) % len(drawn.shards))[2]
        if self.captions.share < 1:
            (chance,) = KeyedUniforms("text", drawn.key).random(1)
            if chance >= self.captions.share:
                return NO_TEXT
        turn = drawn.pass_number if self.captions.vary and self.train else 0
        return prompt(metadata, config=self.prompt, turn=turn)

    def _where(self, place: Place) -> tuple[int | str, int]:
        # evaluation: the masks of a sample do not depend on the batch size
        return place if self.train else ("eval", place[1])

    def _keyed(self, place: Place) -> dict[str, np.ndarray]:
        where = self._where(place)
        arrays = {"noise": mask_noise(self.seed, *where, num_patches=self.num_patches)}
        if self.num_mixed:
            words = keyed_words(5 * self.num_mixed, "mix", self.seed, *where) >> np.uint64(40)
            arrays["mix"] = (words.astype(np.float32) * np.float32(2**-24)).reshape(-1, 5)
        return arrays

    def _salient_noise(self, noise: np.ndarray, drawn: Drawn, people: list[list[float]]) -> np.ndarray:
        """Returns (2, N): the noise of both views, changed so that salient patches go more often."""
        assert self.salient is not None
        size = drawn.encoded.width, drawn.encoded.height
        boxes = [*(people if self.salient.persons else []), *drawn.shards.face_boxes(drawn.i)]
        saliency = drawn.shards.saliency(drawn.i)
        if saliency is not None:
            boxes += salient_cells(saliency, size=size, share=self.salient.share)
        if not boxes:
            return noise
        chances = mask_chances(self.seed, *self._where(drawn.place), num_patches=self.num_patches)
        grid, side = math.isqrt(self.num_patches), self.views.config.image_size
        placed = self.views.placed(boxes, size=size, around=people, key=drawn.key, pass_number=drawn.pass_number)
        changed = noise.copy()
        for view, cells in ((0, grid), (1, self.person_grid or grid)):  # a smaller person view has the first numbers
            patches = cells**2
            changed[view, :patches] = salient_noise(
                noise[view, :patches],
                chances[view, :patches],
                salient_patches(placed[view], grid=cells, side=side),
                probability=self.salient.probability,
                num_kept=max(1, patches * self.num_kept // self.num_patches),
            )
        return changed


class LabelItems:
    """Items of fine-tuning: ``image``, ``labels`` by field, ``texts``.

    Args:
        config: the resolved config; ``config.labels`` are the fields, none stands for all of the sets.
        channels: of the image, 3 or 1 for grey.
    """

    def __init__(self, config: FinetuneConfig, *, channels: int = 3) -> None:
        self.config, self.channels = config, channels

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set; with ``augment.region: face`` the sidecar of its faces is there."""
        if self.config.augment.region != "face":
            return StreamSet(ref) if is_stream(ref.path) else ShardSet(ref)
        if is_stream(ref.path):
            raise VeaError(f"{ref.path} is read as a stream, which has no sidecar of faces: prepare the set")
        shards = ShardSet(ref.model_copy(update={"faces": ref.faces or "faces"}))
        if len(shards):
            shards.largest_face(0)
        return shards

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
        self.encoder, self.region = encoder, config.augment.region

    def item(self, drawn: Drawn) -> Item:
        views = {"image": self._view(drawn)}
        labels = self.encoder.encode(drawn.metadata.get("labels") or {}, key=drawn.key, known=drawn.shards.fields)
        return Item(drawn.key, drawn.place[1], views, lists={"texts": drawn.metadata.get("text") or []}, labels=labels)

    def _view(self, drawn: Drawn) -> np.ndarray:
        keyed: dict[str, Any] = {"key": drawn.key, "pass_number": drawn.pass_number}
        if self.region == "face":
            face = drawn.shards.largest_face(drawn.i)
            if face is None:
                raise Unusable(drawn.key, drawn.shards.name, "by the sidecar of faces", what="shows no face")
            return self.views.face(drawn.encoded, face[0], turn=face[1], **keyed)
        image: np.ndarray | Encoded = drawn.encoded
        if self.region == "head":
            image = drawn.image
            height, width = image.shape[:2]
            window = head_window(drawn.person_boxes(), width=width, height=height)
            if window is not None:
                image = image[window[1] : window[3], window[0] : window[2]]
        return self.views.one(image, **keyed)

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        labels = self.encoder.encode({}, key=key, known={})
        return Item(key, place[1], {"image": image}, lists={"texts": []}, labels=labels)


def texts_of(metadata: dict[str, Any], *, kind: str) -> list[str]:
    """Returns the texts that may stand for a sample: its captions; ``all``: the sentences of its attributes too."""
    captions = [text.strip() for text in metadata.get("text") or [] if text.strip()]
    if kind == "captions":
        return captions
    labels = metadata.get("labels") or {}
    return [*captions, *filter(None, (attribute_prompt(labels), attribute_prompt(labels, emotion=False)))]


class AlignItems:
    """Items of aligning: ``image``, or ``features`` where they are kept, and ``texts``, as many as are drawn."""

    def __init__(self, config: AlignConfig, kept: dict[str, np.ndarray]) -> None:
        self.config, self.kept = config, kept

    def open_set(self, ref: DatasetRef) -> ShardSet:
        """Returns a set."""
        return ShardSet(ref)

    def maker(self, sets: Sequence[ShardSet], *, train: bool) -> ItemMaker:
        """Returns the maker."""
        return _AlignMaker(self.config, self.kept, train=train)


class _AlignMaker(ItemMaker):
    def __init__(self, config: AlignConfig, kept: dict[str, np.ndarray], *, train: bool) -> None:
        views = Views(config.augment, seed=config.seed, train=train and not config.model.cache)
        super().__init__(views, num_views=1)
        self.kept, self.train, self.seed, self.objective = kept, train, config.seed, config.objective

    def item(self, drawn: Drawn) -> Item:
        texts = texts_of(drawn.metadata, kind=self.objective.texts)
        if self.train and texts:  # the first of a keyed order, again from the front where there are too few
            numbers = KeyedUniforms("texts", self.seed, drawn.pass_number, drawn.key).random(len(texts))
            order = sorted(range(len(texts)), key=lambda i: float(numbers[i]))
            texts = [texts[order[i % len(order)]] for i in range(self.objective.captions)]
        texts = texts or [""] * (self.objective.captions if self.train else 1)
        lists = {"texts": texts, "set": drawn.shards.name}
        if not self.kept:
            image = self.views.one(drawn.encoded, key=drawn.key, pass_number=drawn.pass_number)
            return Item(drawn.key, drawn.place[1], {"image": image}, lists=lists)
        row = self.kept.get(place_of(drawn.shards.name, drawn.key))
        if row is None:
            raise CorruptImage("it has no features")
        return Item(drawn.key, drawn.place[1], {"image": np.zeros((1, 1, 3), np.uint8)}, {"features": row}, lists)

    def empty(self, shards: ShardSet, image: np.ndarray, *, key: str, place: Place) -> Item:
        lists = {"texts": [""], "set": shards.name}
        if not self.kept:
            return Item(key, place[1], {"image": image}, lists=lists)
        row = np.zeros_like(next(iter(self.kept.values())))
        return Item(key, place[1], {"image": np.zeros((1, 1, 3), np.uint8)}, {"features": row}, lists)


def place_of(name: str, key: str) -> str:
    """Returns how the features of a sample are called: by its set and its key."""
    return f"{name}|{key}"


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
