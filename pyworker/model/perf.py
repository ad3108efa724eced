"""Perf of this worker: pinned, known from this run, kept from an earlier one, or measured; in this order."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pyworker.core.benchmark import Result, Statistic
from pyworker.model.benchmark import BenchmarkRunner
from pyworker.model.perf_cache import PerfCache, PerfKey

log = logging.getLogger(__name__)


class Perf:
    """``key`` says what a kept result must have been measured with; it is asked once the model server is proved."""

    def __init__(
        self,
        *,
        pinned: float | None,
        pinned_by: str,
        runner: BenchmarkRunner | None,
        statistic: Statistic,
        cache: PerfCache,
        key: Callable[[], Awaitable[PerfKey]],
    ) -> None:
        self._perf = pinned
        self.runner = runner
        self._statistic = statistic
        self._cache = cache
        self._key = key
        self.result: Result | None = None
        self.source = f"pinned by {pinned_by}" if pinned is not None else ""
        """Where the figure comes from, for a person; empty until there is one."""

    async def known(self, kind: str) -> float:
        """Load per second. ``kind`` is the content type of good answers. Raises `NoPerf` when nothing succeeds."""
        if self._perf is None:
            self.result = (await self._found(kind)).by(self._statistic)
            self._perf = self.result.perf
        return self._perf

    async def _found(self, kind: str) -> Result:
        assert self.runner is not None
        key = await self._key()
        kept = await asyncio.to_thread(self._cache.find, key)
        if kept is not None:
            self.source = f"kept from an earlier start ({self._cache.path})"
            log.info(
                "benchmark: perf=%.1f load/s, kept: path=%s", kept.by(self._statistic).perf, self._cache.path
            )
            return kept
        found = await self.runner.perf(kind)
        self.source = "measured by this start"
        log.info(
            "benchmark: median=%.1f best=%.1f load/s spread=%.0f%%",
            found.median,
            found.best,
            found.spread * 100,
        )
        await asyncio.to_thread(self._cache.keep, key, found)
        return found
