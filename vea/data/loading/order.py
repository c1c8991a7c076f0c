"""The order of training data: which sample stands in which place of which global batch.

Everything here is a pure function of (seed, step, global batch size), never of ranks or workers, and costs the same at
step 10^6 as at step 0, so resuming is arithmetic.

- A fixed number V of virtual readers shares the work. Reader v owns one contiguous slice of every data set and fills
  the places ``[v * B/V, (v + 1) * B/V)`` of every global batch, so its draw number n at step s is ``s * B/V + j``.
- In a pass over its slice a reader permutes blocks (contiguous runs of at most 256 samples), then all samples inside a
  window of 8 consecutive permuted blocks. Reading stays local; a slice of up to 2,048 samples is shuffled as a whole.
  Every sample of the slice comes exactly once per pass.
- A mixture follows a cycle of 1,024 draws in which each set has its share (largest remainder, at least one), shuffled
  per reader, so that a batch is mixed even where each reader gives one sample. How many draws of a set came before
  draw n is a table lookup.
- A set with fewer samples than readers: the V slices are cut over V places and place i holds sample i modulo N, so
  some samples have several readers and come more often than others by one per pass.

Permutations are argsorts of raw Philox output: numpy guarantees the stream of a bit generator across versions, but not
that of ``Generator.permutation``.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BLOCK = 256  # most samples in one contiguous run
WINDOW = 8  # permuted blocks that are shuffled together
CYCLE = 1024  # draws after which a mixture repeats its pattern of sets

PLAN = np.dtype([("dataset", np.int64), ("reader", np.int64), ("pass", np.int64), ("sample", np.int64)])


def keyed_bits(*key: int | str) -> np.random.Philox:
    """Returns a bit generator whose stream is a function of ``key`` alone, independent of every other key's."""
    return np.random.Philox(key=int.from_bytes(_digest(*key), "little"))


def _digest(*key: int | str) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()


