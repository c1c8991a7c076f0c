"""A wheel and a source archive install, and predict, where there is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.integration

OUTSIDE = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt")
FOLDERS = ("vea", "configs", "datasets", "finetune", "pretrain", "slurm")
HOOK = "import sys, setuptools.build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def build(kind: str, source: Path, out: Path) -> Path:
    """Returns the archive that the project's own build back end makes of ``source``; nothing is downloaded."""
    out.mkdir(exist_ok=True)
    return out / run(sys.executable, "-c", HOOK, kind, out, cwd=source).stdout.splitlines()[-1]


def files_of(folder: Path) -> set[str]:
    """Returns what belongs to the package ``vea``, without caches."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder.parent).as_posix() for path in files}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A copy: building writes beside the source."""
    copy = tmp_path_factory.mktemp("source")
    for name in OUTSIDE:
        shutil.copy(repository / name, copy / name)
    for name in FOLDERS:
        shutil.copytree(repository / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with nothing but the wheel; what vea needs comes from this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index", "-q")
    run(*pip, "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_holds_the_whole_package(wheel: Path, repository: Path):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("vea/")}
    assert inside == files_of(repository / "vea")
    assert {"vea/assets/expression/model.safetensors", "vea/assets/expression-nano/state.json"} <= inside


def test_the_source_archive_makes_the_same_wheel(source: Path, wheel: Path, tmp_path: Path):
    archive = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.glob("vea-*") if path.is_dir())
    assert (unpacked / "datasets/cards/fer2013plus.yaml").is_file() and (unpacked / "finetune/train.py").is_file()
    again = build("wheel", unpacked, tmp_path / "again")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_installed_package_predicts_without_the_checkout(installed: Path, tmp_path: Path, repository: Path):
    where = run(sys.executable, "-c", "import vea; print(vea.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.stdout.strip()).is_relative_to(installed)
    cv2.imwrite(str(tmp_path / "face.png"), np.full((48, 48, 3), 128, np.uint8))
    command = (sys.executable, "-m", "vea.commands.main", "predict", "face.png", "--no-faces", "--json")
    found = json.loads(run(*command, cwd=tmp_path, PYTHONPATH=str(installed)).stdout)
    assert set(found["probabilities"]) == {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}
    assert {path.name for path in tmp_path.iterdir()} == {"face.png"}
    assert (installed / "bin" / "vea").is_file()


@pytest.mark.real_data
def test_the_installed_package_finds_a_smile(installed: Path, tmp_path: Path, vea_data: Path):
    picture = vea_data / "people_samples" / "images" / "astronaut.jpg"
    command = (sys.executable, "-m", "vea.commands.main", "predict", picture, "--json")
    (face,) = json.loads(run(*command, cwd=tmp_path, PYTHONPATH=str(installed)).stdout)["faces"]
    assert face["expression"] == "happy"
