"""The two loaders: endless training batches in an order that ranks and workers cannot change, and one evaluation pass.

Which sample stands where is decided by ``vea.data.loading.order``; a worker is told (step, slot) and makes that place
of the global batch. Starting at any step costs the same.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vea.config import DatasetRef, RunConfig
from vea.data.loading.buffers import Buffers, Filled
from vea.data.loading.collate import Batch, Item, block_shape, collate, write_views
from vea.data.loading.items import ItemSpec, Place, Unusable
from vea.data.loading.order import Order
from vea.data.loading.workers import _running, _start_worker
from vea.data.streams.urls import is_stream
from vea.errors import RunError, VeaError

Lent = tuple[int | None, list[Place]]  # the places of a batch and the buffer for its images
Making = tuple[int | None, int, Iterator["Item | _Failure"]]  # the buffer, the number of items, and the items
MAX_REPLACEMENTS = 1000  # bad samples in a row after which a reader gives up
PREFETCH = 2  # batches that each worker prepares ahead
_log = logging.getLogger("vea.data")
_logged: set[str] = set()  # what this process has told already


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

    def __call__(self, made: Making) -> _Made | _Failure | None:
        index, count, items = made
        if not count:
            return None
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

    def __init__(self, config: RunConfig, spec: ItemSpec) -> None:
        refs = config.data.train
        if not refs:
            raise VeaError("data.train names no data set, e.g. [{path: data/synthetic, split: train}]")
        self.sets = [spec.open_set(ref) for ref in refs]
        self.maker = spec.maker(self.sets, train=True)
        self.order = Order(
            sizes=tuple(shards.size for shards in self.sets),
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
        shards = self.sets[planned.dataset]
        problems: dict[str, str] = {}
        for _ in range(MAX_REPLACEMENTS):
            draw = shards.found(draw, self.order)
            try:
                problems |= shards.problems(draw.sample)
                item = self.maker.make(shards, draw.sample, pass_number=draw.pass_number, place=place)
                item.problems = problems
                return item
            except Unusable as problem:
                what = problem.what
                problems[problem.key] = f"{problem}; the next sample of its reader stands in for it"
            draw = self.order.at(dataset=planned.dataset, reader=planned.reader, position=draw.position + 1)
        raise RunError(
            f"{shards.name}: {MAX_REPLACEMENTS} samples in a row {what} "
            f"({', '.join(list(problems)[:3])} ...); `vea shards check` lists them"
        )


class EvalSet(PlaceSet):
    """Map from (batch, sample number over all sets) to an item; numbers past the end are padding.

    The numbers count one set after the other or, ``in_turn``, the first sample of each set, the second of each ...
    """

    def __init__(self, spec: ItemSpec, refs: Sequence[DatasetRef], *, in_turn: bool = False) -> None:
        if not refs:
            raise VeaError("no data set to evaluate on: name one in data.val")
        for ref in refs:
            if is_stream(ref.path):
                raise VeaError(
                    f"{ref.path} is a stream of tars, which only data.train takes: prepare it for evaluation"
                )
        self.sets = [spec.open_set(ref) for ref in refs]
        self.ends = np.cumsum([len(shards) for shards in self.sets])
        self.maker = spec.maker(self.sets, train=False)
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


class Shares:
    """A batch of a stream as one share a worker, some of them empty, so that each tar is read by one worker.

    DataLoader gives batches to its workers in turn: share w of every batch goes to worker w, and it holds the places
    of a fixed run of the rank's readers.

    Args:
        places: of the rank.
        draws: places of a reader in a global batch.
        workers: at most the rank's readers.
    """

    def __init__(self, places: TrainPlaces, *, draws: int, workers: int) -> None:
        self.places, self.draws = places, draws
        self.first_reader = places.first // draws
        self.readers = (places.last - 1) // draws + 1 - self.first_reader
        self.workers = min(workers, self.readers)
        self.batch_size = min(places.batch_size, -(-self.readers // self.workers) * draws)
        self.batches = -(-(places.last - places.first) // places.batch_size)  # of a step

    def __iter__(self) -> Iterator[list[Place]]:
        for places in self.places:
            of_worker: list[list[Place]] = [[] for _ in range(self.workers)]
            for place in places:
                reader = place[1] // self.draws - self.first_reader
                of_worker[reader * self.workers // self.readers].append(place)
            yield from of_worker


class Lending:
    """Places, batch by batch, each with a buffer for its images where one is free (a ``batch_sampler``)."""

    def __init__(self, places: TrainPlaces | EvalPlaces | Shares, buffers: Buffers | None) -> None:
        self.places, self.buffers = places, buffers

    def __iter__(self) -> Iterator[Lent]:
        for places in self.places:
            yield self.buffers.take() if self.buffers and places else None, places


def train_loader(
    config: RunConfig,
    spec: ItemSpec,
    *,
    start_step: int,
    micro_batch: int,
    rank: int,
    world_size: int,
    stop_step: int | None = None,
) -> Generator[Batch, None, None]:
    """Returns the micro-batches of this rank from ``start_step`` up to ``stop_step`` (None: without end).

    ``spec`` is the task's: how a sample becomes an item (``Task.item_spec``). Rank r of W holds places
    [r * B/W, (r + 1) * B/W) of each global batch, in order. The batch dicts are in docs/architecture.md; ``replaced``
    lists the keys of corrupt images.

    Raises:
        VeaError: a data set is missing or damaged, sets disagree about a label, or B is no multiple of W.
    """
    total = config.data.global_batch_size
    if total % world_size:
        raise VeaError(f"data.global_batch_size ({total}) is not a multiple of the {world_size} ranks; change one")
    local = total // world_size
    data = TrainSet(config, spec)
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
    spec: ItemSpec,
    *,
    refs: list[DatasetRef],
    batch_size: int,
    rank: int,
    world_size: int,
    in_turn: bool = False,
) -> Generator[Batch, None, None]:
    """Returns one pass over ``refs`` in index order: every sample once over all ranks, evaluation views.

    ``batch_size`` is per rank. Ranks concatenated in order give index order; all have the same number of batches, the
    padding at the end has ``valid == False``, and so has an image that cannot be decoded (its key is in ``replaced``).
    ``in_turn`` takes the sets in turn instead of one after the other.

    Raises:
        VeaError: as ``train_loader``.
    """
    data = EvalSet(spec, refs, in_turn=in_turn)
    places = EvalPlaces(num_samples=int(data.ends[-1]), batch_size=batch_size, rank=rank, world_size=world_size)
    return _batches(data, places, config)


def _batches(
    data: TrainSet | EvalSet, places: TrainPlaces | EvalPlaces, config: RunConfig
) -> Generator[Batch, None, None]:
    workers, ahead = config.data.workers, PREFETCH
    shares: Shares | None = None
    if workers and isinstance(data, TrainSet) and isinstance(places, TrainPlaces) and None in data.order.sizes:
        shares = Shares(places, draws=data.order.draws_per_step, workers=workers)
        workers, ahead = shares.workers, PREFETCH * shares.batches  # a worker may have no share in most batches
    given = shares or places
    # what workers prepare, what arrived, and what the trainer still looks at
    buffers = Buffers(ahead * workers + 4, given.batch_size * data.maker.num_bytes) if workers else None
    loader = DataLoader(
        data,
        batch_sampler=Lending(given, buffers),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_Collate(buffers),  # type: ignore[arg-type]
        worker_init_fn=_start_worker if workers else None,
        prefetch_factor=ahead if workers else None,
        multiprocessing_context="fork" if workers else None,
        pin_memory=config.runtime.device != "cpu" and torch.cuda.is_available(),
        generator=torch.Generator(),  # a loader that starts must not move the generator of dropout
    )
    batches = _unwrapped(loader, shares=shares.workers if shares else 1)
    _running.add(batches)
    return batches


def _unwrapped(loader: DataLoader, *, shares: int) -> Generator[Batch, None, None]:
    parts: list[_Made] = []
    for number, made in enumerate(loader, start=1):
        if isinstance(made, _Failure):
            made.throw()
        if made is not None:
            parts.append(made)
        if number % shares == 0:
            whole, parts = _joined(parts), []
            for problem in whole.problems:
                if problem not in _logged:
                    _logged.add(problem)
                    _log.warning(problem)
            yield whole.batch()


def _joined(parts: list[_Made]) -> _Made:
    """Returns the batch whose shares lie in ``parts``, in the order of their slots."""
    if len(parts) == 1:
        return parts[0]
    images = torch.cat([part.images for part in parts], dim=1)  # type: ignore[misc]  # arrived: tensors all
    rest: Batch = {}
    for name, value in parts[0].rest.items():
        rows = [part.rest[name] for part in parts]
        if isinstance(value, dict):
            rest[name] = {key: torch.cat([row[key] for row in rows]) for key in value}
        else:
            rest[name] = torch.cat(rows) if isinstance(value, Tensor) else [entry for row in rows for entry in row]
    return _Made(parts[0].names, images, rest, [problem for part in parts for problem in part.problems])
