"""The fuzzer sees every bad outcome, its whole inputs are whole, and some hundred broken ones are answered."""

from __future__ import annotations

import random
import sys

import fuzz
import fuzz_inputs
import pytest

from vea.errors import VeaError

BAD = """
import os, time
from vea.errors import VeaError
class Long(VeaError):
    def __str__(self): return "a\\nb"
def prepare(folder, kinds): pass
def fine(rng, box): return 1
def refused(rng, box): raise VeaError("x is wrong; mend it")
def lines(rng, box): raise Long("a")
def broken(rng, box): {}["x"]
def hangs(rng, box): time.sleep(60)
def dies(rng, box): os._exit(3)
def writes(rng, box): (box.parent / "outside").write_text("x")
KINDS = {f.__name__: f for f in (fine, refused, lines, broken, hangs, dies, writes)}
"""
WANTED = {"fine": "ok", "refused": "refused", "lines": "traceback", "broken": "traceback", "hangs": "hang",
          "dies": "crash", "writes": "stray"}  # fmt: skip


def test_every_bad_outcome_is_seen_and_the_rest_goes_on(tmp_path, monkeypatch):
    (tmp_path / "bad_inputs.py").write_text(BAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    result = fuzz.run(14, seed=0, kinds=list(WANTED), workers=1, limit_s=2, module="bad_inputs")
    assert {kind: [name for name, n in counts.items() if n] for kind, counts in result["kinds"].items()} == {
        kind: [outcome] for kind, outcome in WANTED.items()
    }
    assert all(sum(counts.values()) == 2 for counts in result["kinds"].values())
    assert len(result["bad"]) == 2 * 5
    sys.modules.pop("bad_inputs", None)


DAMAGED = ("page", "weights", "safetensors", "npy", "folders")  # kinds that are broken in ways of their own


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fuzz_inputs.prepare(folder, list(fuzz_inputs.KINDS))
    return folder


@pytest.mark.parametrize("kind", [kind for kind in fuzz_inputs.KINDS if kind not in DAMAGED])
def test_what_is_not_mutated_is_read(kind, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_inputs, "bytes_like", lambda rng, data: data)
    monkeypatch.setattr(fuzz_inputs, "value_like", lambda rng, value: value)
    for seed in range(4):
        box = tmp_path / str(seed) / "box"
        box.mkdir(parents=True)
        try:
            fuzz_inputs.KINDS[kind](random.Random(seed), box)
        except VeaError as error:
            assert kind == "config" and ("unknown key" in str(error) or "should be" in str(error)), error


@pytest.mark.parametrize("kind", [kind for kind in fuzz_inputs.KINDS if kind not in ("page", "model")])
def test_broken_inputs_are_answered(kind, whole, tmp_path):
    outcomes = [
        fuzz.run_case(fuzz_inputs, [kind], seed=1, number=number, folder=tmp_path / str(number)) for number in range(25)
    ]
    assert not [outcome for outcome in outcomes if outcome[1] not in fuzz.GOOD]
    assert any(outcome[1] == "refused" for outcome in outcomes) or kind in ("tar", "sidecar"), (
        "some of them are broken enough"
    )
