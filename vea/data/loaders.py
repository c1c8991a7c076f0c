"""The two loaders: endless training batches in an order that ranks and workers cannot change, and one evaluation pass.

Which sample stands where is decided by ``vea.data.order``; a worker is told (step, slot) and makes that place of the
global batch. Starting at any step costs the same.
"""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
import math
import re
import signal
import weakref
from collections.abc import Generator, Iterator, Sequence
from types import FrameType
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vea.config import DatasetRef, PromptConfig, RunConfig, TeacherConfig
from vea.data.buffers import Buffers, Filled
from vea.data.collate import Batch, Item, LabelEncoder, block_shape, collate, mask_noise, merged_fields, write_views
from vea.data.order import Order, kept_samples
from vea.data.person import head_window
from vea.data.prompts import prompt
from vea.data.sample import LabelField
from vea.data.shards import ShardReader
from vea.data.sidecars import Sidecar
from vea.data.transforms import CorruptImage, Views, decode
from vea.errors import RunError, VeaError, did_you_mean
from vea.models.teacher import same_teacher, teacher_identity

ViewKind = Literal["pretrain", "classify"]
Place = tuple[int, int]  # (step, slot); evaluation: (batch, sample)
Lent = tuple[int | None, list[Place]]  # the places of a batch and the buffer for its images
Making = tuple[int | None, int, Iterator["Item | _Failure"]]  # the buffer, the number of items, and the items

MAX_REPLACEMENTS = 1000  # bad samples in a row after which a reader gives up
PREFETCH = 2  # batches that each worker prepares ahead
SIGTERM_GRACE_S = 120  # how long a worker goes on after SIGTERM, so that its trainer can finish a step and save

_log = logging.getLogger("vea.data")
_logged: set[str] = set()  # what this process has told already


# --------------------------------------------------------------------------------------------------------------- sets


class ShardSet:
    """One ``DatasetRef``: its reader and the samples that ``fraction`` keeps.

    Raises:
        VeaError: no such set or split, or no such sidecar: the person boxes that ``ref`` names, and what ``teacher``
            says is cached, of the same teacher and ``prompts``.
    """

    def __init__(
        self, ref: DatasetRef, *, teacher: TeacherConfig | None = None, prompts: PromptConfig | None = None
    ) -> None:
        self.name = ref.path
        self.reader = ShardReader(ref.path, ref.split)
        self.fields: dict[str, LabelField] = self.reader.index.fields
        self._kept = kept_samples(len(self.reader), fraction=ref.fraction)
        self._embeddings: dict[str, Sidecar] = {}
        if teacher is not None and teacher.cached("image"):
            self._embeddings["teacher_image"] = teacher_sidecar(self.reader, "image", teacher, {})
        if teacher is not None and teacher.cached("text"):
            options = {"prompt": (prompts or PromptConfig()).model_dump()}
            self._embeddings["teacher_text"] = teacher_sidecar(self.reader, "text", teacher, options)
        self._persons = (
            Sidecar(self.reader, ref.persons, made_by="persons", otherwise="remove `persons` from the config")
            if ref.persons
            else None
        )

    def __len__(self) -> int:
        return len(self.reader) if self._kept is None else len(self._kept)

    def read(self, i: int) -> tuple[str, bytes, dict[str, Any]]:
        """Returns key, encoded image and metadata of kept sample ``i``."""
        return self.reader.read(i if self._kept is None else int(self._kept[i]))

    def person_boxes(self, i: int, metadata: dict[str, Any]) -> list[list[float]]:
        """Returns the boxes that came with kept sample ``i``, or those of the persons sidecar where it has none."""
        own = metadata.get("person_boxes") or []
        if own or self._persons is None:
            return own
        return self._persons.row(i if self._kept is None else int(self._kept[i]))["boxes"]

    def embeddings(self, i: int) -> dict[str, np.ndarray]:
        """Returns the cached teacher embeddings of kept sample ``i`` by their name in a batch, float32 (D,) each."""
        i = i if self._kept is None else int(self._kept[i])
        return {name: sidecar.row(i) for name, sidecar in self._embeddings.items()}


