"""The page's tabs for what moves: a clip, uploaded or recorded, and a moment of the camera.

Both come as files that the browser uploads; no stream leaves it. What is made of them lies beside the upload and goes
with it (``vea.inference.visitors``).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vea.errors import VeaError
from vea.faces.video import Frame, frames
from vea.inference.predict import Predictor
from vea.inference.tables import table
from vea.inference.video import Row, columns, track
from vea.inference.visitors import Visitors
from vea.publish.report.timeline import Timeline

ROW_COLUMNS = ["time", "person", "expression", "probability", "box"]
MOST_FRAMES = 300  # that are looked at, of one clip: others wait
MOST_ROWS = 200  # that the page shows; the file has all
EVERY = [1, 2, 5, 10, 25]


def rows_within(
    path: str, predictor: Predictor, *, every: int, told: Callable[[str, VeaError], str]
) -> tuple[list[Row], str]:
    """Returns the rows of the first ``MOST_FRAMES`` frames that are looked at, and what is to be said beside them.

    Raises:
        VeaError: the file gives no row because it cannot be read.
    """
    rows: list[Row] = []
    ends: list[float] = []  # where the looking ended before the clip did, seconds

    def first_frames() -> Iterator[Frame]:
        for count, frame in enumerate(frames(path, every=every)):
            if count == MOST_FRAMES:
                ends.append(frame.time)
                return
            yield frame

    try:
        for row in track(first_frames(), predictor=predictor, thumbnails=True):
            rows.append(row)
    except VeaError as error:
        if not rows:
            raise
        return rows, f"{told(path, error)}."
    return rows, f"Only {MOST_FRAMES} frames were looked at, up to {ends[0]:.1f} s." if ends else ""


def answer_clip(
    predictor: Predictor, visitors: Visitors, path: str | None, every: int, told: Callable[[str, VeaError], str]
) -> tuple[Any, ...]:
    """Returns what the page shows of a clip: sentence, timeline (HTML), rows, path of the rows as CSV.

    ``told``: what is wrong with a file, as Markdown.
    """
    if not path:
        return "Choose or record a clip.", "", [], None
    try:
        rows, note = rows_within(path, predictor, every=every, told=told)
    except VeaError as error:
        return told(path, error), "", [], None
    people = len({row.track for row in rows})
    if not rows:
        return f"No face was found in this clip. {note}".strip(), "", [], None
    timeline = Timeline(Path(path).name)
    for row in rows:
        timeline.add(row)

    def save(place: Path) -> None:
        with table(place, columns(predictor)) as write:
            for row in rows:
                write(row.record())

    try:
        saved = visitors.result(path, "rows.csv", save)
    except VeaError as error:
        return told(path, error), "", [], None
    shown = [
        [round(row.time, 2), row.track, row.expression, round(max(row.probabilities.values()), 3),
         ", ".join(map(str, row.box))]
        for row in itertools.islice(rows, MOST_ROWS)
    ]  # fmt: skip
    more = f" The table shows the first {MOST_ROWS} of {len(rows)} rows; the file has all." * (len(rows) > MOST_ROWS)
    sentence = f"**{people} {'person' if people == 1 else 'people'}**, {len(rows)} rows.{more} {note}"
    return sentence.strip(), timeline.html(), shown, saved


def build_clip_tab(predictor: Predictor, visitors: Visitors, told: Callable[[str, VeaError], str]) -> None:
    """Adds the tab of clips to the ``gradio.Blocks`` that is being built."""
    import gradio as gr

    with gr.Tab("Video"):
        with gr.Row():
            clip = gr.Video(label="Clip: a file, or the camera", sources=["upload", "webcam"], include_audio=False,
                            elem_id="clip", height=320)  # fmt: skip
            with gr.Column():
                every = gr.Dropdown(EVERY, value=5, label="Look at each n-th frame", elem_id="every")
                start = gr.Button("Look", variant="primary", elem_id="watch")
                sentence = gr.Markdown(elem_id="watched")
                saved = gr.File(label="All rows as CSV", interactive=False, elem_id="rows-file")
        timeline = gr.HTML(elem_id="timeline")
        rows = gr.Dataframe(headers=ROW_COLUMNS, label="Faces over time", elem_id="rows")
        start.click(
            lambda file, n: answer_clip(predictor, visitors, file["path"] if file else None, int(n or 5), told),
            inputs=[clip, every], outputs=[sentence, timeline, rows, saved], api_name="watch", concurrency_limit=1,
            preprocess=False,
        )  # fmt: skip
