"""``vea serve``: a page where people upload photographs and see what the model sees.

    vea serve                      # the model that ships, on http://127.0.0.1:7860
    vea serve runs/faces --port 8080 --max-mb 10
    vea serve --explain runs/explain-synthetic      # a tab more: which emotion and why, in words

Pictures stay on this machine: the page loads nothing from elsewhere and sends nothing away, and what a visitor sent
is gone when the session ends (``vea.inference.visitors``). No file is handed out that was not uploaded
(``vea.inference.gate``). ``/health`` answers with the model and the version.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import vea
from vea.data.views.decode import at_scale
from vea.data.views.pictures import read_picture
from vea.errors import VeaError
from vea.faces.align import crop_square
from vea.inference.annotate import annotated, shown
from vea.inference.evidence import Chain
from vea.inference.explain import explain
from vea.inference.files import csv_text
from vea.inference.gate import Gate
from vea.inference.page_video import build_clip_tab
from vea.inference.predict import Predictor
from vea.inference.results import Prediction
from vea.inference.sessions import Sessions
from vea.inference.visitors import Visitors
from vea.tasks.explain import ExplainTask

GRID = 8  # patches a side that are covered in turn
FACE_COLUMNS = ["face", "box", "expression", "probability"]
BATCH_COLUMNS = ["file", "result", "probability", "faces", "note"]
# Trimming loads ffmpeg from elsewhere: its button is not shown.
STYLE = """
#clip button[aria-label="Trim video to selection"] { display: none }
#timeline .grid { display: flex; flex-wrap: wrap; gap: 1em }
"""
EVIDENCE_COLUMNS = ["step", "what", "by"]
AS_IT_IS: dict[str, Any] = {"preprocess": False}  # gradio's own leaves an empty file behind each time
OWN_CHOICE = "the emotion it finds itself"


def why(predictor: Predictor, image: np.ndarray, found: Prediction) -> np.ndarray:
    """Returns RGB uint8 (H, W, 3): the largest face, upright, or the picture; red where covering it matters most.

    Each of ``GRID`` x ``GRID`` patches is covered with grey in turn, and the loss in probability of the answer is its
    colour (Zeiler and Fergus, ECCV 2014, section 4.2).
    """
    side = 30 * GRID
    face = found.faces[0] if found.faces else None
    if face is None:  # the square around a very long picture would have many times its pixels
        image = np.asarray(shown(image))
    whole = (0, 0, image.shape[1], image.shape[0])
    view = crop_square(image, face.upright or face.box if face else whole, size=side, turn=face.turn if face else 0)
    covered = [view]
    for row in range(GRID):
        for column in range(GRID):
            patched = view.copy()
            patched[row * 30 : (row + 1) * 30, column * 30 : (column + 1) * 30] = 127
            covered.append(patched)
    answers = predictor.predict(covered, detect_faces=False)
    best = max(answers[0].probabilities, key=answers[0].probabilities.__getitem__)
    shares = np.array([answer.probabilities[best] for answer in answers])
    drop = np.maximum(shares[0] - shares[1:], 0).reshape(GRID, GRID)
    heat = (255 * drop / max(drop.max(), 1e-6)).astype(np.uint8)
    heat = cv2.resize(heat, (side, side), interpolation=cv2.INTER_CUBIC)
    colours = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(view, 0.55, colours, 0.45, 0)


def plain(name: str) -> str:
    """Returns a file name as Markdown shows it: no link, picture or markup in it is followed."""
    return re.sub(r"([\\\\`*\[\]<>!&$~|#])", r"\\\1", name)


def _problem(path: str, error: VeaError) -> str:
    """Returns what is wrong with an upload; where it lies here is nobody's business."""
    return str(error).replace(f"{Path(path).parent}{os.sep}", "")


def _path(file: dict[str, Any] | None) -> str | None:
    """Returns the path of an upload as gradio describes it."""
    return file["path"] if file else None


def _told(path: str, error: VeaError) -> str:
    """Returns what is wrong with an upload, as Markdown."""
    return f"**{plain(Path(path).name)}**: {plain(_problem(path, error))}"


