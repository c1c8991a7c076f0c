# ruff: noqa: E501
"""The page's gate in this process: what it refuses, what it hands out, what stays."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs the extra: pip install 'vea[serve]'")
from starlette.testclient import TestClient

from vea.errors import VeaError
from vea.inference.page import application, plain
from vea.inference.results import Prediction
from vea.inference.visitors import Visitors, plain_name


class Sees:
    """Stands for a model: what it says depends on nothing."""

    description = "a stand-in"
    fields: dict = {}  # noqa: RUF012
    reads_faces = True

    def predict(self, images, **_):
        several = images if isinstance(images, list) else [images]
        return [Prediction("happy", {"happy": 0.75, "sad": 0.25}) for _ in several]

    def stream(self, paths, **_):
        from vea.data.views.pictures import read_image

        for path in paths:
            try:
                read_image(path)
                yield Prediction("happy", {"happy": 0.75, "sad": 0.25})
            except VeaError as error:
                yield error


@contextmanager
def page_of(files) -> Iterator[TestClient]:
    """A client of the page, which keeps its files in ``client.files``; ``client.gate`` is its application."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(files))
        gate = application(Sees(), max_mb=1, keep_s=600)
        with TestClient(gate, raise_server_exceptions=True) as client:
            client.gate, client.files = gate, files
            yield client


