"""Ray as the engine of preparation and enrichment, for those who have a few machines and no SLURM.

A task is what an element of a job array would do (one shard to write, one part to enrich) by the very same functions,
so the bytes are the same, what is complete is kept, and the same command goes on after a kill. Without RAY_ADDRESS Ray
runs on this machine for as long as the command does; with it the tasks go to that cluster, whose machines must see the
same files at the same paths. Nothing leaves the machines: no dashboard, no usage statistics.

Tasks and not ``ray.data``: a data set of Ray streams Arrow tables between operators (and needs pyarrow for it), while
here files are the result and a task answers with a few numbers; a failed row of it would also not say which it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vea.errors import RunError, VeaError
from vea.storage import atomic

Item = TypeVar("Item")
Result = TypeVar("Result")


def _import_ray(address: str) -> Any:
    # read when Ray is imported, and by the processes that it starts
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == "local" and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"  # other users of this machine stay out
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else Ray leaves one in the home folder
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns that this becomes the default
    try:
        import ray
    except ImportError:
        raise VeaError("--engine ray needs the package ray: pip install 'vea[ray]'") from None
    return ray


@contextlib.contextmanager
def session(*, cpus: int | None = None) -> Iterator[Any]:
    """Yields ``ray``, connected: to what the caller has started, to RAY_ADDRESS, or to ``cpus`` of this machine (all).

    Raises:
        VeaError: ray is not installed, RAY_ADDRESS does not answer, or the name of the temporary folder is too long.
    """
    address, folder = os.environ.get("RAY_ADDRESS") or "local", None
    ray = _import_ray(address)
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if address != "local":
            host, _, port = address.removeprefix("ray://").rpartition(":")
            try:
                if port.isdigit():  # Ray itself would try for a minute, and say so at length
                    socket.create_connection((host, int(port)), timeout=10).close()
                ray.init(address=address, **quiet)
            except OSError:  # ConnectionError is one
                raise VeaError(
                    f"no Ray cluster answers at RAY_ADDRESS={address}; start one there, or unset it to use this machine"
                ) from None
        else:
            folder = tempfile.mkdtemp(prefix="vea-ray-")
            if len(folder) > 40:  # Ray's sockets lie 66 bytes deeper, and a socket's name holds 107
                raise VeaError(f"the temporary folder {folder} has a name too long for Ray: set a shorter TMPDIR")
            ray.init(
                address="local",
                num_cpus=cpus or len(os.sched_getaffinity(0)),
                include_dashboard=False,
                _temp_dir=folder,
                **quiet,
            )
        yield ray
    finally:
        ray.shutdown()
        if folder:
            atomic.remove(Path(folder))


def room(ray: Any, *, cpus: int = 1, gpus: int = 0) -> int:
    """Returns how many tasks of that size run at the same time.

    Raises:
        VeaError: not even one.
    """
    there = ray.cluster_resources()
    found = int(min(there.get("CPU", 0) // cpus, there.get("GPU", 0) // gpus if gpus else float("inf")))
    if not found:
        raise VeaError(f"a task of {cpus} CPU and {gpus} GPU does not fit Ray's {there.get('CPU', 0):.0f} CPU and "
                       f"{there.get('GPU', 0):.0f} GPU; ask for less")  # fmt: skip
    return found


def _call(work: Callable[[Item], Result], item: Item, folder: str) -> Result:
    os.chdir(folder)  # paths of the command line are relative to where it was typed
    return work(item)


def run_tasks(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    name: Callable[[Item], str],
    jobs: int | None = None,
    cpus: int = 1,
    gpus: int = 0,
) -> Iterator[tuple[Item, Result]]:
    """Yields each item with what ``work`` returned for it, as they end; a failed one lets those that run go on.

    Args:
        work: picklable, with all it needs; its errors come back as they are.
        items: none is None.
        name: an item in words, for the sentence that says what failed.
        jobs: tasks at the same time; by default as many as there is room for.
        cpus: cores of one task.
        gpus: GPUs of one task.

    Raises:
        VeaError: of the first task that raised one, with the item's name before it and those that failed as well.
        RunError: a task's process was killed each time that it was tried.
    """
    with session(cpus=jobs and jobs * cpus) as ray:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_call)
        shared, todo = ray.put(work), iter(items)
        limit = min(jobs or float("inf"), room(ray, cpus=cpus, gpus=gpus))
        running: dict[Any, Item] = {}
        failed: list[tuple[str, Exception]] = []
        try:
            while True:
                while not failed and len(running) < limit and (item := next(todo, None)) is not None:
                    running[task.remote(shared, item, os.getcwd())] = item
                if not running:
                    break
                ended = ray.wait(list(running))[0][0]
                item = running.pop(ended)
                try:
                    result = ray.get(ended)
                except ray.exceptions.RayError as error:
                    failed.append((name(item), error))
                else:
                    yield item, result
        finally:
            for reference in running:  # the caller was interrupted
                ray.cancel(reference)
    if failed:
        raise _in_words(failed)


def _in_words(failed: list[tuple[str, Exception]]) -> Exception:
    (first, error), others = failed[0], [name for name, _ in failed[1:]]
    also = f" (failed as well: {', '.join(others)})" if others else ""
    cause = getattr(error, "cause", None)  # what the function raised, where it raised
    if isinstance(cause, VeaError):
        return type(cause)(f"{first}: {cause}{also}")
    if isinstance(cause, Exception):
        cause.add_note(f"in {first}{also}")
        cause.__cause__ = error  # its text is the traceback in the other process
        return cause
    return RunError(f"{first}: its process was killed (out of memory?){also}; what is complete is kept: run again, "
                    "perhaps with fewer --jobs")  # fmt: skip
