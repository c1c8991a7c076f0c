import os
import signal
import subprocess
import sys
import time

import pytest

from vea.errors import RunError, VeaError
from vea.storage import atomic


def write(folder, content):
    with atomic.new_folder(folder, marker="state.json") as partial:
        (partial / "state.json").write_text(content)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_of_ours_is_replaced_and_nothing_is_left(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda first, second: False)
    for content in ("old", "new"):
        write(tmp_path / "best", content)
    assert (tmp_path / "best" / "state.json").read_text() == "new"
    assert names(tmp_path) == ["best"]


@pytest.mark.parametrize(
    "there",
    [
        {"photo.jpg": "x"},
        {"model.safetensors": "x", "config.json": "{}"},
        {"state.json": "{}", "metrics.jsonl": ""},
        {"state.json": "{}", "checkpoints/step_1/state.json": "{}"},
    ],
)
def test_what_vea_did_not_write_there_is_never_replaced(tmp_path, there):
    for name, content in there.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(content)
    with pytest.raises(VeaError, match=r"out (exists|also holds)"):
        write(tmp_path / "out", "new")
    assert {name: (tmp_path / "out" / name).read_text() for name in there} == there
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_link_of_that_name_is_refused(tmp_path, kind):
    (tmp_path / "other").mkdir()
    (tmp_path / "out").write_text("x") if kind == "file" else (tmp_path / "out").symlink_to(tmp_path / "other")
    with pytest.raises(VeaError, match="no folder"):
        write(tmp_path / "out", "new")
    assert names(tmp_path) == ["other", "out"] and names(tmp_path / "other") == []


def test_an_error_leaves_the_old_and_no_part(tmp_path):
    write(tmp_path / "best", "old")
    with pytest.raises(KeyError), atomic.new_folder(tmp_path / "best", marker="state.json") as partial:
        (partial / "state.json").write_text("new")
        raise KeyError
    with pytest.raises(KeyError), atomic.new_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise KeyError
    assert (tmp_path / "best" / "state.json").read_text() == "old"
    assert names(tmp_path) == ["best"]


def test_a_full_disk_is_one_sentence(tmp_path):
    with pytest.raises(RunError, match="no space left"), atomic.new_folder(tmp_path / "best"):
        raise OSError(28, "No space left on device")


def test_a_kill_between_two_renames_is_undone(tmp_path):
    write(tmp_path / "best", "old")
    os.rename(tmp_path / "best", tmp_path / ".best.old")  # and the process is killed here
    atomic.recover(tmp_path / "best")
    assert (tmp_path / "best" / "state.json").read_text() == "old"


WRITER = """
import sys, itertools
from pathlib import Path
from vea.storage import atomic
for number in itertools.count():
    with atomic.new_folder(Path(sys.argv[1]), marker="state.json") as partial:
        (partial / "state.json").write_text(f"{number} " * 1000)
        (partial / "model.safetensors").write_text(f"{number} " * 1000)
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [0.02, 0.05, 0.11])
def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path, after):
    folder = tmp_path / "best"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    atomic.recover(folder)
    contents = {(folder / name).read_text() for name in ("state.json", "model.safetensors")}
    assert len(contents) == 1 and len(contents.pop().split()) == 1000


def test_set_aside_takes_the_first_free_name(tmp_path):
    for _ in range(2):
        (tmp_path / "run").mkdir()
        atomic.set_aside(tmp_path / "run")
    assert names(tmp_path) == ["run.1", "run.2"]


def test_partial_names_differ_and_are_hidden(tmp_path):
    found = {atomic.partial_name(tmp_path / "a").name for _ in range(20)}
    assert len(found) == 20 and all(name.startswith(".a.") for name in found)
