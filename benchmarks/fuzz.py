"""Broken input through vea's public readers: an answer or one sentence, never a traceback, a hang or a stray file.

    python benchmarks/fuzz.py --count 2000 --seed 0 [--kinds picture,csv] [--workers 1] [--limit-s 20] [--json FILE]
    python benchmarks/fuzz.py --seed 0 --case 1234        # one case again, with its traceback

Whole inputs (``benchmarks/fuzz_inputs.py``) are mutated: bits, bytes, pieces, and values inside JSON and YAML. Each
case runs in a worker process with a time limit. Outcomes: ``ok``, ``refused`` (a VeaError or RunError of one line),
``traceback`` (any other exception, or a sentence of several lines), ``hang``, ``crash`` (the process died) and
``stray`` (a file beside the case's own folder). Exit 0 only if every case was ok or refused.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vea.errors import VeaError, command
from vea.storage.atomic import write_text

GOOD = ("ok", "refused")
OUTCOMES = (*GOOD, "traceback", "hang", "crash", "stray")
START_S = 120.0  # for a worker to import what it needs and to make the whole inputs
MEMORY = 12 << 30  # bytes of address space of a worker: an input must not claim more


def run_case(inputs: Any, kinds: list[str], *, seed: int, number: int, folder: Path) -> tuple[str, str, str]:
    """Returns (kind, outcome, what was said) of case ``number``; the same for the same seed."""
    rng = random.Random(f"{seed}/{number}")
    kind = kinds[number % len(kinds)]
    outer = folder / f"case{number}"
    box = outer / "box"
    box.mkdir(parents=True)
    outcome, said = "ok", ""
    try:
        said = str(inputs.KINDS[kind](rng, box) or "")
    except VeaError as error:
        outcome, said = "refused", str(error)
        if not said.strip() or "\n" in said.strip():
            outcome = "traceback"
    except (Exception, RecursionError) as error:
        outcome = "traceback"
        place = traceback.extract_tb(error.__traceback__)
        last = ([frame for frame in place if "/vea/" in frame.filename] or list(place))[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]} ({where})"
    stray = sorted(entry.name for entry in outer.iterdir() if entry.name != "box")
    if stray:
        outcome, said = "stray", f"beside the case's folder: {', '.join(stray[:3])}"
    shutil.rmtree(outer, ignore_errors=True)
    return kind, outcome, said


def work(pipe: Connection, module: str, kinds: list[str], seed: int, numbers: list[int], folder: str) -> None:
    """A worker: says the number of each case before it, and its outcome after it."""
    quiet()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    inputs = importlib.import_module(module)
    inputs.prepare(
        Path(tempfile.mkdtemp(dir=folder)) / "whole", kinds
    )  # of this process: another may have died in its own
    pipe.send(("ready", None))
    for number in numbers:
        pipe.send(("begins", number))
        pipe.send(("ended", (number, run_case(inputs, kinds, seed=seed, number=number, folder=Path(folder)))))
    pipe.send(("done", None))


def quiet() -> None:
    """No warnings of libraries about the broken inputs that they are given."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class Worker:
    """A process that works through its cases; one that hangs or dies is replaced and goes on behind that case."""

    def __init__(self, kinds: list[str], seed: int, numbers: list[int], folder: Path, limit_s: float, module: str):
        self.kinds, self.seed, self.left, self.limit_s = kinds, seed, list(numbers), limit_s
        self.folder, self.module = folder, module
        self.start()

    def start(self) -> None:
        """Starts a process for the cases that are left."""
        context = multiprocessing.get_context("spawn")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pipe, theirs = context.Pipe(duplex=False)
        arguments = (theirs, self.module, self.kinds, self.seed, self.left, str(self.folder))
        self.process = context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.current: int | None = None
        self.deadline = time.monotonic() + START_S

    def poll(self) -> list[tuple[int, tuple[str, str, str]]]:
        """Returns what ended since the last look, by number."""
        ended: list[tuple[int, tuple[str, str, str]]] = []
        try:
            while self.pipe.poll(0.05):
                what, value = self.pipe.recv()
                self.deadline = time.monotonic() + self.limit_s
                if what == "begins":
                    self.current = value
                elif what == "ended":
                    self.left.remove(value[0])
                    ended.append(value)
                elif what == "done":
                    return ended
        except (EOFError, OSError):
            self.process.join()
            ended.append(self._lost("crash", f"the process ended with {self.process.exitcode}"))
        if self.left and time.monotonic() > self.deadline:
            ended.append(self._lost("hang", f"no answer within {self.limit_s:g} s"))
        return ended

    def _lost(self, outcome: str, said: str) -> tuple[int, tuple[str, str, str]]:
        with contextlib.suppress(Exception):
            self.process.kill()
            self.process.join()
        if self.current is None or self.current not in self.left:
            raise VeaError(f"a worker of the fuzzer did not come up ({said}); run one case with --case 0 to see why")
        number = self.current
        self.left.remove(number)
        if self.left:
            self.start()
        return number, (self.kinds[number % len(self.kinds)], outcome, said)

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()