class _Reused(threading.local):
    """One generator a thread, set anew for every key: making one reads the system's entropy, whatever its key."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)


_reused = _Reused()
_START = np.zeros(4, np.uint64)


def keyed_words(count: int, *key: int | str) -> np.ndarray:
    """Returns the first ``count`` numbers of ``keyed_bits``, uint64 (count,)."""
    state: dict[str, Any] = {"counter": _START, "key": np.frombuffer(_digest(*key), "<u8")}
    whole = {"bit_generator": "Philox", "state": state, "buffer": _START, "buffer_pos": 4}
    _reused.bits.state = {**whole, "has_uint32": 0, "uinteger": 0}  # type: ignore[typeddict-item]
    return _reused.bits.random_raw(count)


class KeyedUniforms:
    """Uniform numbers in [0, 1) that are a function of ``key`` and of how often was drawn.

    For a handful of numbers: a NumPy bit generator costs several times as much.
    """

    def __init__(self, *key: int | str) -> None:
        self._hash = hashlib.blake2b("\x1f".join(map(str, key)).encode())

    def random(self, count: int) -> list[float]:
        """Returns ``count`` numbers, at most eight."""
        self._hash.update(b"\x1f")
        words = struct.unpack_from(f"<{count}Q", self._hash.digest())
        return [(word >> 11) * 2.0**-53 for word in words]


def permutation(length: int, *key: int | str) -> np.ndarray:
    """Returns a permutation of ``range(length)``, int64 (length,), that is a function of (length, key)."""
    return np.argsort(keyed_words(length, *key), kind="stable")


def kept_samples(
    num_samples: int, *, fraction: float = 1.0, part: tuple[float, float] | None = None
) -> np.ndarray | None:
    """Returns the sorted indices that ``part`` and ``fraction`` keep, int64, or None where they keep all.

    In the order of a hash of the index, independent of the seed: ``part`` takes the samples from one share of it to
    another, so that parts that only meet at their ends share none and together are all; ``fraction`` takes the first
    ``round(fraction * n)`` of these (at least one), and a smaller fraction's samples are among a larger one's.
    """
    first, last = (round(edge * num_samples) for edge in part or (0.0, 1.0))
    if (fraction >= 1 and last - first == num_samples) or num_samples == 0:
        return None
    with np.errstate(over="ignore"):  # splitmix64 (Steele, Lea, Flood 2014)
        z = (np.arange(num_samples, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    order = np.argsort(z, kind="stable")[first:last]
    return np.sort(order[: max(1, round(fraction * len(order)))])


def quotas(weights: Sequence[float], *, total: int) -> np.ndarray:
    """Returns how many of ``total`` draws each set gets, int64 (D,): largest remainder, at least one each."""
    exact = np.asarray(weights, dtype=np.float64) * (total / float(np.sum(weights)))
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    while counts.sum() < total:
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > total:  # only after tiny weights were lifted to one
        counts[np.argmax(np.where(counts > 1, counts - exact, -np.inf))] -= 1
    return counts


@dataclass(frozen=True)
class Draw:
    """One draw: sample ``sample`` of set ``dataset``, number ``position`` of the stream of (set, reader)."""

    dataset: int
    reader: int
    position: int
    pass_number: int
    sample: int


@dataclass(frozen=True)
class Order:
    """The order of one training run.

    Args:
        sizes: samples of each data set (after ``fraction``); None for a stream, which says itself what stands at a
            position.
        weights: share of the draws of each data set.
        seed: of the run.
        global_batch_size: B, a multiple of ``virtual_readers``.
        virtual_readers: V.
    """

    sizes: tuple[int | None, ...]
    weights: tuple[float, ...]
    seed: int
    global_batch_size: int
    virtual_readers: int
    _cycles: dict[int, tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _opened: dict[tuple[int, int], _Opened] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert len(self.sizes) == len(self.weights) > 0, "one weight per data set"
        assert all(size is None or size > 0 for size in self.sizes), "an empty data set has no order"
        assert self.global_batch_size % self.virtual_readers == 0, "B is a multiple of V"

    @property
    def draws_per_step(self) -> int:
        """Draws of each reader per step, B / V."""
        return self.global_batch_size // self.virtual_readers

    def slice_of(self, dataset: int, reader: int) -> tuple[int, int]:
        """Returns the places [first, last) of reader's slice; place i is sample i modulo the size of the set."""
        places = max(self.sizes[dataset] or 0, self.virtual_readers)
        return reader * places // self.virtual_readers, (reader + 1) * places // self.virtual_readers

    def _cycle(self, reader: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the set of each draw in the cycle (L,) and the draws of each set before each draw (L + 1, D)."""
        if reader not in self._cycles:
            num_sets = len(self.sizes)
            length = max(CYCLE, num_sets) if num_sets > 1 else 1
            pattern = np.repeat(np.arange(num_sets), quotas(self.weights, total=length))
            pattern = pattern[permutation(length, "mixture", self.seed, reader)]
            counts = np.zeros((length + 1, num_sets), dtype=np.int64)
            np.cumsum(pattern[:, None] == np.arange(num_sets), axis=0, out=counts[1:])
            self._cycles[reader] = pattern, counts
        return self._cycles[reader]

    def at(self, *, dataset: int, reader: int, position: int) -> Draw:
        """Returns the draw at a position of the stream of (set, reader), counted over all passes.

        Of a set without a size, ``pass_number`` and ``sample`` are -1 until the set has found it.
        """
        size = self.sizes[dataset]
        if size is None:
            return Draw(dataset, reader, position, -1, -1)
        first, last = self.slice_of(dataset, reader)
        pass_number, offset = divmod(position, last - first)
        place = first + self._place(dataset, reader, pass_number, length=last - first, offset=offset)
        return Draw(dataset, reader, position, pass_number, place % size)

    def _place(self, dataset: int, reader: int, pass_number: int, *, length: int, offset: int) -> int:
        """Returns which place of a slice of ``length`` comes at ``offset`` of a pass."""
        key = (self.seed, dataset, reader, pass_number)
        opened = self._opened.get((dataset, reader))
        if opened is None or opened.pass_number != pass_number:
            opened = self._opened[dataset, reader] = _Opened(pass_number, *_blocks(*key, length=length))
        window = int(np.searchsorted(opened.starts[::WINDOW], offset, side="right")) - 1
        if opened.window != window:
            opened.window = window
            opened.places = _window(*key, length=length, order=opened.order, window=window)
        return int(opened.places[offset - opened.starts[window * WINDOW]])

    def draw(self, step: int, slot: int) -> Draw:
        """Returns what stands in place ``slot`` of the global batch of ``step``."""
        reader, j = divmod(slot, self.draws_per_step)
        pattern, counts = self._cycle(reader)
        cycle, place = divmod(step * self.draws_per_step + j, len(pattern))
        dataset = int(pattern[place])
        position = cycle * int(counts[-1, dataset]) + int(counts[place, dataset])
        return self.at(dataset=dataset, reader=reader, position=position)

    def batch_plan(self, step: int) -> np.ndarray:
        """Returns the global batch of a step: a ``PLAN`` record (dataset, reader, pass, sample) per place, (B,)."""
        draws = (self.draw(step, slot) for slot in range(self.global_batch_size))
        rows = [(draw.dataset, draw.reader, draw.pass_number, draw.sample) for draw in draws]
        return np.array(rows, dtype=PLAN)


def _blocks(*key: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offset at which each permuted block of a pass starts (K,), and which block it is (K,)."""
    size = min(BLOCK, -(-length // WINDOW))
    order = permutation(-(-length // size), "blocks", *key)
    lengths = np.minimum(length - order * size, size)
    return np.cumsum(lengths) - lengths, order


def _window(*key: int, length: int, order: np.ndarray, window: int) -> np.ndarray:
    """Returns the shuffled places of one window of a pass whose blocks come in ``order``, int64."""
    size = min(BLOCK, -(-length // WINDOW))
    blocks = order[window * WINDOW : (window + 1) * WINDOW]
    places = np.concatenate([np.arange(block * size, min((block + 1) * size, length)) for block in blocks])
    return places[permutation(len(places), "window", *key, window)]


@dataclass
class _Opened:
    """What is kept of the pass that a reader is in: its blocks and the one window that is being read."""

    pass_number: int
    starts: np.ndarray
    order: np.ndarray
    window: int = -1
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