def teacher_sidecar(
    reader: ShardReader, kind: Literal["image", "text"], teacher: TeacherConfig, options: dict[str, Any]
) -> Sidecar:
    """Returns the cached embeddings of ``teacher``; raises ``VeaError`` when another one or other texts made them."""
    otherwise = "set teacher.cache=none"
    sidecar = Sidecar(reader, f"teacher_{kind}", made_by=f"teacher-{kind}", otherwise=otherwise)
    made = sidecar.meta.get("model") or {}
    again = f"remove it and write it again with `vea enrich`, or {otherwise}"
    if not same_teacher(made, teacher_identity(teacher)):
        raise VeaError(
            f"{sidecar.folder} holds embeddings of the teacher {made.get('name')}, not of {teacher.name} "
            f"(or of other weights); {again}"
        )
    if sidecar.meta["options"] != options:
        raise VeaError(f"{sidecar.folder} was made with {sidecar.meta['options']}, the config says {options}; {again}")
    return sidecar


# -------------------------------------------------------------------------------------------------------------- items


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
            wanted = getattr(config, "targets", None)
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
            image = decode(data)
        except CorruptImage as error:
            raise Unusable(key, shards.name, str(error)) from None
        if self.kind == "classify":
            if self.head_only:
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


class _Failure:
    """An error made for people, carried out of a worker: torch would wrap it in a traceback."""

    def __init__(self, error: VeaError) -> None:
        self.kind, self.message = type(error), str(error)

    def throw(self) -> None:
        raise self.kind(self.message)


class _Made(NamedTuple):
    """A batch on its way to the trainer: its images apart, and a sentence for each sample that could not be used.

    A named tuple, for DataLoader pins the memory of what is in tuples, lists and dicts.
    """

    names: list[str]
    images: Tensor | Filled
    rest: Batch
    problems: list[str]

    def batch(self) -> Batch:
        return dict(zip(self.names, self.images)) | self.rest  # type: ignore[arg-type]


class _Collate:
    """Makes batches, in a worker in one of ``buffers`` where the trainer had one to lend."""

    def __init__(self, buffers: Buffers | None) -> None:
        self.buffers = buffers

    def __call__(self, made: Making) -> _Made | _Failure:
        index, count, items = made
        good: list[Item] = []
        for row, item in enumerate(items):
            if isinstance(item, _Failure):
                return item
            if not good:
                shape = block_shape(item, count=count)
                lent = self.buffers is not None and index is not None
                images = self.buffers.tensor(index, shape) if lent else torch.empty(shape, dtype=torch.uint8)  # type: ignore
                block = images.numpy()
            names = write_views(item, block[:, row])
            good.append(item)
        sent = Filled(self.buffers, index, shape) if lent else images  # type: ignore[arg-type]
        return _Made(names, sent, collate(good), [sentence for item in good for sentence in item.problems.values()])


class PlaceSet(Dataset):
    """Map from a place to its item; of a batch's places the items come one by one, as ``_Collate`` asks for them."""

    def __getitems__(self, lent: Lent) -> Making:
        index, places = lent
        return index, len(places), (self[place] for place in places)


class TrainSet(PlaceSet):
    """Map from (step, slot) to the item that stands there."""

    def __init__(self, config: RunConfig, *, views: ViewKind, num_patches: int | None) -> None:
        refs = config.data.train
        if not refs:
            raise VeaError("data.train names no data set, e.g. [{path: data/synthetic, split: train}]")
        self.sets = _open_sets(refs, config, views=views)
        self.maker = ItemMaker(config, self.sets, views=views, train=True, num_patches=num_patches)
        self.order = Order(
            sizes=tuple(len(shards) for shards in self.sets),
            weights=tuple(ref.weight for ref in refs),
            seed=config.seed,
            global_batch_size=config.data.global_batch_size,
            virtual_readers=config.data.virtual_readers,
        )

    def __getitem__(self, place: Place) -> Item | _Failure:
        try:
            return self._item(place)
        except VeaError as error:
            return _Failure(error)

    def _item(self, place: Place) -> Item:
        """A corrupt image gives its place to the next good sample of the same reader; later draws do not shift."""
        draw = planned = self.order.draw(*place)
        problems: dict[str, str] = {}
        for _ in range(MAX_REPLACEMENTS):
            try:
                item = self.maker.make(self.sets[draw.dataset], draw.sample, pass_number=draw.pass_number, place=place)
                item.problems = problems
                return item
            except Unusable as problem:
                problems[problem.key] = f"{problem}; the next sample of its reader stands in for it"
            draw = self.order.at(dataset=planned.dataset, reader=planned.reader, position=draw.position + 1)
        raise RunError(
            f"{self.sets[planned.dataset].name}: {MAX_REPLACEMENTS} samples in a row cannot be decoded "
            f"({', '.join(list(problems)[:3])} ...); `vea shards check` lists them"
        )


