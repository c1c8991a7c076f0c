from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from vea.config import RecogniseConfig
from vea.errors import VeaError
from vea.training.resume import advised_changes, check_same_run, data_identities, roll_back, start_over
from vea.training.run import hold_run


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


def saved_state(folder, config: RecogniseConfig, **more) -> None:
    plain = config.model_dump(mode="json")
    folder.mkdir(parents=True, exist_ok=True)
    state = {"config": plain, "data": data_identities(plain), **more}
    (folder / "state.json").write_text(json.dumps(state))


def small(path, **train) -> RecogniseConfig:
    sets = {"train": [{"path": str(path)}], "val": [{"path": str(path), "split": "val"}]}
    return RecogniseConfig(name="x", out="runs", targets={"expression": 1.0}, train={"steps": 9, **train}, data=sets)


def test_a_set_at_another_mount_is_known_by_its_index(tmp_path):
    for mount, text in (("here", "a"), ("there", "a"), ("strange", "b")):
        (tmp_path / mount / "set").mkdir(parents=True)
        (tmp_path / mount / "set" / "index.json").write_text(text)
    saved_state(tmp_path / "state", small(tmp_path / "here" / "set"))
    assert check_same_run(tmp_path / "state", config=small(tmp_path / "there" / "set")) == []
    with pytest.raises(VeaError, match=r"data\.train\.0\.path was"):
        check_same_run(tmp_path / "state", config=small(tmp_path / "strange" / "set"))


def test_more_steps_and_what_an_error_advises_may_change_and_are_told(tmp_path):
    saved_state(tmp_path / "state", small("data/a"))
    more = check_same_run(tmp_path / "state", config=small("data/a", steps=20))
    assert more == ["train.steps was 9 and is 20 now"]
    with pytest.raises(VeaError, match=r"train\.steps was 9 and is 5 now"):
        check_same_run(tmp_path / "state", config=small("data/a", steps=5))
    lower = small("data/a", base_lr=1e-4, clip_grad=1.0)
    with pytest.raises(VeaError, match=r"train\.base_lr was"):
        check_same_run(tmp_path / "state", config=lower)
    run = tmp_path / "run"
    run.mkdir()
    reason = "the loss is not finite at step 7; the last checkpoint is good: lower train.base_lr, set train.clip_grad"
    (run / "state.json").write_text(json.dumps({"state": "failed", "reason": reason}))
    assert advised_changes(run) == {"train.base_lr", "train.clip_grad"}
    assert len(check_same_run(tmp_path / "state", config=lower, advised=advised_changes(run))) == 2
    (run / "state.json").write_text(json.dumps({"state": "preempted", "reason": "x", "advised": ["train.base_lr"]}))
    assert advised_changes(run) == {"train.base_lr"}, "a life that was stopped before its first checkpoint"


def test_going_back_sets_the_later_checkpoints_aside_whenever_it_is_killed(tmp_path, monkeypatch):
    from vea.storage import atomic

    for step in (2, 4, 6):
        saved_state(tmp_path / "checkpoints" / f"step_{step:08d}", small("a"), step=step)
    saved_state(tmp_path / "best", small("a"), step=6)
    to = tmp_path / "checkpoints" / "step_00000002"
    calls = []

    def killed(source, target, real=atomic.rename):
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            roll_back(tmp_path, to=to)
    roll_back(tmp_path, to=to)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    kept = sorted(path.name for path in tmp_path.glob("before_rollback.*/*"))
    assert kept == ["best", "step_00000004", "step_00000006"]
