"""How many requests at once suit a model server: doubled until throughput stops growing.

The knee is the least concurrency whose throughput is next to the best: beyond it requests only wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyworker.core.benchmark import Run, percentile

GROWTH: Final = 1.1
"""Twice the requests must bring a tenth more throughput, else it has stopped growing."""

KNEE: Final = 0.9
"""Share of the best throughput that the knee has at least."""

MOST: Final = 256


@dataclass(frozen=True, slots=True)
class Point:
    """One place on the curve: perf (load per second) and seconds of a request with so many at once."""

    concurrency: int
    perf: float
    p50: float
    p95: float


def point(run: Run) -> Point | None:
    """What a run says; None when nothing succeeded."""
    times = sorted(sample.seconds for sample in run.samples if sample.ok)
    if not times or run.perf <= 0:
        return None
    return Point(run.concurrency, run.perf, percentile(times, 50), percentile(times, 95))


def next_concurrency(curve: Sequence[Point], *, most: int = MOST) -> int | None:
    """How many requests to try next; None when throughput has stopped growing, or ``most`` is reached."""
    if not curve:
        return 1
    if len(curve) > 1 and curve[-1].perf < GROWTH * max(one.perf for one in curve[:-1]):
        return None
    following = curve[-1].concurrency * 2
    return following if following <= most else None


def knee(curve: Sequence[Point]) -> Point:
    """The least concurrency that has `KNEE` of the best throughput."""
    enough = KNEE * max(one.perf for one in curve)
    return min((one for one in curve if one.perf >= enough), key=lambda one: one.concurrency)
