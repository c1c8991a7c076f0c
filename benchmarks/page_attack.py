"""The page under attack: ``vea serve`` with the models that ship, in its own process, and visitors who mean it ill.

    python benchmarks/page_attack.py [--photo FILE] [--parallel 200] [--only paths,slow] [--json FILE]

Each attack is a function below; after each of them one photograph must get its usual answer. Counted are the answers by
status, those that should not be (500 and above but 503, a secret in a body, no answer), and the resident memory before
and after. At the end nothing of any visitor may lie on the disk. Exit 0 only if nothing bad was counted.

    python benchmarks/page_attack.py --only schema [--schema-s 300]     # the page's OpenAPI, by schemathesis
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from vea.errors import VeaError, command
from vea.storage.atomic import write_text

API = "/gradio_api"
KEEP_S = 20  # seconds that the page keeps a file that no open page uses
PATIENCE_S = 30  # the server's: after twice as long a client that sends nothing must be gone
OURS = {"log.txt", "secret.jpg", "uploads"}
LIBRARIES = ("wandb-artifacts", "wandb-media", "torchinductor_root")  # empty folders of theirs, made when imported
ROOT = Path(__file__).resolve().parents[1]


class Page:
    """A running ``vea serve``, what it answered, and a file beside it that nobody may see."""

    def __init__(self, folder: Path, photo: bytes):
        self.folder, self.photo = folder, photo
        self.uploads = folder / "uploads"
        self.secret = folder / "secret.jpg"
        self.token = secrets.token_bytes(24)
        self.secret.write_bytes(photo + self.token)
        self.answers: collections.Counter[str] = collections.Counter()
        self.bad: list[str] = []
        self.schema_s = 300
        self._lock = threading.Lock()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = listener.getsockname()[1]
        words = ["serve", "--port", str(self.port), "--max-mb", "20", "--queue", "32", "--keep", str(KEEP_S)]
        self.log = folder / "log.txt"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vea.commands.main", *words], cwd=ROOT, stdout=out, stderr=out,
                env={**os.environ, "GRADIO_TEMP_DIR": str(self.uploads), "TMPDIR": str(folder)},
            )  # fmt: skip
        no_limit = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=300, limits=no_limit)

    def wait(self) -> None:
        """Returns once the page answers."""
        deadline = time.monotonic() + 180
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise VeaError(f"vea serve did not come up: {self.log.read_text()[-500:]}")
            with contextlib.suppress(httpx.HTTPError):
                if self.client.get("/health").status_code == 200:
                    return
            time.sleep(0.3)

    def memory(self, what: str = "VmRSS") -> float:
        """Returns MiB of the server."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024

    def note(self, answer: str, bad: str = "") -> None:
        """Counts one answer."""
        with self._lock:
            self.answers[answer] += 1
            if bad:
                self.bad.append(bad)

    def ask(self, method: str, path: str, *, forbidden: bool = False, **more: Any) -> httpx.Response | None:
        """Returns the answer to one request, counted; ``forbidden``: it may not succeed."""
        try:
            answer = self.client.request(method, path, **more)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            self.note(type(error).__name__, f"{method} {path}: {error!r}" if forbidden else "")
            return None
        code, wrong = answer.status_code, ""
        if self.token in answer.content or b"root:x:0" in answer.content:
            wrong = f"{method} {path} handed out a file of the machine"
        elif code >= 500 and code != 503:
            wrong = f"{method} {path}: {code} {answer.text[:200]}"
        elif forbidden and code < 400:
            wrong = f"{method} {path} was let through: {answer.text[:200]}"
        self.note(str(code), wrong)
        return answer

    def upload(self, data: bytes | None = None, name: str = "a.jpg") -> str | None:
        """Returns the path that the page gave an upload."""
        answer = self.ask("POST", f"{API}/upload", files={"files": (name, self.photo if data is None else data)})
        return answer.json()[0] if answer is not None and answer.status_code == 200 else None

    def look(self, path: str | None) -> str:
        """Returns the sentence about one upload; a refusal as it is."""
        if path is None:
            return "no upload"
        begun = self.ask("POST", f"{API}/call/look", json={"data": [described(path)]})
        if begun is None or begun.status_code != 200:
            return f"refused {begun.status_code}" if begun is not None else "no answer"
        read = self.ask("GET", f"{API}/call/look/{begun.json()['event_id']}")
        if read is None or "event: complete" not in read.text:
            return f"refused {read.text[:200]}" if read is not None else "no answer"
        return json.loads(read.text.split("event: complete\ndata: ")[1].split("\n")[0])[0]

    def left(self) -> list[str]:
        """Returns the files of visitors, after time enough to have gone."""
        deadline = time.monotonic() + 3 * KEEP_S + 5
        while True:
            files = [name for _, _, names in os.walk(self.uploads) for name in names]  # folders go meanwhile
            there = {path.name for path in self.folder.iterdir()}
            stray = {name for name in there - OURS if not name.endswith(LIBRARIES)}
            if (not files and not stray) or time.monotonic() > deadline:
                return [*files, *stray]
            time.sleep(0.5)


