"""Whether the model server is alive: from health probes, N of M, and from the bytes it sends.

A server that misses probes while bytes flow on any request is busy, not dead. One whose health route says 200 while
requests are in flight and no byte comes is suspected of being frozen: only a request tells.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

MISSES: Final = 3
"""Missed probes among the last `WINDOW` that make a server dead: one is what a busy server misses."""

WINDOW: Final = 5


class Life(Enum):
    """What is known of the model server after a probe."""

    ALIVE = "alive"
    BUSY = "busy"
    """It missed probes, but bytes flow, or too few were missed."""
    DEAD = "dead"


class Probes:
    """The last probes of the health route. ``fresh`` is for how many seconds a byte counts as life."""

    def __init__(self, *, fresh: float) -> None:
        self._fresh = fresh
        self._missed: deque[bool] = deque(maxlen=WINDOW)

    @property
    def misses(self) -> int:
        """How many of the last `WINDOW` probes were missed."""
        return sum(self._missed)

    @property
    def in_a_row(self) -> bool:
        """Whether those missed are the newest ones, without a success between."""
        return all(list(self._missed)[-self.misses :])

    def probed(self, *, ok: bool, now: float, last_byte_at: float | None) -> Life:
        """Count a probe that ended at ``now``; ``last_byte_at`` is when any answer of the server last grew."""
        if ok:
            self._missed.append(False)
            return Life.ALIVE
        if last_byte_at is not None and now - last_byte_at < self._fresh:
            return Life.BUSY
        self._missed.append(True)
        return Life.DEAD if self.misses >= MISSES else Life.BUSY

    def forget(self) -> None:
        """The server is another one now, or begins anew."""
        self._missed.clear()


@dataclass(frozen=True, slots=True)
class Working:
    """A request the model server works on: since when, and for how many seconds it may do so silently."""

    started_at: float
    allowance: float


@dataclass(frozen=True, slots=True)
class Silence:
    """Requests in flight and no byte of any answer for ``seconds``."""

    seconds: float
    requests: int


def stalled(working: Iterable[Working], *, last_byte_at: float | None, now: float) -> Silence | None:
    """The silence, if it is longer than any request in flight may cause: one silent job may hold up all the others."""
    requests = list(working)
    if not requests:
        return None
    since = min(request.started_at for request in requests)
    if last_byte_at is not None:
        since = max(since, last_byte_at)
    if now - since < max(request.allowance for request in requests):
        return None
    return Silence(now - since, len(requests))
