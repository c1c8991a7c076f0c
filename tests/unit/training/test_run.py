from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from vea.config import RecogniseConfig
from vea.errors import VeaError
from vea.training.run import check_same_run, hold_run, start_over


def begun(folder):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("{}")
    (folder / "code").mkdir()
    (folder / "code" / "a.py").write_text("")
    return folder


def test_starting_over_keeps_the_old_run_beside_it_and_the_code_in_its_place(tmp_path):
    run = begun(tmp_path / "run")
    start_over(run)
    assert (tmp_path / "run.1" / "metrics.jsonl").exists() and not (run / "metrics.jsonl").exists()
    assert (run / "code" / "a.py").exists()
    start_over(run)  # only code: nothing has begun
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.1"]


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_job_that_is_started_again_goes_on(tmp_path, monkeypatch, name):
    run = begun(tmp_path / "run")
    monkeypatch.setenv(name, "1")
    start_over(run)
    assert (run / "metrics.jsonl").exists()


def test_a_run_folder_has_one_process(tmp_path):
    with hold_run(tmp_path / "run"), pytest.raises(VeaError, match=r"training in .*run"), hold_run(tmp_path / "run"):
        pass


def _paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every key of nested sections and lists."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        if isinstance(node, dict):
            yield (*path, name)
        yield from _paths(value, (*path, name))


def test_a_run_of_a_version_without_some_key_is_the_same_run(tmp_path):
    """Whatever key is new in a version, at its default, keeps no older run from going on."""
    config = RecogniseConfig(
        name="x", out=str(tmp_path), targets={"expression": 1.0}, train={"steps": 9},
        data={"train": [{"path": "a"}, {"path": "b", "weight": 2.0}], "val": [{"path": "a", "split": "val"}]},
    )  # fmt: skip
    plain = config.model_dump(mode="json")
    given = {"name", "path", "weight", "split", "targets", "train", "val", "data", "out", "expression", "steps"}
    (tmp_path / "state").mkdir()
    tried = 0
    for path in _paths(plain):
        if path[-1] in given:
            continue
        old = json.loads(json.dumps(plain))
        node = old
        for name in path[:-1]:
            node = node[name]
        del node[path[-1]]
        (tmp_path / "state" / "state.json").write_text(json.dumps({"config": old}))
        check_same_run(tmp_path / "state", config=config)
        tried += 1
    assert tried > 60
    other = config.model_copy(update={"seed": 1})
    (tmp_path / "state" / "state.json").write_text(json.dumps({"config": plain}))
    with pytest.raises(VeaError, match="seed was 0 and is 1 now"):
        check_same_run(tmp_path / "state", config=other)