def described(path: Any, **more: Any) -> dict[str, Any]:
    """Returns a file as gradio's client describes it."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def together(count: int, visit: Callable[[int], Any]) -> list[Any]:
    """Returns the results of ``count`` visits at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(visit, range(count)))


# Attacks --------------------------------------------------------------------------------------------------------------


def paths(page: Page, parallel: int) -> None:
    """Paths that nobody uploaded, in 14 dresses, at every endpoint; and files by their address."""
    secret, mine = str(page.secret), page.upload() or ""
    link = Path(mine).with_name("link.jpg")
    link.symlink_to(page.secret)
    up = "../" * 12
    texts = [
        str(link),
        secret,
        f"file://{secret}",
        f"{API}/file={secret}",
        f"//{secret}",
        f"{mine}/{up}{secret}",
        f"{secret}\0.png",
        f"{Path(mine).parent}/{up}{secret[1:]}",
        str(Path(mine).parent),
        str(page.uploads),
        os.path.relpath(secret, ROOT),
        "/etc/passwd",
        f"http://127.0.0.1:{page.port}/health",
        "",
    ]
    names = [f["api_name"] for f in page.client.get("/config").json()["dependencies"] if f.get("api_name")]
    for text in texts:
        dressed = [
            described(text),
            described(text, url=secret, orig_name="a.jpg", is_stream=True),
            text,
            [described(text)],
            {"value": described(text)},
            described([text]),
        ]
        for value in dressed:
            for name in names:
                more = [5] if name == "watch" else []
                body = {"data": [value, *more], "session_hash": "x"}
                page.ask("POST", f"{API}/call/{name}", json=body, forbidden=True)
                page.ask("POST", f"{API}/call/v2/{name}", json={"param_0": value}, forbidden=True)
                page.ask("POST", f"{API}/run/{name}", json=body, forbidden=True)
            for number in range(len(names)):
                joined = {"data": [value], "fn_index": number, "session_hash": "x"}
                page.ask("POST", f"{API}/queue/join", json=joined, forbidden=True)
    for text in filter(None, texts):
        for start in (
            f"{API}/file=",
            "/file=",
            f"{API}/file/",
            f"{API}/proxy=",
            "/static/",
            "/assets/",
            f"{API}/stream/",
        ):
            with contextlib.suppress(httpx.InvalidURL):
                page.ask("GET", start + text.replace("\0", "%00"), forbidden=True)
    link.unlink(missing_ok=True)


def many(page: Page, parallel: int) -> None:
    """``parallel`` visitors at once, each with a photograph; those beyond the queue are told so."""
    usual = page.look(page.upload())
    for _ in range(3):
        for told in together(parallel, lambda _: page.look(page.upload())):
            if told != usual and not told.startswith("refused"):
                page.note("other answer", f"a visitor among {parallel} was told {told[:200]}")


def large(page: Page, parallel: int) -> None:
    """60 MB: as a form, in pieces without a length, as JSON, and several at once."""
    megabytes = b"\xff\xd8" * (30 * 2**20)

    def pieces() -> Iterator[bytes]:
        yield b'--a\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        for _ in range(60):
            yield b"\xff" * 2**20
        yield b"\r\n--a--\r\n"

    form = {"content-type": "multipart/form-data; boundary=a"}
    for _ in range(2):
        page.ask("POST", f"{API}/upload", files={"files": ("a.jpg", megabytes)}, forbidden=True)
        page.ask("POST", f"{API}/upload", content=pieces(), headers=form, forbidden=True)
        page.ask("POST", f"{API}/call/look", content=megabytes, forbidden=True)
        page.ask("POST", f"{API}/call/look", content=pieces(), forbidden=True)
        page.ask("POST", "/login", content=pieces(), forbidden=True)
        page.ask("GET", "/health", content=megabytes[: 2**20])
    together(12, lambda _: page.ask("POST", f"{API}/upload", content=pieces(), headers=form, forbidden=True))


def connected(page: Page) -> socket.socket:
    """Returns a connection to the page."""
    return socket.create_connection(("127.0.0.1", page.port), timeout=10)