class EvalSet(PlaceSet):
    """Map from (batch, sample number over all sets) to an item; numbers past the end are padding.

    The numbers count one set after the other or, ``in_turn``, the first sample of each set, the second of each ...
    """

    def __init__(
        self,
        config: RunConfig,
        refs: Sequence[DatasetRef],
        *,
        views: ViewKind,
        num_patches: int | None,
        in_turn: bool = False,
    ) -> None:
        if not refs:
            raise VeaError("no data set to evaluate on: name one in data.val")
        self.sets = _open_sets(refs, config, views=views)
        self.ends = np.cumsum([len(shards) for shards in self.sets])
        self.maker = ItemMaker(config, self.sets, views=views, train=False, num_patches=num_patches)
        within = np.concatenate([np.arange(len(shards)) for shards in self.sets])
        self.turns = within.argsort(kind="stable") if in_turn else None

    def __getitem__(self, place: Place) -> Item | _Failure:
        number = place[1]
        try:
            if number >= self.ends[-1]:
                return self.maker.blank(self.sets[0], place=place)
            number = number if self.turns is None else int(self.turns[number])
            which = int(np.searchsorted(self.ends, number, side="right"))
            first = int(self.ends[which - 1]) if which else 0
            try:
                return self.maker.make(self.sets[which], number - first, pass_number=0, place=place)
            except Unusable as problem:
                return self.maker.blank(self.sets[which], place=place, problem=problem)
        except VeaError as error:
            return _Failure(error)


def _open_sets(refs: Sequence[DatasetRef], config: RunConfig, *, views: ViewKind) -> list[ShardSet]:
    teacher = getattr(config, "teacher", None)
    prompts = getattr(config, "prompt", None)
    return [ShardSet(ref, teacher=teacher if views == "pretrain" else None, prompts=prompts) for ref in refs]


# ------------------------------------------------------------------------------------------------------------- loaders


class TrainPlaces:
    """The places of one rank, micro-batch by micro-batch (a ``batch_sampler``), forever where there is no stop."""

    def __init__(self, *, start_step: int, stop_step: int | None, first: int, last: int, micro_batch: int) -> None:
        self.start_step, self.stop_step = start_step, stop_step
        self.first, self.last, self.batch_size = first, last, micro_batch

    def __iter__(self) -> Iterator[list[Place]]:
        steps = itertools.count(self.start_step) if self.stop_step is None else range(self.start_step, self.stop_step)
        for step in steps:
            for start in range(self.first, self.last, self.batch_size):
                yield [(step, slot) for slot in range(start, min(start + self.batch_size, self.last))]


class EvalPlaces:
    """The sample numbers of one rank, batch by batch; every rank has the same number of batches of the same size."""

    def __init__(self, *, num_samples: int, batch_size: int, rank: int, world_size: int) -> None:
        self.batch_size = min(batch_size, math.ceil(num_samples / world_size))
        self.rank, self.stride = rank, self.batch_size * world_size
        self.num_batches = math.ceil(num_samples / self.stride)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[Place]]:
        for batch in range(self.num_batches):
            first = batch * self.stride + self.rank * self.batch_size
            yield [(batch, number) for number in range(first, first + self.batch_size)]


