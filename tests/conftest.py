"""What every test shares: caches in temporary folders, no network, and the real data where it is there."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import runpy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before any test module is imported: torch, wandb and matplotlib read these once. Subprocesses inherit them.
(ROOT / ".cache").mkdir(exist_ok=True)
_CACHE = tempfile.TemporaryDirectory(prefix="tests-", dir=ROOT / ".cache", ignore_cleanup_errors=True)
for _name, _folder in {
    "WANDB_DIR": "wandb",
    "WANDB_DATA_DIR": "wandb/data",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_CONFIG_DIR": "wandb/config",
    "MPLCONFIGDIR": "matplotlib",
    "TORCH_HOME": "torch",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "HF_HOME": "huggingface",
    "XDG_CACHE_HOME": "xdg/cache",
    "XDG_CONFIG_HOME": "xdg/config",
    "XDG_DATA_HOME": "xdg/data",
}.items():
    _path = Path(_CACHE.name) / _folder
    _path.mkdir(parents=True, exist_ok=True)
    os.environ[_name] = str(_path)
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # subprocesses and loader workers share few cores
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


# Drawn examples are the same in every run, leave no folder behind, and may be slow on a machine that others share.
hypothesis.settings.register_profile("vea", database=None, deadline=None, derandomize=True)
hypothesis.settings.load_profile("vea")


# Ranks of a test (start_method="forkserver") come of one process that has imported what takes seconds.
multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "vea.tasks.pretrain", "vea.training.steps"])


def pytest_unconfigure() -> None:
    """Removes the temporary caches."""
    _CACHE.cleanup()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Returns the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def script(repository: Path) -> Callable[..., str]:
    """``script(FILE, WORD...)`` runs a script's ``main`` in this process, which has torch already.

    Returns what it says. A process of its own is for what is signalled, killed or counted.
    """

    def run(file: str, *words: object, cwd: Path = repository) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.chdir(cwd):
            code = runpy.run_path(str(repository / file))["main"]([str(word) for word in words])
        assert code in (None, 0), f"{file} returned {code}; it said: {said.getvalue()[-2000:]}"
        return said.getvalue()

    return run


@pytest.fixture(scope="session")
def vea_data() -> Iterator[Path]:
    """Yields the folder of the real data; skips the test where there is none."""
    value = os.environ.get("VEA_DATA")
    if not value:
        pytest.skip("VEA_DATA is not set: this test reads real data, set it to the folder of the raw downloads")
    if not Path(value).is_dir():
        pytest.fail(f"VEA_DATA={value} is not a folder")
    yield Path(value)