def gone(page: Page, held: Iterable[socket.socket], *, within: float) -> None:
    """Counts the connections that the server ended, and those that it still holds after ``within`` seconds."""
    deadline = time.monotonic() + within
    for line in held:
        try:
            line.settimeout(max(0.1, deadline - time.monotonic()))
            while line.recv(2**16):
                pass
            page.note("let go")
        except TimeoutError:
            page.note("still held", f"a silent client is held after {within:g} s")
        except OSError:
            page.note("let go")
        line.close()


def slow(page: Page, parallel: int) -> None:
    """Clients that stop in the headers, trickle them, stop in the body of a form and of an event, or do not read."""
    size = b"Host: x\r\nContent-Length: 1000000\r\n"
    starts = [
        b"",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-a: ",
        b"POST /gradio_api/upload HTTP/1.1\r\n"
        + size
        + b"Content-Type: multipart/form-data; boundary=a\r\n\r\n--a\r\n",
        b"POST /gradio_api/call/look HTTP/1.1\r\n" + size + b'Content-Type: application/json\r\n\r\n{"data": [',
    ]
    held = []
    for number in range(parallel):
        line = connected(page)
        line.sendall(starts[number % len(starts)])
        held.append(line)
    trickle = [connected(page) for _ in range(10)]
    asked = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % f"{API}/file={page.upload(b'x' * (19 << 20))}".encode()
    deaf = [connected(page) for _ in range(10)]
    for line in deaf:
        line.sendall(asked)
    began = time.monotonic()
    if page.look(page.upload()).startswith(("refused", "no")):
        page.note("no answer", f"with {len(held)} slow clients nobody else is served")
    page.note(f"{'within' if time.monotonic() - began < 10 else 'beyond'} 10 s beside slow clients")
    for letter in b"GET /health HTTP/1.1\r\nX-b: 1":
        time.sleep(0.5)
        for line in trickle:
            with contextlib.suppress(OSError):
                line.sendall(bytes([letter]))
    gone(page, [*held, *trickle], within=3 * PATIENCE_S)
    for line in deaf:
        line.close()


def broken(page: Page, parallel: int) -> None:
    """Connections that are closed, half or wholly, at every moment of a request; and bytes that are no HTTP."""
    path = page.upload()
    event = json.dumps({"data": [described(path)]}).encode()
    head = b"POST /gradio_api/call/look HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(event)
    form = (
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=a\r\n\r\n5\r\n--a\r\n\r\n"
    )
    sent = [
        b"GET /health HTTP/1.1\r\n",
        head,
        head + event[:20],
        head + event,
        form,
        form + b"FFFFFFFFF\r\nx",
        form + b"-1\r\n",
        b"GET /gradio_api/heartbeat/abc HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" * 40,
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 5000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /gradio_api/call/look HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x",
    ]
    held = []
    for number in range(parallel):
        line = connected(page)
        with contextlib.suppress(OSError):
            line.sendall(sent[number % len(sent)])
            if number % 3 == 0:
                line.shutdown(socket.SHUT_WR)
                held.append(line)
                continue
        line.close()
    gone(page, [line for line in held if line.fileno() >= 0], within=3 * PATIENCE_S)


def kinds(page: Page, parallel: int) -> None:
    """Every content type that is not the right one, with a body of another, at every endpoint that takes one."""
    types = [
        "",
        "x",
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "a" * 5000,
        "application/x-www-form-urlencoded",
        "application/json; charset=x",
        "application/json; charset=utf-16",
        "image/jpeg",
        "multipart/mixed; boundary=a",
        "\xff\xfe",
    ]
    bodies = [
        b"",
        b"\0",
        b"{}",
        b"[" * 50_000,
        b'{"data": NaN}',
        b'{"data": [1e999]}',
        page.photo,
        b"--a\r\n\r\n\r\n--a--",
        b'{"data": ["' + b"\\ud800" * 1000 + b'"]}',
        b"a=b&c=d",
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    ]
    for route in ("upload", "call/look", "call/many", "call/v2/look", "queue/join", "cancel", "reset"):
        for kind in types:
            for body in bodies:
                headers = [(b"content-type", kind.encode("latin-1"))]
                page.ask(
                    "POST",
                    f"{API}/{route}",
                    content=body,
                    headers=headers,
                    forbidden=route not in ("reset", "call/v2/look"),
                )


