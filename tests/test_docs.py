"""What README and docs promise: files that are there, commands that exist, no invented clone address."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vea.commands.main import VERBS
from vea.config import load_config
from vea.errors import VeaError

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SCRIPT = re.compile(r"(?:pretrain|finetune|datasets|benchmarks|slurm)/\w+\.(?:py|sbatch|sh)")
BLOCK = re.compile(r"^ *```(?:bash|sh|)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def clone_addresses(text: str) -> set[str]:
    """Returns what stands behind every ``git clone``."""
    return set(re.findall(r"git clone (?:--\S+(?: \d+)? )*(<[^>]*>|\S+)", text))


def commands_in(text: str) -> list[str]:
    """Returns the commands of code blocks, and those in a line that begin with python, vea or make."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python|vea|make) [^`]+)`", BLOCK.sub("", text))
    found = [line.partition("  #")[0].partition(" # ")[0].strip() for line in lines]
    found = [part.strip() for line in found for part in line.split("&&")]
    return [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in found]


def wrong_with(command: str) -> str:
    """Returns what a reader who types the command would miss: a script, a config, a key or a verb."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""  # cut from the middle of a sentence
    if not words:
        return ""
    if words[0] == "vea" and len(words) > 1 and words[1].islower() and words[1] not in VERBS:
        return f"vea has no verb {words[1]}"
    scripts = [w for w in words if SCRIPT.fullmatch(w)]
    configs = [w for w in words if re.fullmatch(r"configs/[\w/]+\.yaml", w)]
    missing = [w for w in scripts + configs if not (ROOT / w).is_file()]
    if missing:
        return f"{missing} is not there"
    trains = any(w.endswith(("train.py", "pretrain.sbatch")) for w in scripts) or words[:2] == ["vea", "config"]
    if not (configs and trains):
        return ""
    overrides = [w for w in words[words.index(configs[0]) + 1 :] if re.match(r"[a-z_]+(\.\w+)*=", w)]
    try:
        load_config(ROOT / configs[0], overrides)
    except VeaError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    text = page.read_text(encoding="utf-8")
    targets = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    assert not [t for t in targets if t and not (page.parent / t).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_name_what_is_there(page: Path):
    found = {command: wrong_with(command) for command in commands_in(page.read_text(encoding="utf-8"))}
    assert not {command: wrong for command, wrong in found.items() if wrong}


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("vea predict photo.jpg", ""),
        ("vea forecast photo.jpg", "vea has no verb forecast"),
        ("python finetune/emotion.py CONFIG", "['finetune/emotion.py'] is not there"),
        ("python pretrain/train.py configs/pretrain/smoke.yaml train.steps=500", ""),
        ("python pretrain/train.py configs/pretrain/smoke.yaml train.stepps=5", "stepps"),
        ("vea config configs/pretrain/none.yaml", "['configs/pretrain/none.yaml'] is not there"),
    ],
)
def test_what_is_wrong_with_a_command(command: str, wrong: str):
    found = wrong_with(command)
    assert (wrong in found) if wrong else not found


def test_commands_are_found_in_blocks_and_in_lines():
    text = "Run `vea runs`.\n\n```bash\nA=1 python x.py a \\\n  b   # why\ncd x && make demo\n```\n"
    assert commands_in(text) == ["python x.py a    b", "cd x", "make demo", "vea runs"]


def test_clone_addresses_are_those_of_pyproject():
    """Where the repository lives is unknown until ``project.urls`` says so; a fork's readers know where they are."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    named = {name_of(page): clone_addresses(page.read_text(encoding="utf-8")) for page in PAGES}
    assert not {name: found for name, found in named.items() if found - set(urls.values())}


def test_clone_addresses_are_found():
    assert clone_addresses("git clone --depth 1 https://a.b/c x\ngit clone <here> vea") == {"https://a.b/c", "<here>"}


def test_the_near_duplicates_stand_where_the_accuracy_stands():
    results = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Results")[2]
    assert "8.8 %" in results.partition("| what")[0]


CLAIMS = sorted(path for path in (ROOT / "docs/results").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("page", CLAIMS, ids=lambda page: page.stem)
def test_a_page_of_results_is_one_claim(page: Path):
    """Claim and command are stated, caveats are at most five, and the list of results leads here."""
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ") and "\nClaim: " in text
    assert commands_in(text), "a claim without its command"
    longest = max((len(re.findall(r"^- ", part, re.MULTILINE)) for part in re.split(r"\n#|\n\n", text)), default=0)
    assert longest <= 5
    assert f"]({page.name})" in (ROOT / "docs/results/README.md").read_text(encoding="utf-8")


def test_the_site_builds_with_strict_links_and_needs_no_network(tmp_path: Path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[docs]'")
    site = tmp_path / "site"
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pages = sorted(site.rglob("*.html"))
    assert {"index.html", "reference.html"} <= {page.name for page in pages}
    assert "vea.training.engine.fit" in (site / "reference.html").read_text(encoding="utf-8")
    fetched = {
        (page.name, address) for page in pages for address in fetched_from_elsewhere(page.read_text(encoding="utf-8"))
    }
    assert not fetched


def fetched_from_elsewhere(html: str) -> set[str]:
    """Returns what a browser would load from another host: scripts, pictures, styles and fonts; no links."""
    found = set(re.findall(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:[^"' >]+)""", html))
    tags = re.findall(r"<link[^>]*>", html)
    loaded = [tag for tag in tags if re.search(r"rel=[\"']?(?:stylesheet|preload|icon|preconnect)", tag)]
    return found | {address for tag in loaded for address in re.findall(r"""href=["']?(https?:[^"' >]+)""", tag)}


def test_what_is_fetched_from_elsewhere_is_found():
    html = (
        '<link rel="stylesheet" href="https://a.b/c.css"><script src=https://d.e/f.js></script><a href="https://g.h">'
    )
    assert fetched_from_elsewhere(html) == {"https://a.b/c.css", "https://d.e/f.js"}
