"""What the benchmarks that train share: call a recipe, do nothing twice, sum up over seeds."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vea.config import load_config
from vea.errors import RunError, VeaError
from vea.storage.atomic import write_text
from vea.training.resume import first_difference


def run(script: str, *arguments: str) -> None:
    """Runs a recipe of the repository; its failure is ours."""
    words = [sys.executable, script, *arguments]
    if subprocess.run(words).returncode:
        raise RunError(f"{' '.join(words[1:])} failed; its own message is above, what is complete is kept")


def check_finished(folder: Path, config: str | Path, *overrides: str) -> None:
    """Raises ``VeaError`` where the finished run in ``folder`` was made with other settings than these."""
    made, wanted = load_config(folder / "config.yaml"), load_config(config, list(overrides))
    difference = first_difference(made.model_dump(mode="json"), wanted.model_dump(mode="json"))
    if difference:
        raise VeaError(
            f"{folder} holds a finished run with other settings ({difference}); remove it, or give another --out"
        )


def evaluated(
    folder: Path, recipe: str, *arguments: str, split: str = "test", beams: int | None = None
) -> dict[str, Any]:
    """Returns the evaluation of the run in ``folder``, trained by ``recipe`` and scored first unless that is done.

    ``arguments``: of the recipe, its config first. ``beams``: of evaluate.py.

    Raises:
        VeaError: a finished run there was made with other arguments.
    """
    path = folder / f"evaluation_{split}{'' if beams is None else f'_beams{beams}'}.json"
    if path.is_file():
        check_finished(folder, *arguments)
    else:
        run(recipe, *arguments, f"out={folder}")
        search = [] if beams is None else ["--beams", str(beams)]
        run("finetune/evaluate.py", str(folder), "--split", split, *search)
    return json.loads(path.read_text(encoding="utf-8"))


def kept_rows(file: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Returns ``{**about, "rows": {...}}`` of a file that ``add_rows`` wrote, without rows where there is none yet.

    Raises:
        VeaError: its rows were made with other settings than ``about``.
    """
    if not file.is_file():
        return {**about, "rows": {}}
    there = json.loads(file.read_text(encoding="utf-8"))
    if {**there, "rows": {}} != {**about, "rows": {}}:
        raise VeaError(f"{file} has other {' or '.join('--' + name.replace('_', '-') for name in about)}; "
                       "give another place")  # fmt: skip
    return there


def add_rows(file: Path, made: dict[str, Any], wanted: list[tuple[str, int]],
             measured: Callable[[str, int], dict[str, Any]], *, limit: int | None) -> None:  # fmt: skip
    """Makes the rows (arm, seed) that ``made`` lacks, at most ``limit``; writes ``file`` after each."""
    missing = [(arm, seed) for arm, seed in wanted if f"{arm}|{seed}" not in made["rows"]]
    for arm, seed in missing[:limit]:
        print(f"{arm}, seed {seed}", flush=True)
        before = _processor_seconds()
        row = measured(arm, seed)
        made["rows"][f"{arm}|{seed}"] = {**row, "cpu_s": round(_processor_seconds() - before, 1)}
        write_text(file, json.dumps(made, indent=1))


def _processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def summary(values: list[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (0 for one value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def spread(values: list[float], *, digits: int = 1) -> str:
    """Returns mean and sample standard deviation, times 100, in words; one value has no deviation, none is a dash."""
    if not values:
        return "-"
    mean, deviation = summary([100 * value for value in values])
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")
