"""Whose turn it is, how long the wait is, who must be refused.

A *lane* is a queue with a width: at most ``width`` of its requests run at once, the rest wait in order. Handlers
without parallel requests share one lane of width 1; a parallel handler's lane is unbounded.

The expected wait is the load ahead over perf (load per second): in a lane with a width what is queued and running
there, in an unbounded one whatever the worker has in flight. Kept in O(1).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from pyworker.core.errors import QueueFull

MIN_RETRY_AFTER: Final = 1.0
"""Seconds. The header counts whole seconds; 0 would invite the client back at once."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in a lane: waiting until ``running``."""

    load: float
    running: bool = False


class Lane:
    """A queue with a width (None: unbounded), in which at most ``longest`` requests wait (None: any number)."""

    def __init__(self, width: int | None = None, *, longest: int | None = None) -> None:
        if width is not None and width < 1:
            raise ValueError(f"a lane's width must be at least 1, not {width}")
        self.width = width
        self._longest = longest
        self._running = 0
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self._load = 0.0

    @property
    def load(self) -> float:
        """Load queued and running here."""
        return self._load

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether a request would run at once."""
        return self.width is None or self._running < self.width

    def expected_wait(self, *, perf: float, in_flight: float) -> float:
        """Seconds a request entering now would wait, at ``perf`` load/s, with ``in_flight`` load in the whole worker."""
        ahead = in_flight if self.width is None else self._load
        if ahead <= 0:
            return 0.0
        return ahead / perf if perf > 0 else float("inf")

    def enter(self, load: float, *, perf: float, in_flight: float, max_wait: float | None) -> Ticket:
        """Take a place: running at once where there is room, else waiting for `leave` to name it.

        ``max_wait`` is the handler's ``max_queue_time`` in seconds, None for no limit. Raises `QueueFull`.
        """
        if max_wait is not None:
            wait = self.expected_wait(perf=perf, in_flight=in_flight)
            if wait > max_wait:
                raise QueueFull(
                    f"expected wait {wait:.1f} s is over this route's max_queue_time of {max_wait:g} s",
                    retry_after=retry_after(wait - max_wait),
                )
        if self._longest is not None and len(self._waiting) >= self._longest:
            wait = self.expected_wait(perf=perf, in_flight=in_flight)
            raise QueueFull(f"{self._longest} requests wait already", retry_after=retry_after(wait))
        ticket = Ticket(load)
        self._load += load
        if self.has_room:
            ticket.running = True
            self._running += 1
        else:
            self._waiting[ticket] = None
        return ticket

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Give the place back, from the queue or from work; returns whose turn it is now, if that changed."""
        if not ticket.running:
            del self._waiting[ticket]
            self._load -= ticket.load
            return None
        ticket.running = False
        self._running -= 1
        self._load = self._load - ticket.load if self._running or self._waiting else 0.0
        if not self._waiting:
            return None
        following, _ = self._waiting.popitem(last=False)
        following.running = True
        self._running += 1
        return following


def retry_after(seconds: float) -> float:
    """A ``Retry-After`` (seconds) that means it, at least 1 and at most an hour."""
    return min(max(seconds, MIN_RETRY_AFTER), 3600.0)
