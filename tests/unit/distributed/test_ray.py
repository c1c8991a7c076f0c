"""Ray as an engine: the bytes of one process, work that goes on where it stopped, failures with a name."""

from __future__ import annotations

import importlib.util
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from vea.commands.main import main
from vea.data.sample import Sample
from vea.data.shards.plan import write_dataset
from vea.data.shards.writer import Records
from vea.data.sources import make_source
from vea.distributed import ray as ray_engine
from vea.errors import RunError, VeaError
from vea.taxonomy.fields import LabelField

ROOT = Path(__file__).resolve().parents[3]
CLASSES = {"shape": LabelField("class", ("disc", "ring"))}


def need_ray() -> None:
    if importlib.util.find_spec("ray") is None:  # imported by the engine only, which sets its environment first
        pytest.skip("Ray is not installed: pip install 'vea[ray]'")


@pytest.fixture(scope="module")
def engine() -> Iterator[None]:
    need_ray()
    with ray_engine.session(cpus=2) as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(engine, tmp_path_factory) -> tuple[Path, Path]:
    """Two folders of the same set: written by this process, and by Ray."""
    folder = tmp_path_factory.mktemp("sets")
    prepare = runpy.run_path(str(ROOT / "datasets" / "prepare.py"))["main"]
    line = ["synthetic", "--count", "40", "--size", "32", "--shard-size", "10", "--out"]
    assert prepare([*line, str(folder / "one"), "--jobs", "1"]) == 0
    assert prepare([*line, str(folder / "ray"), "--engine", "ray"]) == 0
    return folder / "one", folder / "ray"


def test_shards_have_the_bytes_of_one_process(prepared):
    one, by_ray = map(contents, prepared)
    assert len(one) > 8 and one == by_ray


def test_a_pass_has_the_bytes_of_one_process_and_goes_on(prepared, capsys):
    one, by_ray = prepared
    assert main(["enrich", "prompts", str(one)]) == 0
    made = contents(one / "sidecars")
    for left_out in (list(made), ["prompts/train-000001.jsonl"]):
        for name in left_out:
            (by_ray / "sidecars" / name).unlink(missing_ok=True)
        capsys.readouterr()
        assert main(["enrich", "prompts", str(by_ray), "--engine", "ray", "--jobs", "2"]) == 0
        assert contents(by_ray / "sidecars") == made
    printed = capsys.readouterr()
    assert "1 shards made" in printed.out and f"{len(made) - 2} were there" in printed.out
    assert "part 1/2: " in printed.err and "part 2/2: " in printed.err


class Scenes:
    """Drawn pictures, of which one may have a label that its field does not know."""

    def __init__(self, wrong: int | None = None, *, stop: Path | None = None):
        self.wrong, self.stop = wrong, stop

    def __call__(self, i: int) -> Sample:
        if self.stop and i == 12 and self.stop.exists():
            os._exit(1)  # as the kernel's out-of-memory killer would
        return Sample(f"s{i}", PIXEL, "png", {"shape": "square" if i == self.wrong else "ring"}, [], [], "", "train")


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63680000008200817f8d6d720000"
    "000049454e44ae426082"
)


def write(folder: Path, scenes: Scenes, *, engine: str = "ray") -> None:
    records = Records([f"s{i}" for i in range(20)], scenes)
    options = {"name": "dots", "title": "Dots", "fields": CLASSES, "card": None, "shard_size": 5}
    write_dataset({"train": records}, folder, **options, engine=engine, jobs=1)


def test_a_failure_says_which_shard(engine, tmp_path):
    with pytest.raises(VeaError, match=r"^shard train-000002: sample 's13', label 'shape': unknown class 'square'"):
        write(tmp_path / "dots", Scenes(13))
    assert not list(tmp_path.iterdir())


def test_a_killed_process_keeps_what_is_complete(engine, tmp_path, monkeypatch, capsys):
    stop = tmp_path / "stop"
    stop.touch()
    with pytest.raises(RunError, match=r"^shard train-000002: its process was killed .* run again"):
        write(tmp_path / "dots", Scenes(stop=stop))
    stop.unlink()
    write(tmp_path / "dots", Scenes(stop=stop))
    assert "2 of 4 shards are there already" in capsys.readouterr().err
    write(tmp_path / "alone", Scenes(stop=stop), engine="processes")
    assert contents(tmp_path / "dots") == contents(tmp_path / "alone")


def test_parts_are_named_and_the_others_go_on(engine, tmp_path):
    ended = []
    with pytest.raises(ZeroDivisionError) as error:
        for item, result in ray_engine.run_tasks(partial(divmod, 6), [3, 0, 2], name="part {}".format, jobs=2):
            ended.append((item, result))
    assert error.value.__notes__ == ["in part 0"]
    assert (3, (2, 0)) in ended


def test_what_does_not_fit_is_said(engine):
    with pytest.raises(VeaError, match="does not fit"):
        next(ray_engine.run_tasks(abs, [1], name=str, cpus=64))


def test_every_source_can_be_sent_to_another_process(engine):
    from ray import cloudpickle

    from vea.data.cards import find_card

    cards = ROOT / "datasets" / "cards"
    for path in cards.glob("*.yaml"):
        source = make_source(find_card(path.stem, cards))
        assert cloudpickle.loads(cloudpickle.dumps(source)).card == source.card


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    write(tmp_path / "dots", Scenes(), engine="processes")
    assert main(["enrich", "prompts", str(tmp_path / "dots"), "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "error: --engine ray needs the package ray: pip install 'vea[ray]'\n"


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    need_ray()
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)  # of the engine of the other tests
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", address := f"127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(VeaError, match=f"^no Ray cluster answers at RAY_ADDRESS={address}; "), ray_engine.session():
            raise AssertionError("connected")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--engine", "ray", "--part", "1/2"], "leave --part out"),
        (["--jobs", "2"], "--jobs goes with --engine ray"),
        (["--engine", "ray", "--jobs", "0"], "starts at 1"),
    ],
)
def test_options_that_contradict_each_other(words, expected, capsys):
    assert main(["enrich", "prompts", "nowhere", *words]) == 2
    assert expected in capsys.readouterr().err


def test_nothing_is_left_behind(tmp_path, repository):
    need_ray()
    temporary = tmp_path.parents[-2] / f"r{os.getpid()}"  # Ray's sockets bear no long names
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "HOME": str(tmp_path), "PYTHONPATH": str(repository)}
    line = [sys.executable, "datasets/prepare.py", "synthetic", "--count", "8", "--size", "32", "--engine", "ray"]
    try:
        done = subprocess.run([*line, "--out", str(tmp_path / "set")], env=environment, cwd=repository,
                              capture_output=True, text=True, timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert all(line.startswith("synthetic: ") for line in done.stderr.splitlines()), done.stderr
        assert not list(temporary.iterdir()) and {path.name for path in tmp_path.iterdir()} == {"set"}
    finally:
        temporary.rmdir()
