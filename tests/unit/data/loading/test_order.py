"""The order of data: a pure function of (seed, step, batch), complete passes, right shares, constant cost."""

import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from vea.data.loading.order import Order, kept_samples, keyed_bits, keyed_words, quotas


def order(sizes=(1000,), *, weights=None, seed=0, batch=32, readers=8) -> Order:
    return Order(tuple(sizes), tuple(weights or [1.0] * len(sizes)), seed, batch, readers)


def stream(o: Order, dataset: int, reader: int, count: int, start: int = 0) -> list[int]:
    return [o.at(dataset=dataset, reader=reader, position=p).sample for p in range(start, start + count)]


@pytest.mark.parametrize("size", [8, 9, 100, 1000, 30_001])
def test_every_sample_once_per_pass_of_its_reader(size):
    o = order([size])
    owned: Counter = Counter()
    for reader in range(8):
        first, last = o.slice_of(0, reader)
        passes = [stream(o, 0, reader, last - first, p * (last - first)) for p in range(2)]
        for seen in passes:
            assert sorted(seen) == list(range(first, last))
        if last - first > 20:
            assert passes[0] != passes[1] != sorted(passes[1])
        owned.update(passes[0])
    assert owned == Counter(range(size))  # the slices share the set without gap or overlap


def test_samples_stay_in_a_window_of_blocks():
    o = order([100_000], readers=1)
    window = stream(o, 0, 0, 8 * 256)
    assert len({sample // 256 for sample in window}) in (8, 9)  # nine where the short last block is among them
    assert [sample // 256 for sample in window[:256]] != [window[0] // 256] * 256  # mixed across the blocks


def test_fewer_samples_than_readers():
    o = order([3], readers=8)
    seen = [stream(o, 0, reader, 5) for reader in range(8)]
    assert all(len(set(samples)) == 1 for samples in seen)
    assert {samples[0] for samples in seen} == {0, 1, 2}
    assert Counter(s[0] for s in seen) == {0: 3, 1: 3, 2: 2}


def test_plan_is_laid_out_reader_by_reader_and_agrees_with_draw():
    o = order([1000, 50], weights=[3, 1])
    plan = o.batch_plan(17)
    assert plan["reader"].tolist() == [slot // 4 for slot in range(32)]
    for slot in range(32):
        draw = o.draw(17, slot)
        expected = (draw.dataset, draw.reader, draw.pass_number, draw.sample)
        assert plan[slot].tolist() == expected


def test_steps_continue_each_readers_stream():
    o = order([1000])
    for reader in (0, 5):
        drawn = [o.draw(step, reader * 4 + j).sample for step in range(100) for j in range(4)]
        assert drawn == stream(o, 0, reader, 400)


def test_seed_changes_the_order_and_nothing_else_does():
    assert (order().batch_plan(3) == order().batch_plan(3)).all()
    assert (order().batch_plan(3) != order(seed=1).batch_plan(3)).any()
    assert (order([1000, 200]).batch_plan(3) == order([1000, 200]).batch_plan(3)).all()


def test_a_mixture_has_its_weights_and_mixes_every_batch():
    o = order([4000, 900, 70], weights=[6, 3, 1], batch=64, readers=64)  # one draw of each reader per step
    counts = Counter(int(d) for step in range(128) for d in o.batch_plan(step)["dataset"])
    total = sum(counts.values())
    assert [counts[d] / total for d in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.02)
    assert all(len(set(o.batch_plan(step)["dataset"])) > 1 for step in range(20))
    whole_cycle = Counter(o.draw(step, 0).dataset for step in range(1024))
    assert [whole_cycle[d] for d in range(3)] == quotas([6, 3, 1], total=1024).tolist()


def test_positions_in_a_mixture_are_the_count_of_earlier_draws():
    o = order([40, 30], weights=[2, 1], batch=8, readers=2)
    seen: Counter = Counter()
    for n in range(5000):  # several cycles
        draw = o.draw(n // 4, n % 4)
        assert draw.position == seen[draw.dataset]
        seen[draw.dataset] += 1


def test_keyed_words_are_the_stream_of_their_key_alone():
    first = keyed_words(7, "mask", 0, 5)
    assert keyed_words(3, "mask", 0, 6).tolist() == keyed_bits("mask", 0, 6).random_raw(3).tolist()
    assert keyed_words(7, "mask", 0, 5).tolist() == first.tolist() == keyed_bits("mask", 0, 5).random_raw(7).tolist()
    assert set(keyed_words(7, "mask", 0, 7).tolist()).isdisjoint(first.tolist())


def test_quotas():
    assert quotas([1, 1], total=5).sum() == 5
    assert sorted(quotas([1e-9, 1, 1], total=100).tolist()) == [1, 49, 50]
    assert quotas([0.5, 0.25, 0.25], total=8).tolist() == [4, 2, 2]
    assert quotas([1.0] * 7, total=7).tolist() == [1] * 7


def test_fraction_is_exact_nested_and_never_empty():
    some, more = kept_samples(1000, fraction=0.1), kept_samples(1000, fraction=0.35)
    assert len(some) == 100 and len(more) == 350
    assert set(some) < set(more)
    assert (np.diff(some) > 0).all()
    assert np.bincount(some // 250, minlength=4).min() > 10  # spread over the set
    assert kept_samples(1000, fraction=1.0) is None
    assert len(kept_samples(5, fraction=0.01)) == 1


def test_a_late_step_costs_no_more_than_the_first():
    def seconds(step: int) -> float:
        o = order([3_000_000, 100_000], weights=[3, 1], seed=step, batch=256, readers=16)
        start = time.process_time()
        o.batch_plan(step)
        return time.process_time() - start

    seconds(1)
    assert min(seconds(10**6 + i) for i in range(3)) < 5 * max(seconds(i) for i in range(3)) + 0.05


def test_the_stream_is_pinned():
    """A change of these numbers breaks every resume: it needs a new format version, not a new expectation."""
    o = order([1000, 300], weights=[2, 1])
    rows = [tuple(row) for row in o.batch_plan(12345)[:4].tolist()]
    assert rows == [(0, 0, 263, 74), (0, 0, 263, 110), (0, 0, 263, 54), (0, 0, 263, 7)]


@pytest.mark.parametrize("count", [1, 2, 7, 100, 1001])
@pytest.mark.parametrize("edges", [(0.0, 0.9, 1.0), (0.0, 0.5, 1.0), (0.0, 0.1, 0.35, 1.0), (0.0, 1 / 3, 2 / 3, 1.0)])
def test_parts_share_nothing_and_are_all(count: int, edges: tuple[float, ...]):
    parts = [kept_samples(count, part=ends) for ends in pairwise(edges)]
    held = [np.arange(count) if part is None else part for part in parts]
    assert sorted(np.concatenate(held).tolist()) == list(range(count))


def test_a_fraction_of_a_part_stays_in_it():
    part = kept_samples(1000, part=(0.8, 1.0))
    some = kept_samples(1000, part=(0.8, 1.0), fraction=0.1)
    assert len(part) == 200 and len(some) == 20 and set(some) <= set(part)  # type: ignore[arg-type]
    assert kept_samples(1000, part=(0.0, 1.0)) is None