def unread(page: Page, parallel: int) -> None:
    """Events that nobody reads, sessions that open and vanish, uploads that nobody uses: two rounds, one bound."""
    path = page.upload(b"no picture")
    for number in range(10 * parallel):
        if number == 5 * parallel:
            page.note(f"{page.memory():.0f} MiB after the first round")
        body = {"data": [described(path)], "session_hash": f"s{number}"}
        page.ask("POST", f"{API}/call/look", json=body)
        if number % 5 == 0:
            page.upload(b"x" * 100_000)
            with connected(page) as line:
                line.sendall(b"GET /gradio_api/heartbeat/s%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
                line.recv(100)


def schemathesis() -> str | None:
    """Returns the program, on the PATH or beside this Python."""
    beside = Path(sys.executable).with_name("schemathesis")
    return shutil.which("schemathesis") or (str(beside) if beside.is_file() else None)


def schema(page: Page, parallel: int) -> None:
    """Requests that schemathesis makes of the page's own OpenAPI, for ``page.schema_s`` seconds; no server error."""
    words = [schemathesis() or "schemathesis", "run", f"http://127.0.0.1:{page.port}{API}/openapi.json"]
    words += ["--max-time", str(page.schema_s), "-c", "not_a_server_error", "--seed", "0", "--workers", "4"]
    words += ["--no-color", "--continue-on-failure"]
    with tempfile.TemporaryDirectory(prefix="schemathesis-") as work:
        done = subprocess.run(words, cwd=work, capture_output=True, text=True, timeout=2 * page.schema_s + 120)
    print(done.stdout[-4000:] or done.stderr[-4000:], flush=True)
    cases = re.search(r"(\d+) generated", done.stdout)
    page.note(f"schemathesis exit {done.returncode}, cases {cases[1] if cases else 'unknown'}")
    if done.returncode or not cases or not int(cases[1]):
        page.note("bad", f"schemathesis ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}")


ATTACKS: dict[str, Callable[[Page, int], None]] = {
    "paths": paths, "many": many, "large": large, "slow": slow, "broken": broken, "kinds": kinds, "unread": unread,
    "schema": schema,
}  # fmt: skip


def run(page: Page, names: list[str], parallel: int) -> list[dict[str, Any]]:
    """Returns a row for each attack: seconds, answers, MiB before and after, and what was bad."""
    rows = []
    usual = page.look(page.upload())
    for name in names:
        page.answers.clear()
        before, began = page.memory(), time.monotonic()
        ATTACKS[name](page, parallel)
        seconds = time.monotonic() - began
        answers = dict(sorted(page.answers.items()))
        deadline = time.monotonic() + 120  # what waits in the queue is done first
        while (told := page.look(page.upload())) != usual and time.monotonic() < deadline:
            time.sleep(1)
        if told != usual:
            page.note("other answer", f"after {name} a photograph got {told[:200]} instead of {usual}")
        rows.append({"attack": name, "seconds": seconds, "before": before, "after": page.memory(), "answers": answers})
        print(f"{name:8s} {seconds:6.1f} s  {before:6.0f} -> {page.memory():6.0f} MiB  "
              + ", ".join(f"{key}: {count}" for key, count in answers.items()), flush=True)  # fmt: skip
    return rows


@command
def main(argv: list[str]) -> int:
    """Runs the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="(people_samples/images/astronaut.jpg of VEA_DATA)")
    parser.add_argument("--parallel", type=int, default=200)
    parser.add_argument("--only", default=",".join(name for name in ATTACKS if name != "schema"))
    parser.add_argument("--schema-s", type=int, default=300, help="of the attack 'schema', by schemathesis")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    photo = given.photo or Path(os.environ.get("VEA_DATA", "")) / "people_samples/images/astronaut.jpg"
    names = given.only.split(",")
    if "schema" in names and not schemathesis():
        raise VeaError("the attack 'schema' needs schemathesis on the PATH: pipx install schemathesis")
    if not photo.is_file():
        raise VeaError(f"no photograph {photo}: name one with --photo")
    if unknown := set(names) - set(ATTACKS):
        raise VeaError(f"no attack {', '.join(sorted(unknown))}; there are {', '.join(ATTACKS)}")
    with tempfile.TemporaryDirectory(prefix="vea-attack-") as folder:
        page = Page(Path(folder), photo.read_bytes())
        page.schema_s = given.schema_s
        try:
            page.wait()
            rows = run(page, names, given.parallel)
            page.bad += [f"left behind: {name}" for name in page.left()]
            peak = page.memory("VmHWM")
        finally:
            page.process.terminate()
            code = page.process.wait(60)
        if code not in (0, -15) or "Traceback" in page.log.read_text():
            page.bad.append(f"the server ended with {code}: {page.log.read_text()[-1500:]}")
    print(f"peak {peak:.0f} MiB; {len(page.bad)} bad")
    for line in page.bad[:20]:
        print(f"bad: {line}")
    if given.json:
        write_text(given.json, json.dumps({"rows": rows, "peak": peak, "bad": page.bad}, indent=1) + "\n")
    return 1 if page.bad else 0


if __name__ == "__main__":
    sys.exit(main())
