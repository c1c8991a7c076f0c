"""Expressions over time as one HTML page: a timeline and the peaks of every person in a video.

Rows are added as they come and memory is bounded: a timeline has at most ``BINS`` bins, which double their width when
they run out, and the ``PEOPLE`` who were seen most are kept.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vea.publish.report.html import _table, _text
from vea.publish.report.page import _CSS
from vea.storage.atomic import write_text

if TYPE_CHECKING:
    from vea.inference.video import Row

BINS, BIN_S = 600, 0.05
PEOPLE = 30  # timelines of a video
PEAK = 0.3  # share from which a peak is worth a picture
WIDE, HIGH = 1000, 110  # of a timeline, in units of its drawing
_COLOURS = ("#d1495b", "#7a9e3f", "#7d5ba6", "#f2b134", "#3d7ea6", "#e87ea1", "#9aa3ab", "#2a9d8f", "#8d6e63", "#555")


@dataclass
class _Person:
    number: int
    first: float
    last: float
    rows: int = 0
    shares: dict[int, np.ndarray] = field(default_factory=dict)  # bin: sums of probabilities
    counts: dict[int, int] = field(default_factory=dict)
    values: dict[int, np.ndarray] = field(default_factory=dict)
    peaks: dict[str, tuple[float, float, np.ndarray | None]] = field(default_factory=dict)  # share, time, picture


class Timeline:
    """Collects the rows of one video."""

    def __init__(self, name: str) -> None:
        self.name, self.width, self.classes, self.labels = name, BIN_S, [], []  # type: str, float, list, list
        self.end, self.forgotten = 0.0, 0
        self.people: dict[int, _Person] = {}

    def add(self, row: Row) -> None:
        """Adds a face in a frame."""
        self.classes, self.labels = list(row.probabilities), list(row.values)
        person = self.people.setdefault(row.track, _Person(row.track, row.time, row.time))
        person.last, self.end = row.time, max(self.end, row.time)
        while self.end / self.width >= BINS:
            self._widen()
        place = int(max(0.0, row.time) / self.width)
        _sum(person.shares, place, np.fromiter(row.probabilities.values(), float))
        _sum(person.values, place, np.fromiter(row.values.values(), float))
        person.counts[place] = person.counts.get(place, 0) + 1
        person.rows += 1
        share = row.probabilities.get(row.expression, 0.0)
        if share > max(PEAK, person.peaks.get(row.expression, (0.0,))[0]):
            person.peaks[row.expression] = (share, row.time, row.thumbnail)
        if len(self.people) > 4 * PEOPLE:
            self._forget(keep=row.track)

    def _widen(self) -> None:
        self.width *= 2
        for person in self.people.values():
            for name in ("shares", "counts", "values"):
                new: dict[int, Any] = {}
                for place, value in getattr(person, name).items():
                    new[place // 2] = new.get(place // 2, 0) + value
                setattr(person, name, new)

    def _forget(self, *, keep: int) -> None:
        often = sorted(self.people.values(), key=lambda person: (person.number != keep, -person.rows))
        self.forgotten += len(often[2 * PEOPLE :])
        self.people = {person.number: person for person in often[: 2 * PEOPLE]}

    def html(self) -> str:
        """Returns the part of the page that shows this video."""
        often = sorted(self.people.values(), key=lambda person: -person.rows)
        shown = sorted(often[:PEOPLE], key=lambda person: person.first)
        hidden = self.forgotten + len(often) - len(shown)
        parts = [f"<h2>{_text(self.name)}</h2>"]
        if not shown:
            return parts[0] + "<p>No face was found.</p>"
        parts.append(self._legend())
        parts += [self._person(person) for person in shown]
        if hidden:
            parts.append(f'<p class="dim">{hidden} more people were seen for a shorter time.</p>')
        return "\n".join(parts)

    def _legend(self) -> str:
        marks = (f'<span style="color:{_colour(i)}">■</span> {_text(name)}' for i, name in enumerate(self.classes))
        return f"<p>{' &nbsp; '.join(marks)}</p>"

    def _person(self, person: _Person) -> str:
        total = sum(person.shares.values()) / max(1, person.rows)  # type: ignore[arg-type]
        shares = [f"{share:.0%}" for share in np.broadcast_to(total, len(self.classes))]
        peaks = "".join(
            f"<figure>{_picture(image)}<figcaption>{_text(name)} {share:.0%} at {time:.2f} s</figcaption></figure>"
            for name, (share, time, image) in sorted(person.peaks.items(), key=lambda item: item[1][1])
        )
        return (
            f"<h3>Person {person.number}: {person.first:.2f} to {person.last:.2f} s, {person.rows} frames</h3>"
            + self._stack(person)
            + "".join(self._line(person, i, name) for i, name in enumerate(self.labels))
            + _table(["mean share", *self.classes], [[f"person {person.number}", *shares]])
            + f'<div class="grid errors">{peaks}</div>'
        )

    def _x(self, seconds: float) -> float:
        return round(WIDE * seconds / max(self.end + self.width, self.width), 1)

    def _stack(self, person: _Person) -> str:
        drawn = []
        for run in _runs(sorted(person.shares), self.width):
            rows = np.stack([person.shares[place] / person.counts[place] for place in run])
            x = [self._x(run[0] * self.width), *(self._x((place + 0.5) * self.width) for place in run)]
            x.append(self._x((run[-1] + 1) * self.width))
            edges = np.pad(np.cumsum(np.pad(rows, ((0, 0), (1, 0))), 1), ((1, 1), (0, 0)), mode="edge")
            for i in range(rows.shape[1]):
                points = [*zip(x, edges[:, i]), *zip(x[::-1], edges[::-1, i + 1])]
                text = " ".join(f"{a:.1f},{HIGH * (1 - b):.1f}" for a, b in points)
                drawn.append(f'<polygon points="{text}" fill="{_colour(i)}"/>')
        return _svg("".join(drawn), HIGH, self.end, f"probabilities of person {person.number} over time")

    def _line(self, person: _Person, index: int, name: str) -> str:
        places = sorted(person.values)
        values = [float(person.values[place][index]) / person.counts[place] for place in places]
        low, high = min(values), max(values)
        points = " ".join(
            f"{self._x((place + 0.5) * self.width)},{50 - 45 * (value - low) / max(high - low, 1e-9):.1f}"
            for place, value in zip(places, values)
        )
        line = f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
        return f"<p>{_text(name)}: {low:.2f} to {high:.2f}</p>" + _svg(line, 55, self.end, f"{name} over time")


def _sum(sums: dict[int, np.ndarray], place: int, value: np.ndarray) -> None:
    sums[place] = sums[place] + value if place in sums else value


def _runs(places: Sequence[int], width: float) -> list[list[int]]:
    """Returns bins that belong together: a gap is one that is long beside the usual step."""
    usual = float(np.median(np.diff(places))) if len(places) > 1 else 1.0
    runs: list[list[int]] = []
    for place in places:
        if runs and place - runs[-1][-1] <= max(3 * usual, 1.0 / width):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _svg(drawn: str, high: int, end: float, title: str) -> str:
    marks = "".join(
        f'<text x="{WIDE * part / 4:.0f}" y="{high + 14}" font-size="11" fill="currentColor" text-anchor="'
        f'{"start" if part == 0 else "end" if part == 4 else "middle"}">{end * part / 4:.1f} s</text>'
        for part in range(5)
    )
    head = f'<svg viewBox="0 0 {WIDE} {high + 18}" width="100%" role="img"><title>{_text(title)}</title>'
    return f"{head}{drawn}{marks}</svg>"


def _picture(image: np.ndarray | None) -> str:
    if image is None:
        return '<div class="none">no picture</div>'
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def write_timelines(path: Path, timelines: Sequence[Timeline], *, description: str, notes: Sequence[str] = ()) -> None:
    """Writes the page, whole or not at all; it asks no server for anything.

    Args:
        path: the HTML file.
        timelines: one a video.
        description: which model read the faces.
        notes: what went wrong, a sentence each.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    body = "\n".join(timeline.html() for timeline in timelines)
    told = "".join(f'<p class="banner">{_text(note)}</p>' for note in notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" '
        f'content="{policy}">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Expressions over time</title>\n<style>{_CSS}</style></head>\n<body>\n<h1>Expressions over time</h1>\n"
        f'<p class="dim">Model: {_text(description)}. What a face shows is not what a person feels.</p>\n{told}{body}\n'
        f'<p class="dim">Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p>\n</body></html>\n',
    )
