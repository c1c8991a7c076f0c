"""What gradio itself remembers of its visitors: events, answers that nobody has read, the state of each page.

Left alone it keeps the ids of every session, 2,000 sessions' answers and 10,000 pages' state (some 170 kB each). Here a
session is forgotten when it ends, or ``keep_s`` seconds after its last event where no page of it is open.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from vea.inference.visitors import Visitors

MOST_STATES = 100  # pages whose state is kept; vea's has none, and gradio makes it anew
MOST_IDLE = 1000  # sessions without an open page whose answers wait to be read
MOST_TIMES = 100  # events whose times gradio keeps, and sums up anew after each event


class Sessions:
    """The sessions of ``page`` (``gradio.Blocks``); made before the page is mounted."""

    def __init__(self, page: Any, visitors: Visitors) -> None:
        self.page, self.visitors = page, visitors
        self._idle: dict[str, float] = {}  # session: since when, the longest first
        self._read: collections.Counter[str] = collections.Counter()  # session: connections that wait for its answers
        page.state_session_capacity = MOST_STATES
        page._queue.ANALYTICS_MAX_EVENTS = MOST_TIMES

    @property
    def _queue(self) -> Any:
        return self.page._queue

    def of_event(self, event: str) -> str | None:
        """Returns the session of an event that is there, running or with an answer that nobody has read."""
        running = self._queue.event_ids_to_events.get(event)
        if running is not None:
            return str(running.session_hash)
        pending = list(self._queue.pending_event_ids_session.items())
        return next((session for session, events in pending if event in events), None)

    def has_answers(self, session: str | None) -> bool:
        """Returns whether anything was or will be told to a session."""
        return session in self._queue.pending_messages_per_session

    @contextlib.contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """The time in which a connection waits for the answers of a session."""
        self._read[session] += 1
        try:
            yield
        except (
            KeyError,
            RuntimeError,
        ):  # of gradio, starlette: another connection of it went, and its answers too
            if self.has_answers(session):
                raise
        finally:
            self._read[session] -= 1
            if not self._read[session]:
                del self._read[session]

    def keep_waiting(self) -> None:
        """What an event that waits or runs will read is in use, however long the queue is."""
        for event in list(self._queue.event_ids_to_events.values()):
            for value in (event.data.data if event.data else None) or []:
                for file in value if isinstance(value, list) else [value]:
                    if isinstance(file, dict) and isinstance(file.get("path"), str):
                        self.visitors.use(file["path"], None)

    def sweep(self) -> None:
        """Forgets the sessions that have been idle for long, and the longest idle where there are many."""
        queue, now = self._queue, time.monotonic()
        busy = {event.session_hash for event in list(queue.event_ids_to_events.values())}
        known = {*queue.pending_event_ids_session, *queue.pending_messages_per_session, *self._states()}
        known = {
            name for name in known if name not in busy and not self._read[name] and not self.visitors.is_open(name)
        }
        self._idle = {name: since for name, since in self._idle.items() if name in known}
        self._idle |= dict.fromkeys(known - self._idle.keys(), now)
        for number, (session, since) in enumerate(list(self._idle.items())):
            if since < now - self.visitors.keep_s or number < len(known) - MOST_IDLE:
                self.forget(session)

    def forget(self, session: str) -> None:
        """Drops what is remembered of a session; its running events, if any, are forgotten by a later sweep."""
        queue = self._queue
        self._states().pop(session, None)
        running = any(event.session_hash == session for event in list(queue.event_ids_to_events.values()))
        if not running and not self._read[session]:
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)
            self._idle.pop(session, None)

    def _states(self) -> dict[str, Any]:
        holder = getattr(getattr(self.page, "app", None), "state_holder", None)
        return getattr(holder, "session_data", {})
