"""Perf and its spread from what the benchmark measured.

perf = load of a run's successful requests ÷ seconds from its first byte sent to its last byte read. Reported is the
median over the runs; the reference reports the best one, kept here for comparison.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum


class Statistic(Enum):
    """Which run speaks for all."""

    MEDIAN = "median"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a run: its load, whether it succeeded, and what it said if not."""

    load: float
    ok: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Requests sent together, and the seconds until the last of their bodies was read."""

    seconds: float
    samples: tuple[Sample, ...]

    @property
    def load(self) -> float:
        return sum(sample.load for sample in self.samples if sample.ok)

    @property
    def perf(self) -> float:
        return self.load / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What the benchmark found. perf in load per second; ``spread`` is (highest - lowest) ÷ median."""

    perf: float
    median: float
    best: float
    spread: float
    runs: tuple[float, ...]
    failures: tuple[str, ...] = field(default=())


def result(runs: Sequence[Run], statistic: Statistic = Statistic.MEDIAN) -> Result:
    """Raises ValueError, with what the first failures said, when no request of any run succeeded."""
    failures = tuple(sample.why for run in runs for sample in run.samples if not sample.ok)
    perfs = tuple(run.perf for run in runs if run.perf > 0)
    if not perfs:
        if failures:
            raise ValueError(f"no benchmark request succeeded: {failures[0]}")
        raise ValueError(
            "no load was measured: none was sent, or the workload_calculator prices the payloads at 0"
        )
    median = statistics.median(perfs)
    best = max(perfs)
    return Result(
        perf=best if statistic is Statistic.MAX else median,
        median=median,
        best=best,
        spread=(best - min(perfs)) / median,
        runs=perfs,
        failures=failures[:10],
    )
