"""What reaches gradio: an ASGI application in front of it that lets through what the page needs, and nothing else.

Gradio has some sixty routes, and several of them take a path or an address and read it. Here every route that is not
named below is 404; uploads are taken and files are handed out by this module; of a request that starts an event only
what the event's inputs can be is passed on, built anew: an upload of this process, or a plain value. So a path that
nobody uploaded is refused before anything is read or copied, however it is dressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from vea.inference.openapi import corrected
from vea.inference.sessions import Sessions

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

API = "/gradio_api"
MAX_JSON = 2**20  # bytes of a request that starts an event
MAX_FILES = 1000  # of an upload
_STALL_S = 30.0  # a client that sends nothing for so long is let go
_PASSED = re.compile(
    rf"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(static|assets)/[^\0]*|/login_check/?"
    rf"|{API}/(info/?|startup-events|app_id/?|theme\.css|login_check/?)"
)
_QUERIES = {f"{API}/queue/data": {"session_hash"}}  # of all others nothing is passed on
# everything else is saved, not opened, by a browser
_SHOWN = {"image/png", "image/jpeg", "image/webp", "video/mp4", "video/webm"}
_FILE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Gate:
    """The ASGI application around ``app``.

    Args:
        app: the application with the page mounted.
        page: the ``gradio.Blocks``: it says which events there are and what their inputs are.
        sessions: what gradio remembers of visitors.
        max_file: bytes of one file.
    """

    def __init__(self, app: Any, page: Any, sessions: Sessions, *, max_file: int):
        self.app, self.page = app, page
        self.sessions, self.visitors = sessions, sessions.visitors
        self.max_file = max_file
        self.max_upload = 10 * max_file  # of a request with several files
        self._arriving = 0  # bytes of uploads that are not whole yet

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan":
            sweeper = asyncio.create_task(self._sweep())
            try:
                await self.app(scope, receive, send)
            finally:
                sweeper.cancel()
                self.visitors.end()
            return
        if scope["type"] != "http":  # the page has no web sockets
            await send({"type": "websocket.close", "code": 1000})
            return
        try:
            answer = await self._answer(scope, receive, send)
        except asyncio.CancelledError:  # the server ends, and with it the connections that open pages hold
            return
        except Refused as refused:
            answer = JSONResponse({"detail": str(refused)}, refused.status)
        if answer is not None:
            await answer(scope, receive, send)  # type: ignore[arg-type]

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(60.0, self.visitors.keep_s))
            self.sessions.keep_waiting()
            self.sessions.sweep()
            await asyncio.to_thread(self.visitors.sweep)

    async def _answer(self, scope: dict[str, Any], receive: Receive, send: Send) -> Response | None:
        path, reads = scope["path"], scope["method"] in ("GET", "HEAD")
        if reads and path.startswith(f"{API}/file="):
            return self._file(path.removeprefix(f"{API}/file="))
        if reads and path == f"{API}/upload_progress":  # answered at once: the upload itself says when it is done
            return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")
        if reads and path == f"{API}/openapi.json":
            return await self._described(scope, receive)
        if reads and (path == "/health" or _PASSED.fullmatch(path)):
            await self.app(self._plain(scope), receive, send)
        elif reads and re.fullmatch(rf"{API}/heartbeat/[\w-]{{1,64}}", path):
            await self._session(path.rpartition("/")[2], scope, receive, send)
        elif reads and path == f"{API}/queue/data":
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
            await self._listen(session, scope, receive, send)
        elif reads and (found := re.fullmatch(rf"{API}/call/(?:v2/)?\w+/([\w-]{{1,64}})", path)):
            await self._listen(self.sessions.of_event(found[1]), scope, receive, send)
        elif scope["method"] == "POST" and path == f"{API}/upload":
            return await self._upload(scope, receive)
        elif scope["method"] == "POST":
            body = self._checked(path.rstrip("/"), await self._json(scope, receive))
            await self.app(self._plain(scope, len(body)), _replayed(body, receive), send)
        else:
            raise Refused(404, "not found")
        return None

    async def _listen(self, session: str | None, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if session is None or not self.sessions.has_answers(session):
            raise Refused(404, "no such event")
        with self.sessions.reading(session):
            await self.app(self._plain(scope), receive, send)

    async def _described(self, scope: dict[str, Any], receive: Receive) -> Response:
        """Returns gradio's description of the page as OpenAPI, with what it gets wrong put right."""
        parts = []

        async def keep(message: dict[str, Any]) -> None:
            parts.append(message.get("body", b""))

        plain = [pair for pair in scope["headers"] if pair[0].lower() != b"accept-encoding"]
        await self.app(self._plain({**scope, "method": "GET", "headers": plain}), receive, keep)
        return JSONResponse(corrected(json.loads(b"".join(parts))))

    async def _session(self, session: str, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Passes the connection on that an open page holds; when it ends, so do the files of its session."""
        self.visitors.opened(session)
        try:
            await self.app(self._plain(scope), receive, send)
        finally:
            if self.visitors.closed(session):
                self.sessions.forget(session)

    def _plain(self, scope: dict[str, Any], length: int | None = None) -> dict[str, Any]:
        """Returns the scope with the parts of the query that the page uses."""
        wanted = _QUERIES.get(scope["path"], set())
        parts = [part for part in scope["query_string"].split(b"&") if part.split(b"=")[0].decode("latin-1") in wanted]
        scope = {**scope, "query_string": b"&".join(parts)}
        if length is not None:
            headers = [pair for pair in scope["headers"] if pair[0].lower() not in (b"content-length", b"content-type")]
            scope["headers"] = [*headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        return scope

    # Files ------------------------------------------------------------------------------------------------------------

    def _file(self, path: str) -> Response:
        if not self.visitors.knows(path):
            raise Refused(403, "this is no file of yours, or its session has ended: upload it again")
        self.visitors.use(path, None)
        kind = mimetypes.guess_type(path)[0]
        name = path.rpartition("/")[2]
        shown = kind in _SHOWN
        return FileResponse(
            path,
            media_type=kind if shown else "application/octet-stream",
            filename=name,
            content_disposition_type="inline" if shown else "attachment",
            headers=_FILE_HEADERS,
        )

    async def _upload(self, scope: dict[str, Any], receive: Receive) -> Response:
        """Takes files of a multipart form, field ``files``; answers with their paths, as gradio's own route does."""
        megabytes = self.max_file / 2**20
        too_large = f"too large: a file may have {megabytes:g} MB (413), a request {10 * megabytes:g} MB"
        body = _Body(receive, limit=self.max_upload)
        try:
            if _declared(scope) > self.max_upload:
                raise _TooLarge
            if self.visitors.stored + self._arriving + _declared(scope) > self.visitors.max_bytes:
                raise Refused(503, "the page is full; come back later")
            body.count = self._count
            form = await Request(scope, body.receive).form(max_files=MAX_FILES, max_fields=10)
            paths = []
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(form.close)
                files = [item for item in form.getlist("files") if not isinstance(item, str)]
                if not files:
                    raise Refused(400, "no file in the field 'files' of the form")
                if any((file.size or 0) > self.max_file for file in files):
                    raise _TooLarge
                for file in files:
                    place = self.visitors.place(file.filename, file.size or 0)
                    await asyncio.to_thread(_store, file.file, place)
                    paths.append(str(place))
            return JSONResponse(paths)
        except _TooLarge:
            await body.drain(self.max_upload)
            return Response(too_large, 413, media_type="text/plain")
        except (TimeoutError, Refused) as error:
            await body.drain(self.max_upload)
            raise error if isinstance(error, Refused) else Refused(408, "nothing came for too long") from None
        except OSError:
            await body.drain(self.max_upload)
            raise Refused(507, "the page has no space for the upload") from None
        except Exception:  # of the parser: whatever a visitor may send as a form
            await body.drain(self.max_upload)
            raise Refused(400, "the upload is no form of files (multipart/form-data)") from None
        finally:
            self._arriving -= body.counted

    def _count(self, size: int) -> None:
        self._arriving += size
        if self.visitors.stored + self._arriving > self.visitors.max_bytes:
            raise Refused(503, "the page is full; come back later")

    # Events -----------------------------------------------------------------------------------------------------------

    async def _json(self, scope: dict[str, Any], receive: Receive) -> Any:
        body = _Body(receive, limit=MAX_JSON)
        try:
            if _declared(scope) > MAX_JSON:
                raise _TooLarge
            return json.loads(await body.read())
        except _TooLarge:
            await body.drain(self.max_upload)
            raise Refused(413, f"a request may have {MAX_JSON:,} bytes") from None
        except TimeoutError:
            raise Refused(408, "nothing came for too long") from None
        except (ValueError, RecursionError):
            raise Refused(400, "the body is not JSON") from None

    def _checked(self, path: str, body: Any) -> bytes:
        """Returns the body of a request as gradio may see it."""
        known = path == f"{API}/queue/join" or path in (f"{API}/reset", f"{API}/cancel") or f"{API}/call/" in path
        if not known:
            raise Refused(404, "not found")
        if not isinstance(body, dict):
            raise Refused(400, "the body must be an object")
        session = body.get("session_hash")
        if not (session is None or (isinstance(session, str) and re.fullmatch(r"[\w-]{1,64}", session))):
            raise Refused(400, "session_hash must be letters and digits")
        if path == f"{API}/queue/join":
            return self._joined(body, session)
        if path == f"{API}/cancel":
            event, number = body.get("event_id"), body.get("fn_index")
            if not isinstance(event, str) or not session or not _whole(number):
                raise Refused(400, "session_hash, fn_index and event_id are needed")
            return json.dumps({"session_hash": session, "event_id": event[:64], "fn_index": number}).encode()
        if path == f"{API}/reset":
            return json.dumps({"event_id": str(body.get("event_id"))[:64]}).encode()
        return self._called(path, body, session)

    def _joined(self, body: dict[str, Any], session: str | None) -> bytes:
        number = body.get("fn_index")
        trigger = body.get("trigger_id")
        function = self.page.fns.get(number) if _whole(number) else None
        if function is None or not session or not (trigger is None or _whole(trigger)):
            raise Refused(400, "session_hash and a known fn_index are needed")
        data = self._inputs(function, body.get("data"), session)
        joined = {"data": data, "fn_index": number, "session_hash": session, "event_data": None}
        return json.dumps({**joined, "trigger_id": trigger if trigger in self.page.blocks else None}).encode()

    def _called(self, path: str, body: dict[str, Any], session: str | None) -> bytes:
        """Returns the body of ``call/NAME`` (inputs as a list) or ``call/v2/NAME`` (inputs by name)."""
        name = path.removeprefix(f"{API}/call/").removeprefix("v2/")
        functions = [f for f in self.page.fns.values() if f.api_name == name]
        if not functions:
            raise Refused(404, "no such endpoint")
        if path == f"{API}/call/v2/{name}":
            names = self._parameters(name)
            if unknown := sorted(set(body) - set(names) - {"session_hash"}):
                raise Refused(400, f"unknown inputs: {', '.join(unknown)[:200]}; there are {', '.join(names)}")
            given = [body.get(parameter) for parameter in names]
            return json.dumps(dict(zip(names, self._inputs(functions[0], given, session), strict=True))).encode()
        data = self._inputs(functions[0], body.get("data"), session)
        return json.dumps({"data": data, "session_hash": session} if session else {"data": data}).encode()

    def _parameters(self, name: str) -> list[str]:
        described = self.page.get_api_info()["named_endpoints"].get(f"/{name}", {"parameters": []})
        return [parameter["parameter_name"] for parameter in described["parameters"]]

    def _inputs(self, function: Any, data: Any, session: str | None) -> list[Any]:
        """Returns the inputs of an event, each built anew as its component can take it."""
        if not isinstance(data, list) or len(data) != len(function.inputs):
            raise Refused(400, f"data must be a list of {len(function.inputs)} inputs")
        return [self._input(block, value, session) for block, value in zip(function.inputs, data, strict=True)]

    def _input(self, block: Any, value: Any, session: str | None) -> Any:
        if value is None:
            return None
        if getattr(block, "data_model", None) is not None:  # of gradio's: everything that arrives as files
            if getattr(block, "file_count", "single") == "single":
                return self._upload_of(value, session)
            several = value if isinstance(value, list) else [value]
            if len(several) > MAX_FILES:
                raise Refused(400, f"at most {MAX_FILES} files at a time")
            return [self._upload_of(item, session) for item in several]
        if not isinstance(value, (str, bool, int, float)) or len(str(value)) > 10_000:
            raise Refused(400, "an input that is no file is a text, a number or true and false")
        choices = [
            pair[1] if isinstance(pair, (list, tuple)) else pair for pair in getattr(block, "choices", None) or []
        ]
        if choices and value not in choices:
            raise Refused(400, f"unknown choice; there are {', '.join(map(str, choices))}")
        return value

    def _upload_of(self, value: Any, session: str | None) -> dict[str, Any]:
        """Returns the description of an upload; everything but its path is ours."""
        path = value.get("path") if isinstance(value, dict) else None
        if not isinstance(path, str) or not self.visitors.knows(path):
            raise Refused(403, "a file must be uploaded first, and lasts as long as the session")
        self.visitors.use(path, session)
        return {"path": path, "orig_name": path.rpartition("/")[2], "meta": {"_type": "gradio.FileData"}}


class _TooLarge(Exception):
    """More bytes than are taken."""


class _Body:
    """Counts what arrives, and lets a client go that sends nothing."""

    def __init__(self, receive: Receive, *, limit: int):
        self._receive, self.limit = receive, limit
        self.counted, self.done = 0, False
        self.count: Callable[[int], None] = lambda size: None

    async def receive(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self._receive(), _STALL_S)
        size = len(message.get("body", b""))
        self.done = message["type"] != "http.request" or not message.get("more_body")
        self.counted += size
        self.count(size)
        if self.counted > self.limit:
            raise _TooLarge
        return message

    async def read(self) -> bytes:
        parts = []
        while not self.done:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)

    async def drain(self, limit: int) -> None:
        """Reads on for a while: a client that is still sending would not see the answer."""
        with contextlib.suppress(asyncio.TimeoutError):
            left = limit
            while not self.done and left > 0:
                message = await asyncio.wait_for(self._receive(), _STALL_S)
                left -= len(message.get("body", b""))
                self.done = message["type"] != "http.request" or not message.get("more_body")


def _declared(scope: dict[str, Any]) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _store(source: Any, place: Any) -> None:
    import shutil

    source.seek(0)
    with open(place, "xb") as file:
        shutil.copyfileobj(source, file, 2**20)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns a ``receive`` that gives a body once, then what the connection gives."""
    given = False

    async def again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
