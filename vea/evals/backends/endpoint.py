"""Any server that speaks OpenAI's chat form: vLLM, SGLang, llama.cpp, Ollama, ``transformers serve``, hosted ones."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from vea.errors import RunError, VeaError
from vea.evals.backends.base import Backend
from vea.evals.question import Answer, Question

GIVE_UP = 12  # questions in a row without an answer: the server is gone, and asking on helps nobody


class Refused(RunError):
    """The server said no for a reason that waiting does not cure."""


def encode_picture(path: Path, *, side: int) -> str:
    """Returns a picture as a data URL: JPEG, quality 90, its longer side at most ``side`` pixels."""
    from PIL import Image

    from vea.data.views.pictures import read_image

    image = Image.fromarray(read_image(path))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.save(held, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def shares_of(top: Sequence[dict[str, Any]], choices: Sequence[str]) -> tuple[dict[str, float], float]:
    """Returns P(choice) and its mass from the ``top_logprobs`` of the first answer token.

    A token counts for a choice if the choice begins with it (case and blanks do not matter) and no other does.
    """
    mass = dict.fromkeys(choices, 0.0)
    for entry in top:
        token = str(entry.get("token", "")).strip().lower()
        begun = [choice for choice in choices if token and choice.lower().startswith(token)]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(min(0.0, float(entry["logprob"])))
    total = sum(mass.values())
    return {c: m / total if total else 1 / len(choices) for c, m in mass.items()}, total


class Endpoint(Backend):
    """A server at ``http(s)://HOST/v1``; ``URL#MODEL`` names the model, else the first that the server lists.

    Args:
        url: the base, up to and with ``/v1``.
        concurrency: requests at once.
        retries: how often one question is asked again after 429, 5xx, a time-out, a cut or unreadable reply.
        timeout: seconds for one request.
        image_size: longer side of pictures in pixels.
        backoff: seconds before the first retry; doubles each time, with a random part, at most 60.
        key_from: environment variable that holds the key.
    """

    def __init__(
        self,
        url: str,
        *,
        concurrency: int = 8,
        retries: int = 5,
        timeout: float = 120.0,
        image_size: int = 768,
        backoff: float = 1.0,
        key_from: str = "OPENAI_API_KEY",
        max_new_tokens: int | None = None,
        blind: bool = False,
        **_: Any,
    ) -> None:
        super().__init__()
        try:
            import httpx
        except ImportError:
            raise VeaError("servers need httpx: pip install 'vea[vlm]'") from None
        base, _sign, model = url.partition("#")
        key = os.environ.get(key_from, "")
        self._client = httpx.Client(
            base_url=base.rstrip("/") + "/", timeout=timeout,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=concurrency),
        )  # fmt: skip
        self._failures: tuple[type[Exception], ...] = (httpx.HTTPError,)
        self._timeouts = httpx.TimeoutException
        self.concurrency, self.retries, self.backoff, self.image_size = concurrency, retries, backoff, image_size
        self.max_new, self.blind = max_new_tokens, blind
        self.base = base
        self.model = model or self._first_model()
        self.name = ("blind:" if blind else "") + self.model
        self.settings = {"image_size": image_size, "max_new_tokens": max_new_tokens, "temperature": 0}
        self._asks_logprobs = True
        self._lock = threading.Lock()
        self._pictures: dict[Path, str] = {}

    def _first_model(self) -> str:
        try:
            listed = self._client.get("models", timeout=30).json()["data"]
            return str(listed[0]["id"])
        except self._failures as error:
            raise RunError(
                f"no server answers at {self.base} ({type(error).__name__}); start it, or mend the URL"
            ) from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise VeaError(f"{self.base} lists no model; name one: {self.base}#MODEL") from None

    def shown(self, question: Question) -> Path | None:
        """Returns the picture, None for a blind run."""
        return None if self.blind else question.picture

    def _body(self, question: Question) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": question.prompt}]
        picture = self.shown(question)
        if picture is not None:
            with self._lock:
                if picture not in self._pictures:
                    if len(self._pictures) > 256:
                        self._pictures.clear()
                    self._pictures[picture] = encode_picture(picture, side=self.image_size)
                data = self._pictures[picture]
            content.insert(0, {"type": "image_url", "image_url": {"url": data}})
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.max_new or question.max_tokens,
            "temperature": 0,
        }
        if self._asks_logprobs and question.choices:
            body |= {"logprobs": True, "top_logprobs": 20}
        return body

    def _once(self, question: Question) -> tuple[Answer | None, str, float]:
        """Returns (answer, "", 0), or (None, what went wrong, seconds the server asked to wait).

        Raises:
            Refused: asking again cannot help.
        """
        body = self._body(question)
        started = time.perf_counter()
        try:
            reply = self._client.post("chat/completions", json=body)
        except self._timeouts:
            return None, "time-out", 0.0
        except self._failures as error:
            return None, f"connection ({type(error).__name__})", 0.0
        if reply.status_code == 429 or reply.status_code >= 500:
            asked = 0.0
            with contextlib.suppress(ValueError):
                asked = float(reply.headers.get("retry-after", 0))
            return None, str(reply.status_code), asked
        if reply.status_code >= 400:
            if "logprobs" in body:
                self._asks_logprobs = False  # some servers refuse what they do not know
                return None, "refused logprobs", 0.0
            said = " ".join(reply.text.split())[:200]
            raise Refused(f"{self.base} refused the request with {reply.status_code}: {said}")
        try:
            choice = reply.json()["choices"][0]
            text = choice["message"]["content"]
            if not isinstance(text, str):
                raise TypeError("no text")
            shares, mass = self._shares(choice, question)
            used = (reply.json().get("usage") or {}).get("total_tokens") or 0
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None, "unreadable reply", 0.0
        return Answer(text, shares, mass, int(used), round(time.perf_counter() - started, 4)), "", 0.0

    def _shares(self, choice: dict[str, Any], question: Question) -> tuple[dict[str, float] | None, float | None]:
        content = (choice.get("logprobs") or {}).get("content") or []
        if not content or not question.choices:
            return None, None
        return shares_of(content[0].get("top_logprobs") or [content[0]], question.choices)

    def _ask_one(self, question: Question) -> Answer:
        trouble = ""
        for attempt in range(self.retries + 1):
            answer, trouble, asked = self._once(question)
            if answer is not None:
                return answer
            with self._lock:
                self.counts[trouble] += 1
            if trouble != "refused logprobs" and attempt < self.retries:
                pause = min(60.0, self.backoff * 2**attempt * random.uniform(0.5, 1.0))  # so that not all come at once
                time.sleep(max(pause, min(asked, 60.0)))
        return Answer(error=f"{trouble}, {self.retries + 1} times")

    def ask(self, questions: Sequence[Question], readouts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yields answers as they come, ``concurrency`` at once; one request gives both read-outs."""
        failed_in_a_row = 0
        with ThreadPoolExecutor(self.concurrency) as pool:
            waiting: dict[Future[Answer], int] = {}
            todo = iter(enumerate(questions))
            try:
                while True:
                    for place, question in todo:
                        waiting[pool.submit(self._ask_one, question)] = place
                        if len(waiting) >= 2 * self.concurrency:
                            break
                    if not waiting:
                        return
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        answer = future.result()
                        failed_in_a_row = failed_in_a_row + 1 if answer.error else 0
                        yield waiting.pop(future), answer
                    if failed_in_a_row >= GIVE_UP:
                        raise RunError(
                            f"{self.base} failed {failed_in_a_row} questions in a row ({_most(self.counts)})"
                        )
            finally:
                for future in waiting:
                    future.cancel()

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def _most(counts: Counter[str]) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