@pytest.fixture
def page(tmp_path):
    """A page of its own."""
    with page_of(tmp_path / "files") as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One page for all that is refused: a refusal leaves nothing behind."""
    with page_of(tmp_path_factory.mktemp("page") / "files") as client:
        yield client


def png(width=32, height=32) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(out, "PNG")
    return out.getvalue()


def upload(page, name="a.png", data=None) -> str:
    answer = page.post("/gradio_api/upload", files={"files": (name, png() if data is None else data)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def file_of(path, **more) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def look(page, value, name="look") -> list | str:
    """Returns what an event answers, or the refusal."""
    started = page.post(f"/gradio_api/call/{name}", json={"data": [value]})
    if started.status_code != 200:
        return f"{started.status_code} {started.text}"
    text = page.get(f"/gradio_api/call/{name}/{started.json()['event_id']}").text
    return json.loads(text.split("event: complete\ndata: ")[1].split("\n")[0])


def files_below(folder) -> list[str]:
    return [os.path.join(base, name) for base, _, names in os.walk(folder) for name in names]


def test_an_upload_is_seen_and_its_results_are_handed_out(page):
    told, picture, bars, *_, heat, _ = look(page, file_of(upload(page, "my photo.png")))
    assert told.startswith("**happy**, 75 %") and bars["label"] == "happy"
    for shown in (picture, heat):
        answer = page.get(f"/gradio_api/file={shown['path']}")
        assert answer.status_code == 200 and Image.open(io.BytesIO(answer.content)).size
        assert answer.headers["x-content-type-options"] == "nosniff" and "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "dress",
    [
        lambda secret: file_of(secret),
        lambda secret: {"path": secret},
        lambda secret: file_of(secret, url="http://127.0.0.1:1/x.png"),
        lambda secret: file_of(f"file://{secret}"),
        lambda secret: file_of(f"/gradio_api/file={secret}"),
        lambda secret: file_of(f"//{secret}"),
        lambda secret: file_of(f"{os.environ['GRADIO_TEMP_DIR']}/../../../../../../..{secret}"),
        lambda secret: file_of(os.environ["GRADIO_TEMP_DIR"]),
        lambda secret: file_of(f"{secret}\0.png"),
        lambda secret: file_of("http://127.0.0.1:1/x.png"),
        lambda secret: file_of(os.path.relpath(secret)),
        lambda secret: file_of("", url=f"file://{secret}"),
        lambda secret: secret,
        lambda secret: [file_of(secret)],
        lambda secret: {"value": file_of(secret)},
        lambda secret: {"__type__": "update", "value": file_of(secret)},
        lambda secret: [[file_of(secret)]],
        lambda secret: file_of([secret]),
        lambda secret: file_of({"path": secret}),
        lambda secret: {"files": [file_of(secret)], "text": "x"},
        lambda secret: file_of(secret, is_stream=True),
        lambda secret: {"path": secret, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}, "mime_type": "i/p"},
    ],
)
@pytest.mark.parametrize(
    "endpoint", ["call/look", "call/camera", "call/many", "call/v2/look", "call/v2/many", "queue/join"]
)
def test_a_path_that_nobody_uploaded_is_refused_before_anything_is_read(shared, tmp_path, dress, endpoint):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    os.utime(secret, (1, 1))
    upload(shared)
    before = files_below(shared.files)
    value = dress(str(secret))
    for data in (value, [value]):
        if endpoint == "queue/join":
            names = {function.api_name: number for number, function in shared.gate.page.fns.items()}
            bodies = [{"data": [data], "fn_index": names[name], "session_hash": "s"} for name in ("look", "many")]
        elif "v2" in endpoint:
            parameter = shared.gate._parameters(endpoint.rpartition("/")[2])[0]
            bodies = [{parameter: data}]
        else:
            bodies = [{"data": [data]}, {"data": [data], "event_data": value, "simple_format": True}]
        for body in bodies:
            answer = shared.post(f"/gradio_api/{endpoint}", content=json.dumps(body).encode())
            assert answer.status_code in (403, 400), (body, answer.text)
            assert str(secret) not in answer.text
    assert files_below(shared.files) == before, "nothing is copied"
    assert os.stat(secret).st_atime == 1, "nothing is read"


def test_whether_a_file_exists_cannot_be_learnt(page, tmp_path):
    there = tmp_path / "there.png"
    there.write_bytes(png())
    answers = {
        page.post("/gradio_api/call/look", json={"data": [file_of(str(path))]}).text
        for path in (there, tmp_path / "absent.png", tmp_path, "/etc/passwd")
    }
    assert len(answers) == 1
    assert len({page.get(f"/gradio_api/file={path}").text for path in (there, tmp_path / "absent", "/etc/passwd")}) == 1


@pytest.mark.parametrize(
    "path",
    ["file=/etc/passwd", "file=../../etc/passwd", "file=%2e%2e/%2e%2e/etc/passwd", "file=file:///etc/passwd",
     "file=http://127.0.0.1:1/x", "file=//etc/passwd", "file/etc/passwd", "file=", "proxy=http://127.0.0.1:1/x",
     "proxy=https://x.hf.space/", "stream/a/1/2/playlist-file", "stream/a/1/2/3.ts", "stream/a/1/2/playlist.m3u8",
     "custom_component/x/client/y/z", "deep_link?session_hash=a", "runs", "run-history/buckets", "vibe-code",
     "vibe-starter-queries", "dev/reload", "component_server", "upload/../file=/etc/passwd", "token", "user",
     "profiling/traces"],
)  # fmt: skip
def test_no_other_route_hands_anything_out(shared, path):
    answer = shared.get(f"/gradio_api/{path}")
    assert answer.status_code in (403, 404), answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", ["/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd", "/monitoring",
                                  "/monitoring/summary", "/svelte/x", "/?deep_link=../../x", "/docs", "/redoc",
                                  "/login", "/logout", "/pwa_icon/1"])  # fmt: skip
def test_routes_outside_the_api(shared, path):
    answer = shared.get(path)
    assert answer.status_code < 500 and "root:" not in answer.text


@pytest.mark.parametrize("path", ["component_server", "run/look", "api/look", "stream/x", "vibe-edit", "process_recording",
                                  "run-history/connect", "undo-vibe-edit", "call/", "call/unload", "upload/", "call/a/b/c"])  # fmt: skip
def test_no_other_route_takes_anything(shared, path, tmp_path):
    for body in (
        {"data": [file_of("/etc/passwd")], "fn_name": "x", "component_id": 1, "session_hash": "a"},
        [],
        None,
        1,
    ):
        answer = shared.post(f"/gradio_api/{path}", json=body)
        assert 400 <= answer.status_code < 500, answer.text


def test_a_link_in_an_uploads_place_is_no_upload(page, tmp_path):
    path = upload(page)
    os.unlink(path)
    os.symlink("/etc/passwd", path)
    assert look(page, file_of(path)).startswith("403")
    assert page.get(f"/gradio_api/file={path}").status_code == 403


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../x.png", "x.png"),
        ("..\\..\\x.png", "x.png"),
        ("..", "upload"),
        ("", "upload"),
        (None, "upload"),
        ("a\0b\n.png", "ab.png"),
        (".bashrc", "bashrc"),
        ("\u202egnp.exe.png", "gnp.exe.png"),
        ("ü ß 写真.png", "ü ß 写真.png"),
    ],
)
def test_names_of_uploads(name, kept):
    assert plain_name(name) == kept


@pytest.mark.parametrize(
    "name", ["x" * 5000 + ".png", "写" * 400 + ".png", "x" * 400, ".".join("ab" * 200), "a." + "写" * 300]
)
def test_long_names_of_uploads(name):
    assert 0 < len(plain_name(name).encode()) <= 250


def test_names_are_neither_markup_nor_formulas(page):
    name = "=cmd|' C calc'!A0.png"
    told, *_ = look(page, file_of(upload(page, "![x](http:x)<b>*.png", b"no picture")))
    assert "![" not in told and "<b>" not in told and "/" not in told.replace("http:x", "")
    assert plain("IMG_0001.jpg") == "IMG_0001.jpg"
    paths = [upload(page, name), upload(page, "-1+2.png", b"broken"), upload(page, "+3.png"), upload(page, "@a.png")]
    rows, saved = look(page, [file_of(path) for path in paths], "many")
    text = page.get(f"/gradio_api/file={saved['path']}").text
    assert len(rows["data"]) == 4
    assert all(line.lstrip('"')[0] == "'" for line in text.splitlines()[1:]), text
    answer = page.get(f"/gradio_api/file={saved['path']}")
    assert answer.headers["content-disposition"].startswith("attachment")


def test_a_page_that_an_upload_would_make_is_saved_not_opened(page):
    for name in ("x.html", "x.svg", "x.xml", "x.js", "x.pdf"):
        answer = page.get(f"/gradio_api/file={upload(page, name, b'<script>1</script>')}")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")


def test_sizes_are_limited_with_a_sentence(page, tmp_path):
    answer = page.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 2_000_000)})
    assert answer.status_code == 413 and "1 MB" in answer.text
    answer = page.post("/gradio_api/upload", files=[("files", ("a.png", b"x" * 1_000_000))] * 12)
    assert answer.status_code == 413 and "10 MB" in answer.text
    assert page.post("/gradio_api/call/look", content=b"[" * 2_000_000).status_code == 413
    assert not files_below(tmp_path / "files")


def test_a_full_page_says_so(page):
    page.gate.visitors.max_bytes = 1000
    answer = page.post("/gradio_api/upload", files={"files": ("a.png", b"x" * 2000)})
    assert answer.status_code == 503 and "full" in answer.text
    page.gate.visitors.max_bytes = 10**9
    assert upload(page)


@pytest.mark.parametrize("body", [b"", b"x", b"{", b'{"data": NaN', b"\xff\xfe", b"[" * 100_000, b'{"data": {}}', b"[]", b"7",
                                  b'{"data": []}', b'{"data": [1, 2, 3]}', b'{"session_hash": "../x", "data": [null]}'])  # fmt: skip
def test_bodies_that_are_no_event(shared, body):
    for path in ("call/look", "call/many", "call/v2/look", "queue/join", "cancel"):
        answer = shared.post(f"/gradio_api/{path}", content=body)
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    ("kind", "body"),
    [(None, b"x"), ("multipart/form-data", b"x"), ("multipart/form-data; boundary=a", b"x"), ("text/plain", b"x"),
     ("multipart/form-data; boundary=a", b"--a\r\n\r\n\r\n--a--"), ("multipart/form-data; boundary=", b"--\r\n"),
     ("multipart/form-data; boundary=a", b'--a\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--a--\r\n'),
     ("application/x-www-form-urlencoded", b"files=x")],
)  # fmt: skip
def test_uploads_that_are_none(shared, kind, body):
    answer = shared.post("/gradio_api/upload", content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 400, answer.text


def test_wide_pictures_are_shown_reduced(page):
    _, picture, *_ = look(page, file_of(upload(page, "wide.png", png(20_000, 20))))
    shown = Image.open(io.BytesIO(page.get(f"/gradio_api/file={picture['path']}").content))
    assert shown.size == (1600, 2)


def test_events_of_strangers_are_not_found(page):
    assert page.get("/gradio_api/call/look/" + "a" * 32).status_code == 404
    assert page.get("/gradio_api/queue/data?session_hash=nobody").status_code == 404


def test_files_go_with_their_session_or_their_time(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    visitors = Visitors(keep_s=0)
    mine, shared, lone = (visitors.place(name, 1) for name in ("a", "b", "c"))
    for path in (mine, shared, lone):
        path.write_text("x")
    made = visitors.result(mine, "table.csv", lambda place: place.write_text("x"))
    visitors.opened("one")
    visitors.opened("two")
    visitors.use(mine, "one")
    visitors.use(shared, "one")
    visitors.use(shared, "two")
    time.sleep(0.01)
    visitors.sweep()
    assert mine.is_file() and shared.is_file() and not lone.exists(), "open sessions keep theirs"
    assert os.path.isfile(made)
    assert visitors.closed("one") and not mine.parent.exists() and shared.is_file()
    with pytest.raises(VeaError, match="session of this file has ended"):
        visitors.result(mine, "table.csv", lambda place: place.write_text("x"))
    visitors.closed("two")
    assert not files_below(tmp_path) and visitors.stored == 0
    visitors.end()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("name", ["look", "many"])
def test_files_outlast_the_wait_in_the_queue_but_not_their_session(tmp_path, monkeypatch, caplog, leaves, name):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    begun, go = threading.Event(), threading.Event()

    class Slow(Sees):
        def predict(self, images, **_):
            begun.set()
            assert go.wait(30)
            return super().predict(images)

        def stream(self, paths, **_):
            self.predict([])
            yield from super().stream(paths)

    gate = application(Slow(), max_mb=1, keep_s=0.1)
    with TestClient(gate) as client:
        client.gate = gate
        path = upload(client)
        gate.visitors.opened("me")
        body = {"data": [[file_of(path)] if name == "many" else file_of(path)], "session_hash": "me"}
        event = client.post(f"/gradio_api/call/{name}", json=body).json()["event_id"]
        assert begun.wait(30)
        if leaves:
            gate.visitors.closed("me")
        else:
            gate.visitors._kept[os.path.basename(os.path.dirname(path))].sessions.clear()
            time.sleep(0.3)  # several sweeps
        assert os.path.isfile(path) is not leaves
        go.set()
        text = client.get(f"/gradio_api/call/{name}/{event}").text
        assert "event: complete" in text, text
        assert ("session of this file has ended" in text) is (leaves and name == "look")
    assert not list(tmp_path.iterdir())


def test_nothing_stays_when_the_server_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with TestClient(application(Sees(), max_mb=1)) as client:
        look(client, [file_of(upload(client))], "many")
        assert len(files_below(tmp_path)) == 2
    assert not list(tmp_path.iterdir())


def test_many_at_once_leave_the_store_as_it_was(page):
    answers = []

    def visit():
        path = upload(page)
        answers.append(page.get(f"/gradio_api/file={path}").status_code)

    threads = [threading.Thread(target=visit) for _ in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert answers == [200] * 20 and page.gate._arriving == 0 and len(page.gate.visitors) == 20


def test_openapi_says_what_an_event_takes(page):
    api = page.get("/gradio_api/openapi.json").json()
    body = {name: place["post"]["requestBody"]["content"] for name, place in api["paths"].items() if "post" in place}
    inputs = {name.rpartition("/")[2]: kinds.get("application/json", {}).get("schema", {}).get("properties", {})
              for name, kinds in body.items()}  # fmt: skip
    assert inputs["look"]["file"]["required"] == ["path"] and inputs["many"]["files"]["items"]["required"] == ["path"]
    assert '"filepath"' not in json.dumps(api)
    steps = inputs["watch"]["n"]
    assert steps["type"] == "integer" and all(isinstance(value, int) for value in steps["enum"])
    begun = page.post("/gradio_api/call/v2/look", json={"file": {"path": upload(page)}})
    assert "event: complete" in page.get(f"/gradio_api/call/look/{begun.json()['event_id']}").text
    assert page.head("/gradio_api/openapi.json").status_code == 200
