"""A real server, ``transformers serve``, with a tiny model of the real class: the local back end's answers."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "evals"))
import tiny

import vea

COMMAND = Path(sys.executable).with_name("transformers")


def missing() -> str:
    try:
        import fastapi
        import openai  # noqa: F401
        import uvicorn

        assert fastapi and uvicorn
    except ImportError as error:
        return f"transformers serve needs {error.name}: pip install 'transformers[serving]'"
    return "" if COMMAND.exists() or shutil.which("transformers") else "no command transformers"


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.vision_language_model(tmp_path_factory.mktemp("served") / "tiny-vlm")


@pytest.fixture(scope="module")
def server(model: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(COMMAND), "serve", str(model), "--host", "127.0.0.1", "--port", str(port)]
    log = (model.parent / "serve.log").open("wb")
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.5)
    else:
        process.kill()
        pytest.fail((model.parent / "serve.log").read_text()[-2000:])
    yield f"http://127.0.0.1:{port}/v1#{model}"
    process.terminate()
    process.wait(30)


def test_the_server_scores_as_the_local_back_end(server: str, model: Path, tmp_path: Path):
    folder = tmp_path / "mvei"
    folder.mkdir()
    entries = []
    for i in range(3):
        # flat grey comes through JPEG unchanged: both back ends see the same pixels
        Image.fromarray(np.full((56, 56, 3), 40 + 80 * i, np.uint8)).save(folder / f"{i}.png")
        rows = [{"statement": f"claim {j}", "label": "correct", "class": "scene context"} for j in range(2)]
        entries.append({"image_id": f"{i}.png", "statement_list": rows})
    (folder / "s.json").write_text(json.dumps(entries))
    task = f"statements:{folder / 's.json'}"
    local = vea.evaluate(str(model), task, readouts=["text"], out=tmp_path / "local")["statements"]
    served = vea.evaluate(server, task, readouts=["text"], out=tmp_path / "served", timeout=300)["statements"]
    assert served["cost"]["failed"] == 0 and served["cost"]["asked"] == 6
    texts = [
        [json.loads(line)["text"] for line in (tmp_path / name / "judged_statements.jsonl").read_text().splitlines()]
        for name in ("served", "local")
    ]
    plain = [[re.sub(r"<\|\w+\|>", "", text) for text in row] for row in texts]  # the server keeps special tokens
    assert plain[0] == plain[1] and any(plain[0])
    assert served["scores"]["text"]["parsers"] == local["scores"]["text"]["parsers"]
    both = vea.evaluate(server, task, out=tmp_path / "both", timeout=300)["statements"]
    assert "probability" not in both["scores"] and any("left out" in note for note in both["notes"])
