"""What is measured of a pupil in validation."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from vea.distributed import collectives
from vea.errors import VeaError
from vea.tasks.base import Batch


def pearson(first: list[float], second: list[float]) -> float:
    """Returns Pearson's r, 0 where one does not vary."""
    a, b = np.asarray(first), np.asarray(second)
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0


class InstructMetrics:
    """Pearson of expected numbers, accuracy and cost of named answers; ``score``: the mean over kinds of questions.

    ``not_asked`` counts the questions whose choices begin with the same token: they are taught, and not scored.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def update(self, outputs: dict[str, Any], batch: Batch) -> None:
        """Adds one batch."""
        valid = batch["valid"].tolist() if "valid" in batch else [True] * len(batch["keys"])
        self._rows += [row for row in outputs["rows"] if valid[row["sample"]]]

    def compute(self) -> dict[str, float]:
        """Returns the scores; collective."""
        gathered = [row for rank in collectives.gather_objects(self._rows) for row in rank]
        rows = [row for row in gathered if "not_asked" not in row]
        if not rows:
            raise VeaError("data.val: no lesson has named answers; name a set with classes, statements or numbers")
        found: dict[str, float] = {}
        numbers: dict[str, list[dict[str, Any]]] = {}
        named: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            (numbers if "value" in row else named).setdefault(
                row["class"] if "value" in row else row["task"], []
            ).append(row)
        for name, held in sorted(numbers.items()):
            found[f"{name}/pearson"] = pearson([row["value"] for row in held], [row["truth"] for row in held])
        for name, held in sorted(named.items()):
            found[f"{name}/accuracy"] = fmean(row["right"] for row in held)
            found[f"{name}/cost"] = fmean(row["cost"] for row in held)
        found = {"score": fmean(v for name, v in found.items() if not name.endswith("/cost")), **found}
        return found | ({"not_asked": float(len(gathered) - len(rows))} if len(rows) < len(gathered) else {})
