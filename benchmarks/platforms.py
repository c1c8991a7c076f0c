"""Does every extra install, from wheels alone, on every Python and platform that vea promises?

    pip install uv
    python benchmarks/platforms.py [--extras faces,dev] [--python 3.11,3.14] [--lowest] [--json FILE]

uv resolves the requirements of ``pyproject.toml`` for another machine, with that machine's markers and ``--only-binary
:all:``; nothing is downloaded but metadata. ``--lowest`` takes the lowest versions that ``pyproject.toml`` allows.
Prints the table, names what is in the way of each hole, and exits 1 if there is one. macOS is 14 or newer.
"""

from __future__ import annotations

import argparse
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
BARE = "(none)"  # no extra: what `pip install vea` brings
LIMIT_S = 300.0  # of one resolution


def extras_of(project: Path) -> list[str]:
    """Returns the extras that a ``pyproject.toml`` offers, none first."""
    return [BARE, *tomllib.loads(project.read_text(encoding="utf-8"))["project"].get("optional-dependencies", {})]


def resolve(uv: str, project: Path, *, extra: str, python: str, platform: str, lowest: bool) -> dict[str, Any]:
    """Returns {"packages": {name: version}} of one combination, or {"hole": why there is none}."""
    words = [uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:",
             "--python-version", python, "--python-platform", PLATFORMS[platform],
             "--resolution", "lowest-direct" if lowest else "highest", str(project)]  # fmt: skip
    words += [] if extra == BARE else ["--extra", extra]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
    try:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"hole": f"no answer within {LIMIT_S:g} s"}
    if done.returncode:
        return {"hole": " ".join(done.stderr.split())[:600] or f"uv ended with {done.returncode}"}
    lines = [line.split(";")[0].strip() for line in done.stdout.splitlines() if "==" in line]
    packages = dict(line.split("==", 1) for line in lines)
    return {"packages": packages} if packages else {"hole": "uv named no packages"}


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
    parser.add_argument("--extras", default=",".join(extras_of(project)))
    parser.add_argument("--python", default=",".join(PYTHONS))
    parser.add_argument("--platforms", default=",".join(PLATFORMS))
    parser.add_argument("--lowest", action="store_true", help="the lowest versions allowed, not the newest")
    parser.add_argument("--uv", help="path of uv")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    if unknown := set(given.platforms.split(",")) - set(PLATFORMS):
        raise VeaError(f"no platforms {', '.join(sorted(unknown))}; there are {', '.join(PLATFORMS)}")
    if unknown := set(given.extras.split(",")) - set(extras_of(project)):
        raise VeaError(f"pyproject.toml has no extras {', '.join(sorted(unknown))}; it has {given.extras}")
    uv = find_uv(given.uv)
    found = []
    for extra in given.extras.split(","):
        for platform in given.platforms.split(","):
            for python in given.python.split(","):
                one = resolve(uv, project, extra=extra, python=python, platform=platform, lowest=given.lowest)
                found.append({"extra": extra, "platform": platform, "python": python, **one})
                if "hole" in one:
                    print(f"hole: {extra}, Python {python}, {platform}: {one['hole']}", flush=True)
    holes = [row for row in found if "hole" in row]
    print(f"packages on Python {' / '.join(given.python.split(','))}, wheels only, "
          f"{'lowest' if given.lowest else 'newest'} versions")  # fmt: skip
    print(table(found))
    print(f"{len(found)} combinations, {len(holes)} holes")
    if given.json:
        write_text(given.json, json.dumps({"lowest": given.lowest, "combinations": found}, indent=1) + "\n")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
