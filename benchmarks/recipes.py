"""What the benchmarks that train share: call a recipe, do nothing twice, sum up over seeds."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from vea.errors import RunError


def run(script: str, *arguments: str) -> None:
    """Runs a recipe of the repository; its failure is ours."""
    words = [sys.executable, script, *arguments]
    if subprocess.run(words).returncode:
        raise RunError(f"{' '.join(words[1:])} failed; its own message is above, what is complete is kept")


def evaluated(
    folder: Path, recipe: str, *arguments: str, split: str = "test", beams: int | None = None
) -> dict[str, Any]:
    """Returns the evaluation of the run in ``folder``, trained by ``recipe`` and scored first unless that is done.

    A finished run is taken as it is: whether it was made with these arguments is not asked. ``beams``: of evaluate.py.
    """
    path = folder / f"evaluation_{split}{'' if beams is None else f'_beams{beams}'}.json"
    if not path.is_file():
        run(recipe, *arguments, f"out={folder}")
        search = [] if beams is None else ["--beams", str(beams)]
        run("finetune/evaluate.py", str(folder), "--split", split, *search)
    return json.loads(path.read_text(encoding="utf-8"))


def summary(values: list[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (0 for one value)."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0
