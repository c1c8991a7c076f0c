"""What gradio remembers of visitors has a bound in number and in time."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="needs the extra: pip install 'vea[serve]'")
from starlette.testclient import TestClient

from vea.inference import sessions
from vea.inference.page import application
from vea.inference.results import Prediction
from vea.inference.sessions import Sessions
from vea.inference.visitors import Visitors


class Sees:
    """Stands for a model: what it says depends on nothing."""

    description = "a stand-in"
    fields: dict = {}  # noqa: RUF012
    reads_faces = True

    def predict(self, images, **_):
        return [Prediction("happy", {"happy": 1.0})]


def remembered(gate) -> list[int]:
    """How many sessions gradio holds: ids of events, answers, states."""
    queue, page = gate.sessions._queue, gate.sessions.page
    states = page.app.state_holder.session_data
    return [len(queue.pending_event_ids_session), len(queue.pending_messages_per_session), len(states)]


def wait_for(there, seconds=20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not there() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(there())


@pytest.mark.parametrize("read", [True, False])
def test_sessions_are_forgotten_when_they_are_idle(tmp_path, monkeypatch, read):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    gate = application(Sees(), max_mb=1, keep_s=0.3)
    with TestClient(gate) as client:
        gate.visitors.opened("open")
        for session in ("a", "b", "open", None):
            event = client.post("/gradio_api/call/look", json={"data": [None], "session_hash": session}).json()[
                "event_id"
            ]
            if read:
                assert "event: complete" in client.get(f"/gradio_api/call/look/{event}").text
        assert wait_for(lambda: remembered(gate)[:2] == [1, 1]), remembered(gate)
        assert gate.sessions.has_answers("open") and not gate.sessions.has_answers("a")
        gate.visitors.closed("open")
        assert wait_for(lambda: remembered(gate) == [0, 0, 0]), remembered(gate)
        assert client.get(f"/gradio_api/call/look/{event}").status_code == 404


def test_many_sessions_leave_a_bounded_number_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setattr(sessions, "MOST_STATES", 3)
    monkeypatch.setattr(sessions, "MOST_IDLE", 5)
    gate = application(Sees(), max_mb=1, keep_s=600)
    with TestClient(gate) as client:
        for number in range(12):
            client.post("/gradio_api/call/look", json={"data": [None], "session_hash": f"s{number}"})
        assert wait_for(lambda: not gate.sessions._queue.event_ids_to_events)
        assert remembered(gate)[2] <= 3
        gate.sessions.sweep()
        assert remembered(gate)[:2] == [5, 5]


def stand_in(tmp_path) -> tuple[Sessions, SimpleNamespace]:
    event = SimpleNamespace(session_hash="me", data=None)
    queue = SimpleNamespace(
        event_ids_to_events={"e": event},
        pending_event_ids_session={"me": {"e"}},
        pending_messages_per_session={"me": []},
    )
    return Sessions(SimpleNamespace(_queue=queue), Visitors(keep_s=0)), queue


def test_what_runs_or_is_read_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    held, queue = stand_in(tmp_path)
    assert held.of_event("e") == "me" and held.of_event("x") is None
    held.sweep()
    held.forget("me")
    assert held.has_answers("me")
    queue.event_ids_to_events.clear()
    assert held.of_event("e") == "me"
    with held.reading("me"):
        held.sweep()
        held.forget("me")
        assert held.has_answers("me")
    held.sweep()
    time.sleep(0.01)
    held.sweep()
    assert not held.has_answers("me") and not queue.pending_event_ids_session


@pytest.mark.parametrize("kind", [KeyError, RuntimeError])
def test_a_second_listener_may_go_when_the_answers_have_gone(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    held, queue = stand_in(tmp_path)
    with pytest.raises(kind), held.reading("me"):
        raise kind("a fault of ours")
    with held.reading("me"):
        queue.pending_messages_per_session.clear()
        raise kind("me")
