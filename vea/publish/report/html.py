"""Text, numbers and tables of a report as HTML."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

_HEADLINE = ("accuracy", "accuracy_top3", "balanced_accuracy", "macro_f1")


_text = html.escape


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _interval(bounds: Any) -> str:
    if not isinstance(bounds, list) or not all(isinstance(b, (int, float)) and math.isfinite(b) for b in bounds):
        return "–"
    return " – ".join(f"{bound:.4f}" for bound in bounds)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in head) + "</tr>"]
    for first, *rest in rows:
        lines.append(f"<tr><th>{_text(first)}</th>" + "".join(f"<td>{_text(cell)}</td>" for cell in rest) + "</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _is_local(path: str) -> bool:
    return "://" not in path  # a report asks no server, so sets behind a URL are named and not opened
