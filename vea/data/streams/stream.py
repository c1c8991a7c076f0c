"""A data set of tars that nobody indexed, in the same keyed order as prepared sets.

Reader v of V owns a contiguous run of the shards; in each pass it takes them in an order of its own. A window of
``shuffle`` samples after the other is filled from them and emptied in a keyed order: a shuffle buffer whose state is a
function of the place alone. So draw n of a reader is a pure function of (seed, set, reader, n) and of the shards, and
neither ranks nor workers change it. With fewer shards than readers, those that share one take every k-th sample.

To start in the middle, shards whose size is known (``counts.py``) are passed over, and of one more the samples before
the place are skipped: their headers alone where the file can be seeked, undecoded bytes where it cannot.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from vea.config import DatasetRef
from vea.data.loading.items import Unusable
from vea.data.loading.order import Draw, Order, permutation
from vea.data.loading.sets import ShardSet
from vea.data.sources.base import texts_of
from vea.data.streams.counts import Counts
from vea.data.streams.shard import Damaged, Missing, Record, left_unread, member, records
from vea.data.streams.urls import expand, local_tar, shown
from vea.data.views.decode import say_once
from vea.errors import RunError, VeaError
from vea.taxonomy.fields import LabelField

WINDOWS = 2  # filled windows that a reader holds: a broken sample at the end of one looks into the next
ONLY_PREPARED = ("fraction", "part", "persons")


def stream_fields(ref: DatasetRef) -> dict[str, LabelField]:
    """Returns the labels that ``classes`` of a stream names."""
    return {name: LabelField("class", classes=tuple(words)) for name, words in ref.classes.items()}


@dataclass
class _Reading:
    """Where a reader is: the next place of a pass, and the samples from there on."""

    pass_number: int
    place: int
    records: Iterator[Record]


class _Fill(threading.Thread):
    """The next window of a reader, read while the one before it is used; of what is not on this machine."""

    def __init__(self, key: tuple[int, int], reading: _Reading, count: int) -> None:
        super().__init__(daemon=True)  # a process that ends does not wait for a server
        self.key, self.reading, self.count = key, reading, count
        self.window: list[Record] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.window = list(islice(self.reading.records, self.count))
        except BaseException as error:  # told where the window is asked for
            self.error = error

    def result(self) -> list[Record]:
        """Returns the window once it is there; raises what reading it raised."""
        if self.ident is None:
            self.run()  # nobody started it: read now
        else:
            self.join()
        if self.error is not None:
            raise self.error
        return self.window


class StreamSet(ShardSet):
    """One ``DatasetRef`` whose path names tars (``vea.data.streams.urls.is_stream``).

    Raises:
        VeaError: it names no shards, more files are missing than ``missing_shards`` allows, or the ref asks for what
            only prepared sets have.
    """

    def __init__(self, ref: DatasetRef) -> None:
        self.ref, self.name, self.fields = ref, shown(ref.path), stream_fields(ref)
        for key in ONLY_PREPARED:
            if getattr(ref, key) != DatasetRef.model_fields[key].default:
                raise VeaError(f"{self.name} is read as a stream, which has no {key}; prepare it, or leave that out")
        self.urls = expand(ref.path)
        self.counts = Counts(self.urls)
        self._problems: dict[str, str] = {}  # of shards, told with the next sample
        self._bad: set[int] = set()
        self._readings: dict[int, _Reading] = {}
        self._ahead: dict[int, _Fill] = {}
        self._remote = any(local_tar(url) is None for url in self.urls)
        self._windows: dict[int, dict[tuple[int, int], list[Record]]] = {}
        self._lengths: dict[int, int] = {}  # samples of a pass of a reader, once it has ended
        self._order: Order | None = None
        self._dataset = 0
        lost = [url for url in self.urls if (path := local_tar(url)) is not None and not path.is_file()]
        if len(lost) > ref.missing_shards:
            raise VeaError(
                f"{len(lost)} of {len(self.urls)} shards are missing, first {lost[0]}: copy them here, "
                f"or set missing_shards of this set in data.train to at least {len(lost)}"
            )
        if unread := left_unread(self.urls[0], self.fields):
            told = ", ".join(f"{what} ({count})" for what, count in sorted(unread.items()))
            say_once(
                f"{self.name}: labels of its first shard that nothing reads: {told}; name their classes in `classes` "
                "of this set, or prepare it"
            )

    @property
    def size(self) -> int | None:
        """None: nobody counted it."""
        return None

    def __len__(self) -> int:
        raise VeaError(f"{self.name} is a stream, whose size nobody counted: prepare the set for this use")

    def found(self, draw: Draw, order: Order) -> Draw:
        """Returns the draw with its pass and sample; ``sample`` is reader + V * position, what ``read`` takes."""
        self._order, self._dataset = order, draw.dataset
        pass_number = self._locate(draw.reader, draw.position)[0]
        return replace(draw, pass_number=pass_number, sample=draw.reader + order.virtual_readers * draw.position)

    def read(self, i: int) -> tuple[str, bytes, dict[str, Any]]:
        """Returns key, encoded image and metadata of a sample that ``found`` named.

        Raises:
            Unusable: its JSON or its class cannot be read.
        """
        assert self._order is not None
        position, reader = divmod(i, self._order.virtual_readers)
        record = self._locate(reader, position)[1]
        return record.key, member(record, record.picture), self._metadata(record)

    def problems(self, i: int) -> dict[str, str]:
        """Returns what was left out before a sample: groups without a picture, and shards that are not whole."""
        assert self._order is not None
        position, reader = divmod(i, self._order.virtual_readers)
        told, self._problems = self._problems, {}
        return self._locate(reader, position)[1].problems | told

    def person_boxes(self, i: int, metadata: dict[str, Any]) -> list[list[float]]:
        """Returns the boxes in the sample's JSON."""
        return metadata.get("person_boxes") or []

    def face_boxes(self, i: int) -> list[list[float]]:
        """Returns none: a stream has no sidecars."""
        return []

    def saliency(self, i: int) -> np.ndarray | None:
        """Returns None: a stream has no sidecars."""
        return None

    def embeddings(self, i: int) -> dict[str, np.ndarray]:
        """Returns nothing: a stream has no sidecars."""
        return {}

    def shards_of(self, reader: int) -> tuple[list[int], int, int]:
        """Returns a reader's shards, and (k, n): it takes every n-th sample of them from k on."""
        assert self._order is not None
        readers, count = self._order.virtual_readers, len(self.urls)
        if count >= readers:
            return list(range(reader * count // readers, (reader + 1) * count // readers)), 0, 1
        shard = reader * count // readers
        sharing = [other for other in range(readers) if other * count // readers == shard]
        return [shard], sharing.index(reader), len(sharing)

    def _locate(self, reader: int, position: int) -> tuple[int, Record]:
        """Returns the pass and the sample at a place of a reader."""
        while True:
            length = self._lengths.get(reader)
            if length == 0:
                told = "; ".join(list(self._problems.values())[:2])
                raise RunError(f"{self.name}: the shards of reader {reader} hold no samples{told and f' ({told})'}")
            pass_number, offset = divmod(position, length) if length else (0, position)
            number, place = divmod(offset, self.ref.shuffle)
            window = self._window(reader, pass_number, number)
            if place < len(window):
                return pass_number, window[place]
            if length:
                raise RunError(f"{self.name}: a shard of reader {reader} changed while it was read; start again")
            shards, k, n = self.shards_of(reader)  # the pass has ended: its shards were all counted
            self._lengths[reader] = sum(len(range(k, self.counts.known(shard) or 0, n)) for shard in shards)

    def _window(self, reader: int, pass_number: int, number: int) -> list[Record]:
        """Returns a window of a pass, shuffled by its key; empty where the pass has ended before."""
        held = self._windows.setdefault(reader, {})
        if (pass_number, number) not in held:
            fill = self._ahead.pop(reader, None)
            if fill is None or fill.key != (pass_number, number):
                fill = self._fill(reader, pass_number, number)
            window = fill.result()
            if self._remote and window and get_worker_info() is not None:  # a process that forks shall have no threads
                after = (pass_number, number + 1) if len(window) == self.ref.shuffle else (pass_number + 1, 0)
                self._ahead[reader] = self._fill(reader, *after)
                self._ahead[reader].start()
            assert self._order is not None
            key = (self._order.seed, self._dataset, reader, pass_number, number)
            while len(held) >= WINDOWS:
                held.pop(next(iter(held)))
            held[pass_number, number] = [window[at] for at in permutation(len(window), "stream", *key)]
        return held[pass_number, number]

    def _fill(self, reader: int, pass_number: int, number: int) -> _Fill:
        """Returns what reads a window; where it is not the next one, from the beginning of its pass."""
        first = number * self.ref.shuffle
        reading = self._readings.get(reader)
        if reading is None or (reading.pass_number, reading.place) != (pass_number, first):
            reading = _Reading(pass_number, first, self._samples(reader, pass_number, skip=first))
            self._readings[reader] = reading
        reading.place = first + self.ref.shuffle
        return _Fill((pass_number, number), reading, self.ref.shuffle)

    def _samples(self, reader: int, pass_number: int, *, skip: int) -> Iterator[Record]:
        """Yields a reader's samples of a pass from number ``skip`` on."""
        shards, k, n = self.shards_of(reader)
        assert self._order is not None
        order = permutation(len(shards), "shards", self._order.seed, self._dataset, reader, pass_number)
        for shard in (shards[at] for at in order):
            size = self.counts.known(shard) if skip or shard in self._bad else None
            if size is not None and (skip >= (mine := len(range(k, size, n))) or not size):
                skip -= mine
                continue
            for number, record in enumerate(self._shard(shard)):
                if number % n == k:
                    if skip:
                        skip -= 1
                    else:
                        yield record

    def _shard(self, shard: int) -> Iterator[Record]:
        """Yields the samples of a shard and learns how many they are."""
        url, count = self.urls[shard], 0
        bad = self.counts.known(shard) if shard in self._bad else None
        try:
            for record in islice(records(url), bad):
                count += 1
                yield record
        except (Missing, Damaged) as error:
            what = "is missing" if isinstance(error, Missing) else f"is damaged after {count} samples"
            self._bad.add(shard)
            sentence = f"shard {shown(url)} {what} ({error})"
            if len(self._bad) > self.ref.missing_shards:
                raise RunError(
                    f"{sentence}; copy it again, or set missing_shards of this set in data.train to go on without it"
                ) from None
            self._problems[shown(url)] = f"{sentence}; the run goes on without it"
        else:
            stated = self.counts.stated(shard) if local_tar(url) else self.counts._stated.get(shard)
            if shard not in self._bad and stated not in (None, count):
                raise RunError(
                    f"{shown(url)} holds {count} samples, the statistics beside it say {stated}; copy both again"
                )
        self.counts.learn(shard, count)

    def _metadata(self, record: Record) -> dict[str, Any]:
        known: dict[str, Any] = {}
        if "json" in record.members:
            try:
                known = json.loads(member(record, "json").decode("utf-8-sig", "replace"))
                assert isinstance(known, dict)
            except (ValueError, AssertionError):
                raise Unusable(record.key, self.name, "its JSON is not readable") from None
        text = member(record, "txt").decode("utf-8-sig", "replace").strip() if "txt" in record.members else ""
        texts = [text] if text else texts_of(known.get("text") or known.get("caption"))
        own = known["labels"] if isinstance(known.get("labels"), dict) else known
        labels = {name: own[name] for name in self.fields if own.get(name) is not None}
        if "cls" in record.members and len(self.fields) == 1:
            labels = {next(iter(self.fields)): member(record, "cls").decode("utf-8", "replace").strip()}
        for name, value in labels.items():
            labels[name] = self._class(record.key, name, value)
        boxes = known.get("person_boxes") or []
        return {"id": record.key, "labels": labels, "text": texts, "person_boxes": boxes, "source": self.name}

    def _class(self, key: str, name: str, value: Any) -> str:
        """Returns a class by its name, or by its number, as ``KEY.cls`` has it."""
        classes = self.fields[name].classes
        if value in classes:
            return value
        if str(value).isdecimal() and int(value) < len(classes):
            return classes[int(value)]
        raise Unusable(key, self.name, f"label {name} is {str(value)[:40]!r}, which is not among its classes")
