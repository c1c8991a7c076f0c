"""A pupil behind a server: the answers of the run; requests of any form get one sentence."""

import base64
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import tiny
from test_instruct import config_of, write_set

pytest.importorskip("starlette", reason="needs the extra: pip install 'vea[serve]'")
from starlette.testclient import TestClient

from vea.distributed import runtime
from vea.evals.backends.base import open_backend
from vea.evals.backends.pupil import PupilBackend
from vea.evals.chat_server import chat_application
from vea.evals.question import Question
from vea.training.finetune import fine_tune


@pytest.fixture(scope="module")
def pupil(tmp_path_factory) -> PupilBackend:
    top = tmp_path_factory.mktemp("chat")
    config = config_of(write_set(top / "set"), tiny.language_model(top / "lm"), top / "run")
    fine_tune(config, runtime.start(config.runtime, precision="fp32"))
    return PupilBackend(top / "run")


@pytest.fixture(scope="module")
def client(pupil) -> TestClient:
    return TestClient(chat_application(pupil, max_mb=0.2))


@pytest.fixture(scope="module")
def url(pupil):
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(chat_application(pupil), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "a.jpg"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path, quality=90)
    return path


def test_the_server_says_what_the_run_says(pupil, url, picture):
    asked = [
        Question("a", "claim joy", picture, choices=("Correct", "Incorrect")),
        Question("b", "how bright, digit:", picture, choices=tuple("0123456789")),
        Question("c", "claim joy", choices=("Correct", "Incorrect"), max_tokens=4),
    ]
    backend = open_backend(url)
    assert backend.name == pupil.name
    theirs = dict(backend.ask(asked, ["text", "probability"]))
    backend.close()
    for place, ours in pupil.ask(asked, ["text", "probability"]):
        assert theirs[place].text == ours.text
        wanted = {name: share for name, share in ours.probabilities.items() if share * ours.mass > 0.02}
        for name, share in wanted.items():  # 20 tokens are sent, and few of a random model's are choices
            assert theirs[place].probabilities[name] * theirs[place].mass == pytest.approx(share * ours.mass, abs=0.02)


def body(content, **more):
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, **more}


def test_a_picture_changes_the_answer_and_logprobs_come_if_asked(client, picture):
    data = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": "how bright, digit:"}]
    replies = [client.post("/v1/chat/completions", json=body(content, logprobs=True, top_logprobs=5)).json()
               for content in (parts, "how bright, digit:")]  # fmt: skip
    told = [reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"] for reply in replies]
    assert all(len(top) == 5 and top[0]["logprob"] <= 0 for top in told) and told[0] != told[1]
    plain = client.post("/v1/chat/completions", json=body("hello")).json()
    assert "logprobs" not in plain["choices"][0] and plain["usage"]["prompt_tokens"] > 0


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXT = {"type": "text", "text": "what"}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ([], "messages"), ({}, "messages"), ({"messages": []}, "messages"), ({"messages": ["x"]}, "messages"),
        (body(None), "content"), (body(7), "content"), (body(["x"]), "content"), (body(""), "empty"),
        (body([IMAGE]), "empty"), (body([TEXT, IMAGE, IMAGE]), "one picture"),
        (body([TEXT, IMAGE]), "image"),
        (body([TEXT, {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}]), "not fetched"),
        (body([TEXT, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]), "not fetched"),
        (body([TEXT, {"type": "image_url", "image_url": 3}]), "not fetched"),
        (body([TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,é"}}]), "base64"),
        (body("x", max_tokens=10**9), "max_tokens"), (body("x", max_tokens="3"), "max_tokens"),
        (body("x", logprobs=True, top_logprobs=-1), "top_logprobs"), (body("x", max_tokens=True), "max_tokens"),
    ],
)  # fmt: skip
def test_a_request_of_another_form_gets_one_sentence(client, sent, sentence):
    reply = client.post("/v1/chat/completions", json=sent)
    assert reply.status_code == 400 and sentence in reply.json()["error"]["message"]


def test_no_json_and_too_much(client):
    assert client.post("/v1/chat/completions", content=b"{").status_code == 400
    assert client.post("/v1/chat/completions", content=b"x" * 300_000).status_code == 413
    assert client.get("/v1/models").json()["data"][0]["id"]
    assert client.get("/v1/other").status_code == 404
