import subprocess
import sys

import pytest

from vea.errors import VeaError
from vea.storage import lock

HOLDER = """
import sys, time
from pathlib import Path
from vea.storage import lock
with lock.held(Path(sys.argv[1]), what="training"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_other_process_is_named_and_its_death_frees_the_lock(tmp_path):
    path = tmp_path / ".run.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with (
        pytest.raises(VeaError, match=rf"process {process.pid} on \S+ since 20\S+ is training"),
        lock.held(path, what="training"),
    ):
        pass
    process.kill()
    process.wait()
    with lock.held(path, what="training"):
        assert str(process.pid) not in path.read_text()
    assert not path.exists()


def test_this_process_does_not_take_it_twice(tmp_path):
    one, other = (lock.held(tmp_path / "a", what="writing a") for _ in range(2))
    with one, pytest.raises(VeaError, match="already"), other:
        pass
    with lock.held(tmp_path / "a", what="writing a"):
        pass


def test_a_claimed_file_is_refused_to_others(tmp_path):
    with open(tmp_path / "a", "w") as first, open(tmp_path / "a", "w") as second:
        assert lock.claim(first) and not lock.claim(second)
