"""Expressions over time: every face of a video, frame by frame, in tracks, smoothed by a chain over each track.

    for row in track("clip.mp4", every=5):
        print(row.time, row.track, row.expression, row.probabilities)

Memory does not grow with the length of the video: frames are recognised ``BLOCK`` at a time, and a track is smoothed
over a block with what came before it as context. The chain (``vea.models.crf``) knows one thing: an expression lasts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vea.errors import VeaError
from vea.faces.align import crop_square
from vea.faces.detect import Box
from vea.faces.tracks import Tracker
from vea.faces.video import Frame, frames
from vea.inference import readings
from vea.models.crf import ChainCRF

if TYPE_CHECKING:
    from vea.inference.predict import Predictor

BLOCK = 240  # frames that are recognised and smoothed together
CONTEXT = 48  # rows of a track before the block that the chain sees again
LASTS_S = 1.0  # mean seconds that an expression lasts, of the chain
EVIDENCE_S = 0.3  # frames closer than this err alike, and count as one (docs/results/video.md: measured on a clip)
THUMBNAIL = 96  # pixels a side


@dataclass
class Row:
    """One face in one frame.

    ``time`` in seconds, ``track`` numbers the people from 1, ``box`` (x0, y0, x1, y1) in pixels of the upright frame.
    ``raw`` are the probabilities of this frame alone; ``probabilities`` are smoothed over the track where asked for.
    ``values`` holds every label that is a number, e.g. valence and arousal; ``readings`` (this frame alone, never
    smoothed) action units, intensities, valence and arousal of the face, where they were asked for.
    """

    frame: int
    time: float
    track: int
    box: Box
    score: float
    expression: str
    probabilities: dict[str, float]
    raw: dict[str, float]
    values: dict[str, float] = field(default_factory=dict)
    readings: dict[str, float] = field(default_factory=dict)
    thumbnail: np.ndarray | None = None  # RGB uint8 (THUMBNAIL, THUMBNAIL, 3), where asked for

    def record(self) -> dict[str, Any]:
        """Returns a flat mapping of plain values: a row of CSV, JSON lines, Parquet or a data frame."""
        x0, y0, x1, y1 = self.box
        return {
            "frame": self.frame, "time": round(self.time, 4), "track": self.track, "x0": x0, "y0": y0, "x1": x1,
            "y1": y1, "score": round(self.score, 4), "expression": self.expression,
            **{f"p_{name}": round(value, 4) for name, value in self.probabilities.items()},
            **{name: round(value, 4) for name, value in {**self.values, **self.readings}.items()},
        }  # fmt: skip


def lasting(classes: int, *, step_s: float, lasts_s: float = LASTS_S) -> ChainCRF:
    """Returns a chain in which an expression lasts ``lasts_s`` seconds on average, for frames ``step_s`` apart."""
    stay = math.exp(-step_s / lasts_s)
    chain = ChainCRF(classes)
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.zero_()
        leave = (1 - stay) / max(1, classes - 1)
        chain.own.fill_(math.log(max(leave, 1e-6)))
        chain.own.fill_diagonal_(math.log(max(stay, 1e-6)))
    return chain


def smooth(
    probabilities: np.ndarray, *, step_s: float, lasts_s: float = LASTS_S, evidence_s: float = EVIDENCE_S
) -> np.ndarray:
    """Returns P(class at t | whole series) (T, C) of frame-wise probabilities (T, C), ``step_s`` seconds apart.

    Frames less than ``evidence_s`` apart share their errors: each counts for its share of that time, or a second of
    video would look like 25 witnesses. 0: all frames are independent.
    """
    weight = min(1.0, step_s / evidence_s) if evidence_s else 1.0
    logits = weight * torch.from_numpy(np.log(np.clip(probabilities, 1e-6, 1))).float()
    return lasting(probabilities.shape[1], step_s=step_s, lasts_s=lasts_s).marginals(logits).numpy()


def columns(predictor: Predictor, *, units: bool = False) -> dict[str, type]:
    """Returns name and type of each entry of ``Row.record`` by this predictor, in order."""
    values = [name for name, label in predictor.fields.items() if label.kind == "value"]
    names: dict[str, type] = {"frame": int, "time": float, "track": int}
    names |= dict.fromkeys(("x0", "y0", "x1", "y1"), int) | {"score": float, "expression": str}
    values += readings.columns(predictor.readings) if units else []
    return names | dict.fromkeys((f"p_{name}" for name in predictor.classes), float) | dict.fromkeys(values, float)


def track(
    source: str | Path | int | Iterator[Frame],
    *,
    predictor: Predictor | None = None,
    every: int = 1,
    smoothing: bool = True,
    thumbnails: bool = False,
    units: bool = False,
) -> Iterator[Row]:
    """Yields one ``Row`` for each face of every ``every``-th frame, in order of time.

    Args:
        source: video file, or the number of a camera (rows then come frame by frame, unsmoothed); or frames at hand,
            of which all are looked at.
        predictor: of ``vea.load``; by default the expression model that ships.
        every: look at each ``every``-th frame only.
        smoothing: let the chain over each track decide; False: each frame alone.
        thumbnails: give each row a small picture of its face.
        units: give each row its readings: action units, intensities, valence and arousal of the face.

    Raises:
        VeaError: the source cannot be read. Rows before a break in the file are yielded first.
    """
    if predictor is None:
        from vea.inference.predict import load

        predictor = load()
    if not predictor.reads_faces:
        raise VeaError(f"{predictor.description} reads whole pictures; tracks are of faces: load an expression model")
    live = isinstance(source, str | Path | int) and str(source).isdigit()
    stream = frames(source, every=every) if isinstance(source, str | Path | int) else source
    recent: dict[int, list[Row]] = {}
    for rows in _blocks(stream, predictor, size=1 if live else BLOCK, thumbnails=thumbnails, units=units):
        if smoothing and not live:
            _smooth_block(rows, recent)
        yield from rows


def _blocks(
    stream: Iterator[Frame], predictor: Predictor, *, size: int, thumbnails: bool = False, units: bool = False
) -> Iterator[list[Row]]:
    """Yields the rows of ``size`` frames at a time; an error of the stream comes after the rows before it."""
    tracker = Tracker()
    rows: list[Row] = []
    count, broken = 0, None
    while True:
        try:
            frame = next(stream, None)
        except VeaError as error:
            frame, broken = None, error
        if frame is not None:
            count += 1
            rows += _rows_of(frame, predictor, tracker, thumbnails=thumbnails, units=units)
        if rows and (frame is None or count % size == 0):
            yield rows
            rows = []
        if broken is not None:
            raise broken
        if frame is None:
            return


def _rows_of(frame: Frame, predictor: Predictor, tracker: Tracker, *, thumbnails: bool, units: bool) -> list[Row]:
    (found,) = predictor.predict([frame.image])
    numbers = tracker.update(frame.image, [face.box for face in found.faces], time=frame.time)
    return [
        Row(
            frame.number, frame.time, number, face.box, face.score, face.expression, face.probabilities,
            face.probabilities, face.values, readings.flat(face) if units else {},
            crop_square(frame.image, face.upright or face.box, size=THUMBNAIL, turn=face.turn) if thumbnails else None,
        )
        for face, number in zip(found.faces, numbers)
    ]  # fmt: skip


def _smooth_block(rows: list[Row], recent: dict[int, list[Row]]) -> None:
    """Smooths each track of a block in place; ``recent`` keeps the last rows of each track as context."""
    by_track: dict[int, list[Row]] = {}
    for row in rows:
        by_track.setdefault(row.track, []).append(row)
    for number in set(recent) - set(by_track):
        del recent[number]  # it ended
    for number, new in by_track.items():
        series = recent.get(number, []) + new
        names = list(series[0].raw)
        raw = np.array([[row.raw[name] for name in names] for row in series])
        times = np.array([row.time for row in series])
        step = float(np.median(np.diff(times))) if len(times) > 1 else LASTS_S
        smoothed = smooth(raw, step_s=max(step, 1e-3))[-len(new) :]
        for row, shares in zip(new, smoothed):
            row.probabilities = dict(zip(names, map(float, shares)))
            row.expression = names[int(shares.argmax())]
        recent[number] = series[-CONTEXT:]


def data_frame(rows: Iterable[Row]) -> Any:
    """Returns a pandas data frame of rows, a row a face a frame; a list of dicts where pandas is not installed.

    Where the video breaks off, the rows before it are returned with a warning that says so.

    Raises:
        VeaError: nothing could be read.
    """
    records = []
    try:
        for row in rows:
            records.append(row.record())
    except VeaError as error:
        if not records:
            raise
        warnings.warn(str(error), stacklevel=2)
    try:
        import pandas
    except ImportError:
        return records
    return pandas.DataFrame.from_records(records)
