"""What ``vea doctor`` says about the code: the packages it runs with, and the commit that a checkpoint will name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import vea
from vea.config import RunConfig
from vea.config.findings import Finding, collect
from vea.storage.provenance import git_state


def check_versions(config: RunConfig) -> Iterator[Finding]:
    """Yields packages that do not meet vea's requirements, and those of another version than the tests ran with."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("vea") or []]
    except metadata.PackageNotFoundError:
        yield Finding("warning", "versions", "vea is not installed, only found", "pip install -e .")
        requirements = []
    for requirement in requirements:
        if (requirement.marker is None or requirement.marker.evaluate({"extra": ""})) and (bad := _unmet(requirement)):
            yield Finding("missing", "versions", bad, f"pip install '{requirement.name}{requirement.specifier}'")
    pinned = Path(vea.__file__).resolve().parents[1] / "constraints.txt"
    lines = pinned.read_text(encoding="utf-8").splitlines() if pinned.is_file() else []
    for requirement in [Requirement(line) for line in lines if line and not line.startswith("#")]:
        if bad := _unmet(requirement):
            yield Finding("warning", "versions", f"{bad}, with which the tests run", f"pip install '{requirement}'")
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm", "open_clip_torch"))
    yield Finding("ok", "versions", f"vea {vea.__version__}, {shown}")


def _unmet(requirement: Any) -> str:
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    plain = found.partition("+")[0]  # 2.14.1+cpu is 2.14.1
    fits = requirement.specifier.contains(plain, prereleases=True)
    return "" if fits else f"{requirement.name} {found}, not {requirement.specifier}"


def check_git(config: RunConfig) -> Iterator[Finding]:
    """Yields the state of the code, which a checkpoint records."""
    state = git_state()
    changed = len(state.get("changed_files", "").splitlines())
    if not state.get("commit"):
        yield Finding("warning", "git", "the code is in no git repository: a run cannot say what made it")
    elif changed:
        yield Finding("warning", "git", f"{state['commit'][:10]} and {changed} changed files", "commit them")
    else:
        yield Finding("ok", "git", state["commit"][:10])


def check(config: RunConfig) -> list[Finding]:
    """Returns what there is to say about packages and commit."""
    return collect({"versions": check_versions, "git": check_git}, config)
