"""vea submit: the copy of the code that every life of a job runs, and what is refused before anything is queued."""

import json
import subprocess

import pytest

from vea.commands.main import main as vea
from vea.commands.submit import code_files, take_snapshot
from vea.config import load_config


@pytest.fixture
def tree(tmp_path, repository, monkeypatch):
    """A small working tree: one tracked file, one new one, one that git ignores, and a config."""
    root = tmp_path / "tree"
    (root / "slurm").mkdir(parents=True)
    for name, text in {"a.py": "1", "new.py": "2", "runs/x": "3", ".gitignore": "runs/\n"}.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    for name in ("pretrain.sbatch", "prepare_array.sbatch"):
        (root / "slurm" / name).write_text("#!/bin/bash\n")
    (root / "c.yaml").write_text(f"base: {repository / 'configs/pretrain/smoke.yaml'}\nout: {root / 'runs/r'}\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "add", "a.py"], cwd=root, check=True)
    monkeypatch.chdir(root)
    return root


def test_the_copy_is_what_git_tracks_or_would_track(tree):
    config = load_config("c.yaml", [])
    code = take_snapshot(config, root=tree, words=["vea", "submit"], git={"commit": "abc"})
    assert code == tree / "runs/r/code"
    assert (code / "a.py").read_text() == "1" and (code / "new.py").read_text() == "2" and not (code / "runs").exists()
    assert json.loads((code / "snapshot.json").read_text())["git"] == {"commit": "abc"}
    assert "steps:" in (code / "config.yaml").read_text()


def test_a_run_that_has_begun_keeps_its_code(tree, capsys):
    config = load_config("c.yaml", [])
    code = take_snapshot(config, root=tree, words=[], git={})
    (tree / "a.py").write_text("edited")
    take_snapshot(config, root=tree, words=[], git={})
    assert (code / "a.py").read_text() == "edited", "not begun: submitted again, with the code of now"
    (tree / "a.py").write_text("edited again")
    (tree / "runs/r/metrics.jsonl").write_text("")
    take_snapshot(config, root=tree, words=[], git={})
    assert (code / "a.py").read_text() == "edited" and "code of its start" in capsys.readouterr().out


def test_a_deleted_file_is_no_code(tree):
    (tree / "a.py").unlink()
    assert "a.py" not in code_files(tree) and "new.py" in code_files(tree)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "name a batch script"),
        (["c.yaml"], "name a batch script"),
        (["slurm/prepare_array.sbatch", "c.yaml"], "call sbatch yourself"),
        (["slurm/pretrain.sbatch"], "needs a config"),
        (["slurm/pretrain.sbatch", "c.yaml", "train.stepz=3"], "stepz"),
    ],
)
def test_refused_before_anything_is_queued(tree, tmp_path, monkeypatch, capsys, words, sentence):
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text(f"#!/bin/bash\ntouch {called}\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    code = vea(["submit", *words])
    told = capsys.readouterr()
    assert sentence in told.out + told.err and code == 2
    assert not called.exists() and not (tree / "runs/r").exists()


def test_sbatch_gets_the_copys_script_and_its_place(tree, tmp_path, monkeypatch, capfd):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text('#!/bin/bash\necho "$VEA_CODE" "$@"; exit 3\n')
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert vea(["submit", "--nodes=1", "slurm/pretrain.sbatch", "c.yaml", "train.steps=30"]) == 3
    code = tree / "runs/r/code"
    assert f"{code} --nodes=1 {code}/slurm/pretrain.sbatch c.yaml train.steps=30" in capfd.readouterr().out