class Lending:
    """Places, batch by batch, each with a buffer for its images where one is free (a ``batch_sampler``)."""

    def __init__(self, places: TrainPlaces | EvalPlaces, buffers: Buffers | None) -> None:
        self.places, self.buffers = places, buffers

    def __iter__(self) -> Iterator[Lent]:
        for places in self.places:
            yield self.buffers.take() if self.buffers else None, places


def train_loader(
    config: RunConfig,
    *,
    views: ViewKind,
    start_step: int,
    micro_batch: int,
    rank: int,
    world_size: int,
    num_patches: int | None = None,
    stop_step: int | None = None,
) -> Generator[Batch, None, None]:
    """Returns the micro-batches of this rank from ``start_step`` up to ``stop_step`` (None: without end).

    Rank r of W holds places [r * B/W, (r + 1) * B/W) of each global batch, in order. The batch dicts are in
    docs/architecture.md; ``replaced`` lists the keys of corrupt images.

    Raises:
        VeaError: a data set is missing or damaged, sets disagree about a label, or B is no multiple of W.
    """
    total = config.data.global_batch_size
    if total % world_size:
        raise VeaError(f"data.global_batch_size ({total}) is not a multiple of the {world_size} ranks; change one")
    local = total // world_size
    data = TrainSet(config, views=views, num_patches=num_patches)
    places = TrainPlaces(
        start_step=start_step,
        stop_step=stop_step,
        first=rank * local,
        last=(rank + 1) * local,
        micro_batch=min(micro_batch, local),
    )
    return _batches(data, places, config)


def eval_loader(
    config: RunConfig,
    *,
    views: ViewKind,
    refs: list[DatasetRef],
    batch_size: int,
    rank: int,
    world_size: int,
    num_patches: int | None = None,
    in_turn: bool = False,
) -> Generator[Batch, None, None]:
    """Returns one pass over ``refs`` in index order: every sample once over all ranks, evaluation views.

    ``batch_size`` is per rank. Ranks concatenated in order give index order; all have the same number of batches, the
    padding at the end has ``valid == False``, and so has an image that cannot be decoded (its key is in ``replaced``).
    ``in_turn`` takes the sets in turn instead of one after the other.

    Raises:
        VeaError: as ``train_loader``.
    """
    data = EvalSet(config, refs, views=views, num_patches=num_patches, in_turn=in_turn)
    places = EvalPlaces(num_samples=int(data.ends[-1]), batch_size=batch_size, rank=rank, world_size=world_size)
    return _batches(data, places, config)


def _batches(
    data: TrainSet | EvalSet, places: TrainPlaces | EvalPlaces, config: RunConfig
) -> Generator[Batch, None, None]:
    workers = config.data.workers
    # what workers prepare, what arrived, and what the trainer still looks at
    buffers = Buffers(PREFETCH * workers + 4, places.batch_size * data.maker.num_bytes) if workers else None
    loader = DataLoader(
        data,
        batch_sampler=Lending(places, buffers),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_Collate(buffers),  # type: ignore[arg-type]
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
        pin_memory=config.runtime.device != "cpu" and torch.cuda.is_available(),
        generator=torch.Generator(),  # a loader that starts must not move the generator of dropout
    )
    batches = _unwrapped(loader)
    _running.add(batches)
    return batches


_running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _close_loaders() -> None:
    """Ends the workers of loaders that are still referenced at exit, before Python waits for them in vain."""
    for batches in list(_running):
        batches.close()


def _unwrapped(loader: DataLoader) -> Generator[Batch, None, None]:
    for made in loader:
        if isinstance(made, _Failure):
            made.throw()
        for problem in made.problems:
            if problem not in _logged:
                _logged.add(problem)
                _log.warning(problem)
        yield made.batch()


def _start_worker(worker: int) -> None:
    """Prepares a loader process: one thread, and signals that are the trainer's business.

    SLURM signals every process of a step. A worker that died would fail the step that the trainer wants to finish and
    save, so it ignores them, but not forever: Python ends its children by SIGTERM and waits for them.
    """
    gc.freeze()  # collecting what was inherited would write to, and so copy, every page that is shared with the trainer
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_later)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(SIGTERM_GRACE_S)
