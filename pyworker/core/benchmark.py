"""Perf and its spread from what the benchmark measured.

perf = load of a run's successful requests ÷ seconds from its first byte sent to its last byte read. Reported is the
median over the runs; the reference reports the best one, kept here for comparison.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

LEAST_SHARE: Final = 0.1
"""Of the usual size of an answer: what is shorter has been cut short, and its load was not done."""

LEAST_SIZE: Final = 64
"""Bytes: answers of fewer are all alike short, and none of them says anything by its size."""


class Statistic(Enum):
    """Which run speaks for all."""

    MEDIAN = "median"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a run: its load, whether it succeeded, and what it said if not.

    ``seconds`` from sending it to the last byte of its answer, ``size`` of that in bytes, ``kind`` its content type.
    """

    load: float
    ok: bool
    why: str = ""
    seconds: float = 0.0
    size: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Requests sent together, and the seconds until the last of their bodies was read."""

    seconds: float
    samples: tuple[Sample, ...]

    @property
    def concurrency(self) -> int:
        return len(self.samples)

    @property
    def load(self) -> float:
        return sum(sample.load for sample in self.samples if sample.ok)

    @property
    def perf(self) -> float:
        return self.load / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What the benchmark found. perf in load per second; ``spread`` is (highest - lowest) ÷ median.

    ``concurrency`` is how many requests a run sent at once, ``p50`` and ``p95`` seconds of one of them.
    """

    perf: float
    median: float
    best: float
    spread: float
    runs: tuple[float, ...]
    concurrency: int = 1
    p50: float = 0.0
    p95: float = 0.0
    failures: tuple[str, ...] = ()

    def by(self, statistic: Statistic) -> "Result":
        """The same with the perf that ``statistic`` takes from the runs."""
        return replace(self, perf=self.best if statistic is Statistic.MAX else self.median)


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
    times = sorted(sample.seconds for run in runs for sample in run.samples if sample.ok)
    median = statistics.median(perfs)
    best = max(perfs)
    return Result(
        perf=median,
        median=median,
        best=best,
        spread=(best - min(perfs)) / median,
        runs=perfs,
        concurrency=max(run.concurrency for run in runs),
        p50=percentile(times, 50),
        p95=percentile(times, 95),
        failures=failures[:10],
    ).by(statistic)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that at least ``percent`` of ``ordered`` are not above."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def judged(runs: Sequence[Run], kind: str) -> list[Run]:
    """The runs, with successes that are none marked so: another content type than ``kind``, or next to no body.

    ``kind`` is the content type of the request that proved the model server; empty when it has none.
    """
    sizes = [sample.size for run in runs for sample in run.samples if sample.ok]
    usual = statistics.median(sizes) if sizes else 0.0
    return [
        replace(run, samples=tuple(_judged(sample, kind, usual) for sample in run.samples)) for run in runs
    ]


def _judged(sample: Sample, kind: str, usual: float) -> Sample:
    if not sample.ok:
        return sample
    if sample.kind != kind:
        why = f"answered with {sample.kind or 'no content type'}, where the proving request got {kind or 'none'}"
        return replace(sample, ok=False, why=why)
    if usual >= LEAST_SIZE and sample.size < usual * LEAST_SHARE:
        why = f"answered with {sample.size} bytes, where others got {usual:.0f}"
        return replace(sample, ok=False, why=why)
    return sample


def affords(runs: Sequence[Run], spent: float, budget: float) -> bool:
    """Whether another run is likely to end within ``budget`` seconds, of which ``spent`` are gone."""
    return not runs or spent + runs[-1].seconds <= budget
