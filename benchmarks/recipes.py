"""What the benchmarks that train share: call a recipe, do nothing twice, sum up over seeds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from vea.config import load_config
from vea.errors import RunError, VeaError
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


def summary(values: list[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (0 for one value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def spread(values: list[float], *, digits: int = 1) -> str:
    """Returns mean and sample standard deviation, times 100, in words; one value has no deviation, none is a dash."""
    if not values:
        return "-"
    mean, deviation = summary([100 * value for value in values])
    return f"{mean:.{digits}f}" + (f" ± {deviation:.{digits}f}" if len(values) > 1 else "")
