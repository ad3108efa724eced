"""Measures perf: warmed up, in runs, within a budget; tried again when nothing succeeded, and explained.

How many requests a run sends at once is the handler's, or found by doubling until throughput stops growing.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pyworker.core.benchmark import Result, Run, affords, judged, result
from pyworker.core.sweep import Point, knee, next_concurrency, point
from pyworker.handler import Benchmark
from pyworker.model.measure import Measure

log = logging.getLogger(__name__)

PAUSES: Final = (1.0, 3.0, 10.0)
"""Seconds before a benchmark without a single success is tried again, as long as the budget lasts."""


class NoPerf(Exception):
    """Nothing succeeded, however often it was tried; says what the answers said."""


@dataclass(slots=True)
class _Attempt:
    """One try at the benchmark, and when it began."""

    began: float = field(default_factory=time.monotonic)
    runs: list[Run] = field(default_factory=list)
    warm_up: Run | None = None

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began


class BenchmarkRunner:
    """The benchmark of one handler. ``budget`` in seconds; ``parallel``: whether requests may be sent at once at all."""

    def __init__(
        self,
        measure: Measure,
        benchmark: Benchmark,
        *,
        parallel: bool,
        budget: float,
        on_run: Callable[[Run], None] | None = None,
    ) -> None:
        self._measure = measure
        self._benchmark = benchmark
        self._auto = benchmark.auto and parallel
        self._concurrency = benchmark.concurrency if parallel else 1
        self._budget = budget
        self._on_run = on_run or (lambda _: None)
        self.curve: tuple[Point, ...] = ()
        """What the search for the right concurrency found; empty without one."""
        self.now_doing = ""
        """For a person: what is being measured."""

    async def perf(self, kind: str = "") -> Result:
        """The result. ``kind`` is the content type that good answers have. Raises `NoPerf`."""
        began = time.monotonic()
        pauses = iter(PAUSES)
        while True:
            try:
                return result(judged(await self._attempt(), kind))
            except ValueError as error:
                pause = next(pauses, PAUSES[-1])
                log.warning("benchmark failed: %s", error)
                self.now_doing = f"nothing succeeded, trying again: {error}"
                if time.monotonic() - began + pause > self._budget:
                    raise NoPerf(f"{error} (tried for {time.monotonic() - began:.0f} s)") from error
                await asyncio.sleep(pause)

    async def _attempt(self) -> list[Run]:
        attempt = _Attempt()
        if self._auto:
            await self._search(attempt)
        elif self._benchmark.do_warmup and self._concurrency > 1:
            await self._warm_up(attempt)
        while len(attempt.runs) < self._benchmark.runs:
            if not affords(self._last(attempt), attempt.spent, self._budget):
                log.info(
                    "benchmark cut short: runs=%d of %d, budget=%g s",
                    len(attempt.runs),
                    self._benchmark.runs,
                    self._budget,
                )
                break
            number = len(attempt.runs) + 1
            attempt.runs.append(await self._run(self._concurrency, f"run {number} of {self._benchmark.runs}"))
        return attempt.runs or self._last(attempt)

    @staticmethod
    def _last(attempt: _Attempt) -> list[Run]:
        """The last run there was, a warm-up if need be."""
        return attempt.runs[-1:] or ([attempt.warm_up] if attempt.warm_up is not None else [])

    async def _warm_up(self, attempt: _Attempt) -> None:
        """As many requests at once as the runs will send. Raises ValueError when none succeeds: there is nothing to measure."""
        attempt.warm_up = await self._run(self._concurrency, "warming up")
        result([attempt.warm_up])

    async def _search(self, attempt: _Attempt) -> None:
        """Double the number of requests at once until throughput stops growing. Raises ValueError when none succeeds."""
        curve: list[Point] = []
        found: dict[int, Run] = {}
        while (concurrency := next_concurrency(curve)) is not None:
            if not affords([*found.values()], attempt.spent, self._budget / 2):
                break
            run = await self._better_of_two(concurrency, attempt)
            measured = point(run)
            if measured is None:
                if not curve:
                    result([run])  # raises, and says why
                break
            curve.append(measured)
            found[concurrency] = run
        self.curve = tuple(curve)
        best = knee(curve)
        self._concurrency = best.concurrency
        attempt.warm_up = found[best.concurrency]
        log.info("benchmark: knee at concurrency=%d perf=%.1f load/s", best.concurrency, best.perf)

    async def _better_of_two(self, concurrency: int, attempt: _Attempt) -> Run:
        """A short run is made twice: the first at each concurrency may pay for what only it needs."""
        runs = [await self._run(concurrency, f"looking for the best concurrency, {concurrency} at once")]
        if affords(runs, attempt.spent, self._budget / 4):
            runs.append(
                await self._run(concurrency, f"looking for the best concurrency, {concurrency} at once")
            )
        return max(runs, key=lambda run: run.perf)

    async def _run(self, concurrency: int, what: str) -> Run:
        self.now_doing = what
        run = await self._measure.run(concurrency)
        self._on_run(run)
        log.info("benchmark %s: requests=%d perf=%.1f load/s", what, run.concurrency, run.perf)
        return run
