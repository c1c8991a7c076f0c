"""Does every extra install, from wheels alone, on every Python and platform that vea promises?

    pip install uv
    python benchmarks/platforms.py [--extras faces,dev] [--python 3.11,3.14] [--resolution newest,lowest]
                                   [--cache FILE] [--limit-s 120] [--jobs 2] [--json FILE]

uv resolves the requirements of ``pyproject.toml`` for another machine, with that machine's markers and ``--only-binary
:all:``; nothing is downloaded but metadata. ``lowest`` takes the lowest versions that ``pyproject.toml`` allows.
All extras are resolved together, which holds for each of them; where that has a hole, one by one. Answers are kept in
the cache, so a run that was stopped goes on; another ``pyproject.toml`` asks anew, and so does a resolution that was
late. Prints the tables, names what is in the way of each hole, and exits 1 if there is one. macOS is 14 or newer.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from vea.errors import VeaError, command
from vea.storage.atomic import write_text

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux ARM": "aarch64-manylinux_2_28",
    "macOS ARM": "aarch64-apple-darwin",
    "Windows": "x86_64-pc-windows-msvc",
}
MACOS = "14.0"
ALL = "(all)"  # every extra in one resolution: where that has wheels, each alone has
BARE = "(none)"  # no extra: what `pip install vea` brings
RESOLUTIONS = {"newest": "highest", "lowest": "lowest-direct"}  # ours: uv's name
LIMIT_S = 120.0  # of one resolution
LATE = "no answer within"


def extras_of(project: Path) -> list[str]:
    """Returns the extras that a ``pyproject.toml`` offers, none first."""
    return [BARE, *tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("optional-dependencies", {})]


def resolve(
    uv: str, project: Path, *, extra: str, python: str, platform: str, resolution: str, limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """Returns {"packages": {name: version}} of one combination, or {"hole": why there is none}."""
    words = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:",
             "--python-version", python, "--python-platform", PLATFORMS[platform],
             "--resolution", RESOLUTIONS[resolution], str(project)]  # fmt: skip
    words += {BARE: [], ALL: ["--all-extras"]}.get(extra, ["--extra", extra])
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"hole": f"{LATE} {limit_s:g} s"}
    if done.returncode:
        return {"hole": " ".join(done.stderr.split())[:600] or f"uv ended with {done.returncode}"}
    lines = [line.split(";")[0].strip() for line in done.stdout.splitlines() if "==" in line]
    packages = dict(line.split("==", 1) for line in lines)
    return {"packages": packages} if packages else {"hole": "uv named no packages"}


def all_of(
    uv: str, project: Path, places: list[dict[str, str]], *, cache: Path | None, limit_s: float, jobs: int
) -> list[dict[str, Any]]:
    """Returns a row a place, in their order: its own words and the answer of ``resolve``, kept in ``cache``."""
    version = hashlib.sha256(project.read_bytes()).hexdigest()[:16]
    known: dict[str, dict[str, Any]] = {}
    if cache and cache.is_file():
        held = json.loads(cache.read_text(encoding="utf-8"))
        known = held["answers"] if held["project"] == version else {}

    def answer(place: dict[str, str]) -> dict[str, Any]:
        name = " ".join(place.values())
        return known.get(name) or resolve(uv, project, **place, limit_s=limit_s)

    rows = []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for place, one in zip(places, pool.map(answer, places)):
            rows.append(place | one)
            if not one.get("hole", "").startswith(LATE):
                known[" ".join(place.values())] = one
            if "hole" in one:
                print(f"hole: {', '.join(place.values())}: {one['hole']}", flush=True)
            if cache:
                write_text(cache, json.dumps({"project": version, "answers": known}))
    return rows


def table(found: list[dict[str, Any]]) -> str:
    """Returns Markdown: a row an extra, a column a platform, in it the number of packages of each Python, or a hole."""
    platforms = list(dict.fromkeys(row["platform"] for row in found))
    pythons = list(dict.fromkeys(row["python"] for row in found))
    lines = [f"| extra | {' | '.join(platforms)} |", "|---" * (len(platforms) + 1) + "|"]
    by_place = {(row["extra"], row["platform"], row["python"]): row for row in found}
    for extra in dict.fromkeys(row["extra"] for row in found):
        cells = []
        for platform in platforms:
            rows = [by_place[extra, platform, python] for python in pythons]
            cells.append(" / ".join("HOLE" if "hole" in row else str(len(row["packages"])) for row in rows))
        lines.append(f"| {extra} | {' | '.join(cells)} |")
    return "\n".join(lines)


def find_uv(given: str | None) -> str:
    """Returns the path of uv; raises ``VeaError`` where there is none."""
    beside = Path(sys.executable).with_name("uv")
    uv = given or shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if uv is None or shutil.which(uv) is None:
        raise VeaError("the resolver uv is not here; pip install uv, or name it with --uv")
    return uv


@command
def main(argv: list[str]) -> int:
    """Runs the command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    project = REPOSITORY / "pyproject.toml"
    parser.add_argument("--extras", default=f"{BARE},{ALL}")
    parser.add_argument("--python", default=",".join(PYTHONS))
    parser.add_argument("--platforms", default=",".join(PLATFORMS))
    parser.add_argument(
        "--resolution", default=",".join(RESOLUTIONS), help="newest, lowest (versions allowed), or both"
    )
    parser.add_argument("--cache", type=Path, metavar="FILE", help="keep answers here, and take those that are there")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of one resolution")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--uv", help="path of uv")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if unknown := set(given.platforms.split(",")) - set(PLATFORMS):
        raise VeaError(f"no platforms {', '.join(sorted(unknown))}; there are {', '.join(PLATFORMS)}")
    if unknown := set(given.extras.split(",")) - {ALL, *extras_of(project)}:
        there = ", ".join(extras_of(project))
        raise VeaError(f"pyproject.toml has no extras {', '.join(sorted(unknown))}; it has {there}")
    if unknown := set(given.resolution.split(",")) - set(RESOLUTIONS):
        raise VeaError(f"no resolutions {', '.join(sorted(unknown))}; there are {', '.join(RESOLUTIONS)}")
    uv = find_uv(given.uv)
    words = (given.resolution.split(","), given.extras.split(","), given.platforms.split(","), given.python.split(","))
    places = [
        {"resolution": resolution, "extra": extra, "platform": platform, "python": python}
        for resolution, extra, platform, python in itertools.product(*words)
    ]
    options: dict[str, Any] = {"cache": given.cache, "limit_s": given.limit_s, "jobs": given.jobs}
    found = all_of(uv, project, places, **options)
    holed = [row for row in found if row["extra"] == ALL and "hole" in row]
    one_by_one = [
        {name: row[name] for name in places[0]} | {"extra": extra} for row in holed for extra in extras_of(project)
    ]
    all_of(uv, project, one_by_one, **options)  # prints which
    holes = [row for row in found if "hole" in row]
    for resolution in words[0]:
        print(f"packages on Python {' / '.join(words[3])}, wheels only, {resolution} versions\n")
        print(table([row for row in found if row["resolution"] == resolution]), end="\n\n")
    print(f"{len(found)} combinations, {len(holes)} holes")
    if given.json:
        write_text(given.json, json.dumps({"combinations": found}, indent=1) + "\n")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
