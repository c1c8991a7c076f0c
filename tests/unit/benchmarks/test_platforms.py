"""The table of platforms: a hole is a hole, and the promise of pyproject.toml covers the Pythons that are tried."""

from __future__ import annotations

import json
import stat

import platforms
import pytest

from vea.errors import VeaError

UV = """#!/bin/sh
case "$*" in
  *--version*) echo uv;;
  *aarch64-apple-darwin*faces*) echo "onnxruntime has no wheels" >&2; exit 1;;
  *apple-darwin*all-extras*) echo "no wheels" >&2; exit 1;;
  *) printf 'torch==2.6.0\\nnumpy==2.0.1 ; python_version > "3"\\n';;
esac
"""


@pytest.fixture
def uv(tmp_path):
    path = tmp_path / "uv"
    path.write_text(UV)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(("extras", "holes"), [("(none),vlm", 0), ("(none),faces", 4)])
def test_a_hole_is_named_and_fails(uv, tmp_path, capsys, extras, holes):
    file = tmp_path / "out.json"
    words = ["--uv", uv, "--extras", extras, "--resolution", "newest", "--json", str(file)]
    assert platforms.main(words) == bool(holes)
    said = capsys.readouterr().out
    assert f"32 combinations, {holes} holes" in said and said.count("hole: newest, faces") == holes
    assert "| (none) | 2 / 2 / 2 / 2 |" in said and ("HOLE" in said) == bool(holes)
    rows = json.loads(file.read_text())["combinations"]
    assert rows[0]["packages"] == {"torch": "2.6.0", "numpy": "2.0.1"}


@pytest.mark.parametrize(
    "words", [["--extras", "facess"], ["--platforms", "Amiga"], ["--uv", "/nowhere/uv"], ["--resolution", "low"]]
)
def test_a_wrong_word_is_one_sentence(words, capsys):
    assert platforms.main(words) == VeaError.exit_code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_run_that_was_stopped_goes_on(uv, tmp_path, monkeypatch, capsys):
    """Answers are kept but those that came too late; another pyproject.toml asks anew."""
    words = ["--uv", uv, "--extras", "(none)", "--cache", str(tmp_path / "cache.json"), "--limit-s", "60"]
    real, asked = platforms.resolve, []

    def late_once(*args, **options):
        asked.append(options)
        return {"hole": "no answer within 60 s"} if len(asked) == 3 else real(*args, **options)

    monkeypatch.setattr(platforms, "resolve", late_once)
    assert platforms.main(words) == 1 and len(asked) == 32
    assert platforms.main(words) == 0 and len(asked) == 33
    assert "32 combinations, 0 holes" in capsys.readouterr().out
    monkeypatch.setattr(platforms, "REPOSITORY", tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    assert platforms.main(words) == 0 and len(asked) == 65


def test_of_a_hole_of_all_the_extra_is_named(uv, capsys):
    assert platforms.main(["--uv", uv, "--python", "3.12", "--resolution", "newest"]) == 1
    said = capsys.readouterr().out
    assert "hole: newest, (all), macOS ARM, 3.12" in said and "hole: newest, faces, macOS ARM, 3.12" in said
    assert said.count("hole:") == 2 and "8 combinations, 1 holes" in said
