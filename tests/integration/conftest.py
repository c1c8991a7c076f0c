"""Servers that stand beside a test: nginx over a folder and an S3 bucket, where they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def _server(words: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert process.poll() is None, f"{words[0]} ended with {process.returncode}"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError("the server did not start")
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """``nginx(folder)`` serves the folder until the test ends and returns its address."""
    program = shutil.which("nginx")
    if program is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    with ExitStack() as servers:

        def serve(folder: Path) -> str:
            port = _free_port()
            configuration = tmp_path / "nginx.conf"
            configuration.write_text(
                f"daemon off; pid {tmp_path}/pid; error_log stderr; {'user root;' if os.getuid() == 0 else ''} "
                f"events {{}} http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {folder}; }} }}"
            )
            servers.enter_context(_server([program, "-p", str(tmp_path), "-c", str(configuration)], port))
            return f"http://127.0.0.1:{port}"

        yield serve


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """``s3(folder)`` puts the folder into a bucket of its own and returns the bucket's address."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("needs pip install 'moto[s3]' flask flask-cors")
    import s3fs

    port = _free_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    # fsspec keeps one file system a process, with the endpoint of the test before this one
    s3fs.S3FileSystem.clear_instance_cache()
    words = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with _server(words, port):

        def put(folder: Path) -> str:
            system = s3fs.S3FileSystem()
            system.mkdir("bucket")
            system.put(str(folder), f"bucket/{folder.name}", recursive=True)
            return "s3://bucket"

        yield put
    s3fs.S3FileSystem.clear_instance_cache()
