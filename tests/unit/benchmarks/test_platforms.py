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
    assert platforms.main(["--uv", uv, "--extras", extras, "--json", str(file)]) == bool(holes)
    said = capsys.readouterr().out
    assert f"32 combinations, {holes} holes" in said and said.count("hole: faces") == holes
    assert "| (none) | 2 / 2 / 2 / 2 |" in said and ("HOLE" in said) == bool(holes)
    rows = json.loads(file.read_text())["combinations"]
    assert rows[0]["packages"] == {"torch": "2.6.0", "numpy": "2.0.1"}


@pytest.mark.parametrize("words", [["--extras", "facess"], ["--platforms", "Amiga"], ["--uv", "/nowhere/uv"]])
def test_a_wrong_word_is_one_sentence(words, capsys):
    assert platforms.main(words) == VeaError.exit_code
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
