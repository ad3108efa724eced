"""What happens to a worker, told as it happens: changes of its state, and how far a load is."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

from pyworker.console.status import Parts, progress_picture
from pyworker.core.lifecycle import Phase
from pyworker.model.load_watch import ProgressEvent

Event = tuple[str, dict[str, Any]]
"""Its name and its data."""

_T = TypeVar("_T")

LOOK_EVERY: Final = 0.1
COMMENT_EVERY: Final = 10.0
"""Seconds without an event until a comment is sent: whoever is gone is noticed, and nothing between drops the connection."""


class Feed:
    """The events of one worker for one who watches: first how things stand, then what is new."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._phase: Phase | None = None
        self._error = ""
        self._progress: ProgressEvent | None = None

    def news(self) -> list[Event]:
        """The events since this was asked last, oldest first."""
        return [*self._progress_news(), *self._state_news()]

    def _state_news(self) -> list[Event]:
        life = self._parts.lifecycle
        phases = _after(life.history, self._phase)
        if life.error != self._error and not phases:  # the same state, for another reason
            phases = life.history[-1:]
        self._phase, self._error = life.history[-1], life.error
        why = self._parts.loading.verdict().line if phases else ""
        return [
            (
                "state",
                {
                    "state": phase.state.value,
                    "at": round(phase.since - life.started_at, 3),
                    "why": why if phase is self._phase else "",
                },
            )
            for phase in phases
        ]

    def _progress_news(self) -> list[Event]:
        started = self._parts.lifecycle.started_at
        fresh = _after(list(self._parts.loading.load_watch.events), self._progress)
        self._progress = fresh[-1] if fresh else self._progress
        return [
            ("progress", {"at": round(one.at - started, 3), **progress_picture(one.picture)}) for one in fresh
        ]

    async def stream(self) -> AsyncIterator[bytes]:
        """The events in the form of server-sent events, until cancelled."""
        sent_at = time.monotonic()
        while True:
            news = self.news()
            for name, data in news:
                yield f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
            if news:
                sent_at = time.monotonic()
            elif time.monotonic() - sent_at >= COMMENT_EVERY:
                sent_at = time.monotonic()
                yield b": nothing new\n\n"
            await asyncio.sleep(LOOK_EVERY)


def _after(happened: list[_T], last: _T | None) -> list[_T]:
    """What happened after ``last``; the newest alone where that is not known any more."""
    return happened[happened.index(last) + 1 :] if last is not None and last in happened else happened[-1:]