def answer(predictor: Predictor, visitors: Visitors, path: str | None, chain: Chain | None = None) -> tuple[Any, ...]:
    """Returns what the page shows for one file: sentence, picture, probabilities, faces, other labels, heat map, and
    the lines of evidence of a ``chain``.
    """

    def kept(picture: np.ndarray, name: str) -> str:
        return visitors.result(str(path), name, lambda place: shown(picture).save(place, quality=90))

    nothing = (None, None, None, None, None, None)
    if not path:
        return ("Choose a photograph.", *nothing)
    try:
        image = read_picture(path)
        (found,) = predictor.predict(image)
        pixels = at_scale(image, least=1.0)
        lines = [[line.step, line.text, line.component] for line in chain.explain(image)] if chain else None
        picture = kept(annotated(pixels, found.faces), "faces.jpg")
        heat = kept(why(predictor, pixels, found), "why.jpg") if found.probabilities else None
    except VeaError as error:
        return (_told(path, error), *nothing)
    if not found.probabilities:
        return ("No face was found in this picture.", picture, *nothing[2:], lines)
    name = found.expression or found.emotion
    told = f"**{name}**, {100 * max(found.probabilities.values()):.0f} %"
    told += f"; {len(found.faces)} face{'s' if len(found.faces) != 1 else ''}" if found.faces else ""
    rows: list[list[Any]] = [
        [number, ", ".join(map(str, face.box)), face.expression, round(max(face.probabilities.values()), 3)]
        for number, face in enumerate(found.faces, start=1)
    ]
    labels = [[label, str(value.value)] for label, value in found.attributes.items()]
    return told, picture, found.probabilities, rows, labels, heat, lines


