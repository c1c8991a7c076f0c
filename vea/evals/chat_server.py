"""A pupil behind OpenAI's chat form: its vision side is vea's, and no other server has that.

    vea serve runs/instruct-smollm2 --port 8000
    vea eval http://127.0.0.1:8000/v1 affect

One picture a question, as a data URL: nothing is fetched, and nothing of a visitor is kept. Greedy, one answer at a
time.
"""

from __future__ import annotations

import base64
import binascii
import json
import threading
from typing import Any

from vea.data.views.pictures import read_image
from vea.errors import VeaError
from vea.evals.backends.pupil import PupilBackend

MOST_TOKENS, MOST_TOP = 512, 20


class Unfit(VeaError):
    """A request that cannot be answered, in a sentence for its sender."""


def question_of(body: Any) -> tuple[str, bytes | None]:
    """Returns the text and the picture's bytes of the last user turn.

    Raises:
        Unfit: the request has another form, several pictures, or a picture that is no data URL.
    """
    turns = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
        raise Unfit("messages must be a list of turns, the last of them the user's")
    content = turns[-1].get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise Unfit("content must be a text, or a list of parts of type text and image_url")
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    urls = [part["image_url"] for part in parts if part.get("type") == "image_url"]
    if len(urls) > 1:
        raise Unfit("one picture a question")
    if not "".join(texts).strip():
        raise Unfit("the question is empty")
    if not urls:
        return "\n".join(texts), None
    url = urls[0].get("url") if isinstance(urls[0], dict) else urls[0]
    head, found, data = url.partition(";base64,") if isinstance(url, str) else ("", "", "")
    if not found or not head.startswith("data:image/"):
        raise Unfit("a picture comes as data:image/...;base64,...; addresses are not fetched")
    try:
        return "\n".join(texts), base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise Unfit("the picture is no base64") from None


def number(body: dict[str, Any], name: str, default: int, most: int) -> int:
    """Returns a whole number of a request; raises ``Unfit`` unless it is 0 to ``most``."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise Unfit(f"{name} is a whole number from 0 to {most}")
    return value


class Chat:
    """Answers requests by a pupil, one at a time."""

    def __init__(self, pupil: PupilBackend) -> None:
        self.pupil, self.tokenizer = pupil, pupil.task.tokenizer
        self._lock = threading.Lock()

    def answer(self, body: Any) -> dict[str, Any]:
        """Returns the reply to the body of a request; raises ``Unfit`` or ``VeaError``."""
        text, data = question_of(body)
        most = number(body, "max_completion_tokens", number(body, "max_tokens", 16, MOST_TOKENS), MOST_TOKENS)
        top = number(body, "top_logprobs", 0, MOST_TOP)
        with self._lock:
            seen = None
            if data is not None and not self.pupil.blind:
                seen = self.pupil.look(read_image(data))
            said, logs, used = self.pupil.reply(text, seen, most=max(1, most), key="request")
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": said},
            "finish_reason": "stop",
        }
        if body.get("logprobs"):
            likeliest = zip(*(part.tolist() for part in logs.topk(max(1, top))))
            entries = [{"token": self.tokenizer.decode([i]), "logprob": value} for value, i in likeliest]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries[:top]}]}
        usage = {"prompt_tokens": used, "total_tokens": used + len(self.tokenizer.encode(said))}
        return {"object": "chat.completion", "model": self.pupil.name, "choices": [choice], "usage": usage}


def chat_application(pupil: PupilBackend, *, max_mb: float = 20) -> Any:
    """Returns the application: ``GET /v1/models`` and ``POST /v1/chat/completions``, bodies up to ``max_mb``."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    chat = Chat(pupil)

    def refused(status: int, sentence: str) -> JSONResponse:
        return JSONResponse({"error": {"message": sentence}}, status)

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": pupil.name, "object": "model"}]})

    async def completions(request: Request) -> JSONResponse:
        held = bytearray()
        async for part in request.stream():
            held += part
            if len(held) > max_mb * 2**20:
                return refused(413, f"a request has at most {max_mb:g} MB")
        try:
            body = json.loads(held)
        except ValueError:
            return refused(400, "the request is no JSON")
        try:
            return JSONResponse(await run_in_threadpool(chat.answer, body))
        except VeaError as error:
            return refused(400, str(error))

    paths = [Route("/v1/models", models), Route("/v1/chat/completions", completions, methods=["POST"])]
    return Starlette(routes=paths)