def run(count: int, *, seed: int, kinds: list[str], workers: int, limit_s: float, first: int = 0,
        module: str = "fuzz_inputs") -> dict[str, Any]:  # fmt: skip
    """Returns counts {kind: {outcome: number}}, the seconds, and every case that was neither ok nor refused."""
    began = time.monotonic()
    table: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in kinds}
    bad = []
    with tempfile.TemporaryDirectory(prefix="vea-fuzz-") as place:
        numbers = list(range(first, first + count))
        team = [
            Worker(kinds, seed, numbers[i::workers], Path(place) / f"worker{i}", limit_s, module)
            for i in range(min(workers, count))
        ]
        try:
            while any(worker.left for worker in team):
                for worker in team:
                    for number, (kind, outcome, said) in worker.poll() if worker.left else ():
                        table[kind][outcome] += 1
                        if outcome not in GOOD:
                            bad.append({"case": number, "kind": kind, "outcome": outcome, "said": said})
                            print(f"case {number} ({kind}): {outcome}: {said}", flush=True)
        finally:
            for worker in team:
                worker.stop()
    counts = {kind: {outcome: table[kind][outcome] for outcome in OUTCOMES} for kind in kinds}
    return {"count": count, "seed": seed, "first": first, "seconds": time.monotonic() - began, "kinds": counts,
            "bad": sorted(bad, key=lambda case: case["case"])}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"{'kind':12s}" + "".join(f"{name:>11s}" for name in OUTCOMES))
    for kind, counts in result["kinds"].items():
        print(f"{kind:12s}" + "".join(f"{counts[name]:11d}" for name in OUTCOMES))
    print(f"{result['count']} cases, seed {result['seed']}, {result['seconds']:.0f} s, {len(result['bad'])} bad")


def one_case(kinds: list[str], *, seed: int, number: int) -> int:
    """Runs one case here, with its traceback; returns the exit code."""
    import fuzz_inputs

    quiet()
    with tempfile.TemporaryDirectory(prefix="vea-fuzz-") as place:
        fuzz_inputs.prepare(Path(place) / "whole", kinds)
        box = Path(place) / "box"
        box.mkdir()
        kind = kinds[number % len(kinds)]
        print(f"case {number} is of kind {kind}")
        try:
            print(fuzz_inputs.KINDS[kind](random.Random(f"{seed}/{number}"), box) or "ok")
        except VeaError as error:
            print(f"refused: {error}")
        except Exception:
            traceback.print_exc()
            return 1
    return 0


@command
def main(argv: list[str]) -> int:
    """Runs the command line above."""
    import fuzz_inputs

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case: long runs in pieces")
    parser.add_argument("--kinds", default=",".join(fuzz_inputs.KINDS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--limit-s", type=float, default=60.0)
    parser.add_argument("--case", type=int, help="only this one, here, with its traceback")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    kinds = [kind.strip() for kind in given.kinds.split(",")]
    if unknown := set(kinds) - set(fuzz_inputs.KINDS):
        raise VeaError(f"no kinds {', '.join(sorted(unknown))}; there are {', '.join(fuzz_inputs.KINDS)}")
    if given.count < 1 or given.workers < 1:
        raise VeaError("--count and --workers must be 1 or more")
    if given.case is not None:
        return one_case(kinds, seed=given.seed, number=given.case)
    result = run(
        given.count, seed=given.seed, kinds=kinds, workers=given.workers, limit_s=given.limit_s, first=given.first
    )
    show(result)
    if given.json:
        write_text(given.json, json.dumps(result, indent=1) + "\n")
    return 1 if result["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