def answer_many(predictor: Predictor, visitors: Visitors, paths: list[str]) -> tuple[list[list[Any]], str | None]:
    """Returns the table of several files, and the path of the same as CSV."""
    rows: list[list[Any]] = []
    for path, found in zip(paths, predictor.stream(paths), strict=True):
        name = Path(path).name
        if isinstance(found, VeaError):
            rows.append([name, "", "", "", _problem(path, found)])
        elif not found.probabilities:
            rows.append([name, "", "", 0, "no face was found"])
        else:
            share = round(max(found.probabilities.values()), 3)
            rows.append([name, found.expression or found.emotion, share, len(found.faces), ""])
    if not paths:
        return [], None

    def write(place: Path) -> None:
        with open(place, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([BATCH_COLUMNS, *([csv_text(cell) for cell in row] for row in rows)])

    try:
        return rows, visitors.result(paths[0], "table.csv", write)
    except VeaError:  # the page was closed: nobody waits for the table
        return rows, None


def answer_why(explainer: ExplainTask, path: str | None, emotion: str) -> str:
    """Returns a sentence about one file, as Markdown; ``emotion`` is the one to explain, or ``OWN_CHOICE``."""
    if not path:
        return "Choose a picture."
    asked = None if emotion == OWN_CHOICE else emotion
    try:
        ((named, words),) = explain(explainer, [read_picture(path)], emotion=asked)
    except VeaError as error:
        return _told(path, error)
    return f"**{named}** because {words}" if words else f"**{named}**"


def build_picture_tab(
    predictor: Predictor, visitors: Visitors, chain: Chain | None, *, camera: bool, workers: int
) -> None:
    """Adds the tab of one picture, or of a moment of the visitor's camera."""
    import gradio as gr

    name = "camera" if camera else "look"

    def id_of(part: str) -> str:
        return f"{part}-camera" if camera else part

    with gr.Tab("Camera" if camera else "One picture"), gr.Row():
        with gr.Column():
            if camera:
                upload: Any = gr.Image(label="Camera: the picture you take", sources=["webcam"], type="filepath",
                                       format="jpeg", elem_id="camera")  # fmt: skip
            else:
                upload = gr.File(label="Photograph", type="filepath", elem_id="upload")
            button = gr.Button("Look", variant="primary", elem_id=id_of("look"))
            told = gr.Markdown(elem_id=id_of("told"))
            bars = gr.Label(label="Probabilities", elem_id=id_of("bars"))
            heat = gr.Image(label="Why: red parts matter most", elem_id=id_of("why"), interactive=False, buttons=[])
        with gr.Column():
            picture = gr.Image(label="Faces", elem_id=id_of("picture"), interactive=False, buttons=["download"])
            faces = gr.Dataframe(headers=FACE_COLUMNS, label="Faces", elem_id=id_of("faces"))
            labels = gr.Dataframe(
                headers=["label", "value"], label="Everything the model tells", elem_id=id_of("labels")
            )
            evidence = gr.Dataframe(
                headers=EVIDENCE_COLUMNS, label="The picture as a whole: what it may evoke, and why", wrap=True,
                column_widths=["15%", "55%", "30%"],
                elem_id=id_of("evidence"), visible=chain is not None,
            )  # fmt: skip
    gr.on(
        [button.click] if camera else [button.click, upload.upload],
        lambda file: answer(predictor, visitors, _path(file), chain),
        inputs=upload, outputs=[told, picture, bars, faces, labels, heat, evidence], api_name=name,
        concurrency_limit=workers, **AS_IT_IS,
    )  # fmt: skip


def build(
    predictor: Predictor,
    visitors: Visitors,
    *,
    queue: int,
    workers: int,
    explainer: ExplainTask | None = None,
    chain: Chain | None = None,
) -> Any:
    """Returns the page (``gradio.Blocks``); beyond ``queue`` waiting requests visitors are told to come back."""
    import gradio as gr

    with gr.Blocks(title="vea", analytics_enabled=False) as blocks:
        gr.Markdown(f"# vea: which emotion?\nModel: {predictor.description}. Pictures stay on this machine. A guess "
                    "from looks: it does not tell what a person feels.")  # fmt: skip
        for camera in (False, True):
            build_picture_tab(predictor, visitors, chain, camera=camera, workers=workers)
        if predictor.reads_faces:
            build_clip_tab(predictor, visitors, _told)
        with gr.Tab("Many pictures"):
            several = gr.File(label="Photographs", file_count="multiple", type="filepath", elem_id="several")
            start = gr.Button("Look at all", variant="primary", elem_id="start")
            table = gr.Dataframe(headers=BATCH_COLUMNS, elem_id="table")
            saved = gr.File(label="The table as CSV", interactive=False)
            many: dict[str, Any] = {"inputs": several, "outputs": [table, saved], "concurrency_limit": 1, **AS_IT_IS}
            start.click(lambda files: answer_many(predictor, visitors, [file["path"] for file in files or []]),
                        api_name="many", **many)  # fmt: skip
        if explainer is not None:
            with gr.Tab("In words"):
                shown_picture = gr.File(label="Painting or photograph", type="filepath", elem_id="explained")
                choice = gr.Dropdown([OWN_CHOICE, *explainer.emotions], value=OWN_CHOICE, label="Explain it as")
                ask = gr.Button("Explain", variant="primary", elem_id="explain")
                sentence = gr.Markdown(elem_id="sentence")
                one: dict[str, Any] = {"inputs": [shown_picture, choice], "outputs": sentence, "concurrency_limit": 1}
                ask.click(lambda file, name: answer_why(explainer, _path(file), name), api_name="explain",
                          **one, **AS_IT_IS)  # fmt: skip
        blocks.unload(lambda: None)  # an open page keeps a connection: when it ends, the session does (see Gate)
    return blocks.queue(max_size=queue)


def application(
    predictor: Predictor,
    *,
    max_mb: float,
    queue: int = 32,
    workers: int = 1,
    explainer: ExplainTask | None = None,
    chain: Chain | None = None,
    keep_s: float = 600,
) -> Any:
    """Returns the ASGI application: the page at ``/`` and ``/health``.

    ``keep_s`` seconds after their last use files go that no open page uses.
    """
    import gradio as gr
    from fastapi import FastAPI

    visitors = Visitors(keep_s=keep_s)
    os.environ["GRADIO_TEMP_DIR"] = str(visitors.folder)  # gradio reads it when a page is built, and at each request
    app = FastAPI(docs_url=None, redoc_url=None)  # their pages load scripts from elsewhere

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", "version": vea.__version__, "model": predictor.description}

    # no font from elsewhere
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    page = build(predictor, visitors, queue=queue, workers=workers, explainer=explainer, chain=chain)
    sessions, limit = Sessions(page, visitors), int(max_mb * 2**20)
    gr.mount_gradio_app(
        app, page, path="/", max_file_size=limit, theme=theme, css=STYLE, footer_links=[], ssr_mode=False,
        run_history=False,
    )  # fmt: skip
    # mounting leaves both False, and with them gradio's own check that a posted path is an upload, and of SVG files
    page.has_launched = page.is_running = True
    return Gate(app, page, sessions, max_file=limit)
