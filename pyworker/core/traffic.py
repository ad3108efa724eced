"""What requests came to, by route: counts and loads by outcome, and how long they took, in buckets.

Kept from the start and never reset, as Prometheus wants its counters. Memory depends on the number of routes alone.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from pyworker.core.outcome import Outcome

BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
"""Upper ends of the buckets in seconds: a small answer takes milliseconds, a video half an hour."""


class Durations:
    """How many durations fell into which bucket."""

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0
        """Of all of them, in seconds."""

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """How many took at most so many seconds, for each of `BOUNDS` and infinity."""
        found, so_far = [], 0
        for bound, count in zip((*BOUNDS, float("inf")), self._counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found


@dataclass(slots=True)
class Route:
    """What requests to one route came to."""

    counts: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    loads: dict[Outcome, float] = field(default_factory=lambda: dict.fromkeys(Outcome, 0.0))
    queued: Durations = field(default_factory=Durations)
    """From its arrival until the model server was asked."""
    first_byte: Durations = field(default_factory=Durations)
    """From then until the first byte of an answer's body went to the client."""
    total: Durations = field(default_factory=Durations)
    """From its arrival to its end."""


class Traffic:
    """What requests came to, by route."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    def ended(
        self,
        route: str,
        outcome: Outcome,
        load: float,
        *,
        entered: float,
        started: float | None,
        answered: float | None,
        ended: float,
    ) -> None:
        """A request has ended; times in monotonic seconds, None where it never came to that."""
        found = self.of(route)
        found.counts[outcome] += 1
        found.loads[outcome] += load
        if started is not None:
            found.queued.observe(started - entered)
            if answered is not None:
                found.first_byte.observe(answered - started)
        found.total.observe(ended - entered)

    def rejected(self, route: str, load: float) -> None:
        """A request was turned away at the door."""
        found = self.of(route)
        found.counts[Outcome.REJECTED] += 1
        found.loads[Outcome.REJECTED] += load

    def of(self, route: str) -> Route:
        """What there is of ``route``: a handler's, or empty for what is none of them."""
        found = self.routes.get(route)
        if found is None:
            found = self.routes[route] = Route()
        return found
