"""Files and folders that are whole or absent: a temporary name, fsync, rename last, fsync of the parent.

The one place that renames and deletes (``tests/test_layout.py`` guards it). A folder is replaced by exchanging two
names in one step of the kernel, so that a kill at any moment leaves the old or the new, never neither; where the kernel
cannot, the old one waits under ``.NAME.old`` and ``recover`` brings it back. Nothing that vea did not write is ever
replaced.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from vea.errors import RunError, VeaError

EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
HERE = -100  # AT_FDCWD
WEIGHTS = {"model.safetensors", "ema.safetensors", "optimizer.pt"}  # of a checkpoint; not every one has all


def partial_name(path: Path) -> Path:
    """Returns a hidden name beside ``path`` that no other process, on this or another host, can have chosen."""
    host = socket.gethostname().split(".")[0][:32] or "host"
    return path.with_name(f".{path.name}.{host}-{os.getpid()}-{secrets.token_hex(3)}")


def fsync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether an error of a writer means that there is no room; not all of them say so by number."""
    text = str(error).lower()
    phrases = ["no space left", "quota", "file too large", "os error 28", "pytorchstreamwriter"]
    phrases += ["unexpected pos", "iostream error"]  # torch.save does not say why a write was short
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        phrase in text for phrase in phrases
    )


def rename(source: Path, target: Path) -> None:
    """Gives a whole file or folder its name, and waits until the name is on the disk."""
    os.rename(source, target)
    fsync(target.parent)


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder of vea's own; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yields a temporary path that becomes ``path`` when the block succeeds, and is gone otherwise.

    Raises:
        VeaError: ``replace`` is False and ``path`` exists; nothing was written.
    """
    if not replace and (path.exists() or path.is_symlink()):
        raise VeaError(f"{path} exists; give another name or remove it")
    partial = partial_name(path)
    try:
        yield partial
        fsync(partial)
        os.replace(partial, path)
        fsync(path.parent)
    finally:
        remove(partial)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically: a reader sees the old content or the new, never a part."""
    with new_file(path) as partial, partial.open("wb") as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) atomically."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


@contextlib.contextmanager
def new_folder(path: Path, *, marker: str | None = None) -> Iterator[Path]:
    """Yields an empty temporary folder that becomes ``path`` when the block succeeds, and is gone otherwise.

    Args:
        path: what is to be there.
        marker: name of the file by which vea knows a folder of this kind. A folder at ``path`` is replaced only if it
            has it and holds nothing beside what is written now; None: ``path`` must not exist, or be empty.

    Raises:
        VeaError: there is something at ``path`` that vea did not write, or that may not be replaced; it is untouched.
        RunError: no space left; what was there is untouched.
    """
    recover(path)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise VeaError(f"{path} is no folder; give another name or remove it")
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if there and (marker is None or marker not in there):
        known = "" if marker is None else f" and has no {marker}, so vea did not write it"
        raise VeaError(
            f"{path} exists and is not empty{known}; give another name or remove it (it holds {_some(there)})"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        partial.mkdir()
        yield partial
        written = {entry.name for entry in partial.iterdir()}
        strangers = [name for name in there if name not in written | WEIGHTS and not name.startswith(".")]
        if strangers:
            raise VeaError(f"{path} also holds {_some(strangers)}, which would be lost; give another name")
        for file in partial.rglob("*"):
            fsync(file)
        fsync(partial)
        put_folder(partial, path)
    except BaseException as error:
        if is_disk_full(error):
            raise RunError(
                f"no space left to write {path}; what was there is whole: free space and try again"
            ) from error
        raise
    finally:
        remove(partial)


def put_folder(source: Path, target: Path) -> None:
    """Gives the whole folder ``source`` the name ``target``, in place of what vea wrote there before."""
    if not target.exists():
        rename(source, target)
        return
    if not _exchange(source, target):
        old = target.with_name(f".{target.name}.old")
        remove(old)
        os.rename(target, old)
        os.rename(source, target)
        source = old
    fsync(target.parent)
    remove(source)


def recover(path: Path) -> None:
    """Brings back a folder whose replacement was killed between two renames."""
    old = path.with_name(f".{path.name}.old")
    if not path.exists() and old.is_dir():
        with contextlib.suppress(OSError):  # another process was quicker
            os.rename(old, path)


def set_aside(folder: Path) -> Path:
    """Returns the new name ``FOLDER.N`` of a folder, the first that is free."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    rename(folder, target)
    return target


def _exchange(first: Path, second: Path) -> bool:
    """Exchanges two names at once; returns False where the system or the file system cannot."""
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return function(HERE, os.fsencode(first), HERE, os.fsencode(second), EXCHANGE) == 0


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
