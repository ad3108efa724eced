"""Watches a model load move: progress for whoever looks, and an error when it takes too long or stands still."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyworker.core.download_lines import reading
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.progress import Picture, Progress
from pyworker.core.stall import LoadStall
from pyworker.model.gauges import Gauges
from pyworker.model.log_tail import LogTail
from pyworker.model.probe import Told

log = logging.getLogger(__name__)

EVERY: Final = 1.0
EVENT_EVERY: Final = 5.0
"""Seconds between progress events within a stage; a new stage is one at once."""

MOST_EVENTS: Final = 200
_AT_REST: Final = frozenset({State.READY, State.ERRORED, State.DRAINING})


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far the load was at a monotonic second."""

    at: float
    picture: Picture


class LoadWatch:
    """Looks every second while there is something to load. ``load_timeout`` and ``stall_timeout`` in seconds."""

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        gauges: Gauges,
        tail: LogTail | None,
        size: float | None,
        load_timeout: float,
        stall_timeout: float,
    ) -> None:
        now = time.monotonic()
        self._lifecycle = lifecycle
        self._gauges = gauges
        self._tail = tail
        self._load_timeout = load_timeout
        self._stall_timeout = stall_timeout
        self._stall = LoadStall(now)
        self._began = now
        self._told_at = now
        self._state = lifecycle.state
        self._logged = ""
        self.progress = Progress(now, size=size)
        self.events: deque[ProgressEvent] = deque(maxlen=MOST_EVENTS)

    async def run(self, told: Told, last_seen: Callable[[], str]) -> None:
        """Until cancelled. ``last_seen`` says what there was last, for the reason of an error."""
        while True:
            await self._look()
            now = time.monotonic()
            if self._lifecycle.state in _AT_REST:
                self._began = now
                self._stall.restart(now)
            elif why := self._verdict(now):
                seen = last_seen()
                told.fail(
                    f"{why}: still {self.progress.picture().words()}"
                    + (f"; last seen: {seen}" if seen else "")
                )
            await asyncio.sleep(min(EVERY, self._load_timeout / 4, self._stall_timeout / 4))

    def entered(self) -> None:
        """The worker's state has changed: its stage begins now, not with the next look."""
        now, state = time.monotonic(), self._lifecycle.state
        if self._tail is not None:
            self._tail.at_ease = state is State.READY
        if self.progress.enter(now, state):
            self._tell(now, new_stage=True)

    def _verdict(self, now: float) -> str:
        """Why this load has failed; empty while it may go on."""
        if now - self._began >= self._load_timeout:
            return f"not ready after {self._load_timeout:g} s (LOAD_TIMEOUT)"
        if self._stall.still_for(now) >= self._stall_timeout:
            return f"nothing has moved for {self._stall_timeout:g} s (LOAD_STALL_TIMEOUT; {self._stall.words(now)})"
        return ""

    async def _look(self) -> None:
        """Read disk, GPUs and log. A ready worker loads nothing: then only its state is of interest."""
        state = self._lifecycle.state
        loading = state not in {State.READY, State.DRAINING}
        disk, gpu = await asyncio.to_thread(self._gauge) if loading else (None, None)
        lines = self._tail.last_lines if loading and self._tail is not None else []
        now = time.monotonic()
        moved_on = self.progress.observe(now, state=self._lifecycle.state, disk=disk, reading=reading(lines))
        if moved_on or (loading and now - self._told_at >= EVENT_EVERY):
            self._tell(now, new_stage=moved_on)
        if state is not self._state:  # a new state is a move of its own
            self._state = state
            self._stall.restart(now)
        logged = float(self._tail.bytes_read) if self._tail is not None else None
        self._stall.observe(now, {"log": logged, "disk": disk, "GPU memory": gpu})

    def _gauge(self) -> tuple[float | None, float | None]:
        return self._gauges.disk(), self._gauges.gpu_memory()

    def _tell(self, now: float, *, new_stage: bool) -> None:
        self._told_at = now
        picture = self.progress.picture()
        if not new_stage and self.events and self.events[-1].picture == picture:
            return
        self.events.append(ProgressEvent(now, picture))
        if picture.words() != self._logged:
            self._logged = picture.words()
            log.info("progress: %s", self._logged)

    # For the verdict...

    def moved(self, now: float) -> str:
        """Each figure and how long it has been still."""
        return self._stall.words(now)

    def seconds_left(self, now: float) -> float | None:
        """Of the load budget; None where none runs."""
        return None if self._lifecycle.state in _AT_REST else max(0.0, self._began + self._load_timeout - now)
