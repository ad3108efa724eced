"""Whether the worker in service does what its benchmark promised.

With k requests in flight of the N that the benchmark sent at once, a worker of perf P does at least P · min(1, k/N): fewer
requests at once are each served no more slowly. That, over time, is what was expected; what was served is compared with it.
Work under way counts as done where it speaks for the worker, so that long requests raise no false alarm.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

GAP: Final = 0.3
"""A gap of so much is worth a warning."""

LASTING: Final = 120.0
"""Busy seconds that a gap must last: one slow minute is a neighbour's, not a finding."""

WINDOW: Final = 300.0
"""Busy seconds looked back at."""

MOST_SAMPLES: Final = 600


@dataclass(frozen=True, slots=True)
class Gap:
    """Load per second that the benchmark promised for what was in flight, and that was served. ``share`` is served ÷ promised."""

    promised: float
    served: float

    @property
    def share(self) -> float:
        return self.served / self.promised

    def words(self) -> str:
        """For a person: both figures and where it may come from."""
        if self.served < self.promised:
            return (
                f"in service this worker does {self.served:.1f} load/s where its benchmark promised {self.promised:.1f} "
                f"({100 - 100 * self.share:.0f} % less): a throttling GPU, a busy neighbour, or traffic unlike the benchmark"
            )
        return (
            f"in service this worker does {self.served:.1f} load/s where its benchmark promised {self.promised:.1f} "
            f"({100 * self.share - 100:.0f} % more): the traffic is unlike the benchmark, or priced too high"
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    """Totals up to one moment: busy seconds, load expected, load served, and load given up; and load in flight then."""

    busy: float
    full: float
    expected: float
    served: float
    dropped: float
    in_flight: float


class Drift:
    """Fed every second or so while the worker is ready. Loads in the handler's unit, ``now`` in monotonic seconds."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._busy = self._full = self._expected = 0.0
        self._samples: deque[_Sample] = deque(maxlen=MOST_SAMPLES)

    def observe(
        self,
        now: float,
        *,
        perf: float,
        concurrency: int,
        working: int,
        served: float,
        dropped: float,
        in_flight: float,
    ) -> None:
        """``served`` and ``dropped`` (failed, cancelled) are totals of load; ``in_flight`` is load queued and working."""
        if self._at is not None and working:
            passed = now - self._at
            self._busy += passed
            self._full += passed if working >= concurrency else 0.0
            self._expected += passed * perf * min(1.0, working / concurrency)
            self._samples.append(_Sample(self._busy, self._full, self._expected, served, dropped, in_flight))
            while self._busy - self._samples[0].busy > WINDOW:
                self._samples.popleft()
        self._at = now

    def pause(self) -> None:
        """Out of service: time that passes now is nobody's."""
        self._at = None
        self._samples.clear()

    @property
    def gap(self) -> Gap | None:
        """The gap, if it has lasted; None while all is as promised, or too little was seen."""
        found = self.seen
        if found is None or self._samples[-1].busy - self._samples[0].busy < LASTING:
            return None
        return found if abs(1 - found.share) > GAP else None

    @property
    def seen(self) -> Gap | None:
        """What was promised and served in the window, as kindly as it can be read; None before there is any."""
        if len(self._samples) < 2:  # noqa: PLR2004 - a span has two ends
            return None
        first, last = self._samples[0], self._samples[-1]
        busy, expected = last.busy - first.busy, last.expected - first.expected
        served = last.served - first.served
        most = served + last.dropped - first.dropped + last.in_flight
        least = max(0.0, served - first.in_flight)
        if busy <= 0 or expected <= 0:
            return None
        if most < expected:
            return Gap(expected / busy, most / busy)
        full = last.full - first.full >= 0.9 * busy  # else it was simply not asked for all it can do
        return Gap(expected / busy, max(least, expected) / busy if full else expected / busy)
