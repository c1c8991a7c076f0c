"""Plots and figures of a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from vea.publish.report.html import _HEADLINE, _text

INK = "#808488"  # readable on the white and on the dark page, which share one set of plots
_CAPTIONS = {
    "reconstruction": "Reconstruction: image | masked | reconstruction, one sample a row",
    "similarity_student": "Similarity matrix A (student): the samples of one batch against each other",
    "similarity_teacher": "Similarity matrix C (teacher): the same samples, the same colour scale as A",
}
_SPEED = ("images_per_s", "data_wait", "grad_norm", "lr", "memory_gb")
_BOOKKEEPING = {"kind", "step", "samples", "time", "elapsed_s", "eta_s"}
_TITLES = {
    "images_per_s": "Throughput: images per second",
    "data_wait": "Share of time waiting for data",
    "grad_norm": "Gradient norm",
    "lr": "Learning rate",
    "memory_gb": "GPU memory (GB)",
}


def _series(records: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    points = [(r["step"], r[name]) for r in records if isinstance(r.get(name), (int, float))]
    return [step for step, _ in points], [float(value) for _, value in points]


def _names(records: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the numbers that ``records`` have, in the order of their first appearance."""
    seen: dict[str, None] = {}
    for record in records:
        seen |= {name: None for name, value in record.items() if isinstance(value, (int, float))}
    return [name for name in seen if name not in _BOOKKEEPING]


def _is_loss(name: str) -> bool:
    return "loss" in name or name.rpartition("/")[2] == "nll"


def group_names(train: Sequence[str], val: Sequence[str]) -> dict[str, tuple[str, list[str]]]:
    """Returns the plots to draw: title -> ("train" or "val", names that share the plot)."""
    groups: dict[str, tuple[str, list[str]]] = {}

    def add(title: str, kind: str, name: str) -> None:
        groups.setdefault(title, (kind, []))[1].append(name)

    for name in train:
        if _is_loss(name):
            add("Training loss and its parts", "train", name)
    for name in _SPEED:
        if name in train:
            add(_TITLES[name], "train", name)
    for name in train:
        if not _is_loss(name) and name not in _SPEED:
            add(f"Training: {name}", "train", name)
    for name in val:
        parent, _, last = name.rpartition("/")
        if _is_loss(name):
            add("Validation losses", "val", name)
        elif last in _HEADLINE:
            add(f"Validation: {parent or 'metrics'}", "val", name)
        elif parent.rpartition("/")[2] == "recall":
            add(f"Validation: {parent}", "val", name)
        else:
            add(f"Validation: {name}", "val", name)
    return groups


def _plot(records: Sequence[dict[str, Any]], names: Sequence[str], *, title: str, percent: bool) -> bytes:
    """Returns a transparent PNG of the series ``names`` over the step."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no pyplot: no display, no global state
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(5.6, 3.1), dpi=110, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    colours = matplotlib.colormaps["tab10" if len(names) <= 10 else "tab20"]
    for index, name in enumerate(names):
        steps, values = _series(records, name)
        marker = "o" if len(steps) <= 30 else None  # a single point has no line
        axes.plot(steps, values, label=name, linewidth=1.4, marker=marker, markersize=3, color=colours(index % 20))
    axes.set_title(title, color=INK, fontsize=10, loc="left", parse_math=False)
    axes.set_xlabel("step", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=8)
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if len(names) > 1:
        axes.legend(fontsize=7, frameon=False, labelcolor=INK, ncols=1 if len(names) <= 8 else 2)
    stream = io.BytesIO()
    canvas.print_png(stream)
    return stream.getvalue()


def _image(data: bytes, *, alt: str, kind: str = "png") -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{_text(alt)}">'


def _figure(data: bytes, *, caption: str, alt: str | None = None) -> str:
    shown = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    return f"<figure>{_image(data, alt=alt or caption)}{shown}</figure>"


def caption_of(stem: str) -> str:
    """Returns the words below a picture, from its file name without ``.png``."""
    words = stem.replace("_", " ").replace("-", " ").strip()
    return _CAPTIONS.get(stem, words[:1].upper() + words[1:])
