"""Life of a model load: from the first hint that the model server is up to READY, and back after trouble.

Hints are a line of the log, a health route that answers 200, an entered ``lifecycle``. A hint is never enough: one
real request must succeed before the benchmark. What goes wrong is a state with a reason, not an end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import Any, Final

from pyworker.core.benchmark import Result, Run, Statistic, result
from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.core.lifecycle import Event, Lifecycle, State
from pyworker.core.log_lines import LogEvent
from pyworker.core.log_pattern import Mark
from pyworker.handler import Benchmark
from pyworker.model.measure import Measure
from pyworker.model.pool import ModelServer

log = logging.getLogger(__name__)

PROBE_TIMEOUT: Final = 10.0
PROBE_EVERY: Final = 10.0
PROBE_EVERY_UNTIL_READY: Final = 0.5
MISSES: Final = 3
"""Health probes missed in a row before a ready worker is errored: one is what a busy server misses."""

RETRY_FIRST: Final = 5.0
RETRY_LONGEST: Final = 60.0
"""Seconds until a worker that is errored, but whose health route answers 200, is proved again: 5, 10, … 60."""

CLOCK_EVERY: Final = 1.0
PROOF_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
BENCHMARK_PAUSES: Final = (1.0, 3.0, 10.0)
"""Seconds before a benchmark without a single success is tried again; then the worker is errored."""


class Startup:
    """Brings one worker up, and up again. ``announce`` is called after every change of state."""

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        announce: Callable[[], None],
        measure: Measure | None,
        benchmark: Benchmark | None,
        parallel: bool,
        health: tuple[ModelServer, str] | None,
        waits_for_hint: bool,
        context: AbstractAsyncContextManager[Any] | None,
        key_is_here: asyncio.Event,
        pinned_perf: float | None,
        statistic: Statistic,
        benchmark_budget: float,
        load_timeout: float,
    ) -> None:
        self._lifecycle = lifecycle
        self._announce = announce
        self._measure = measure
        self._benchmark = benchmark
        self._parallel = parallel
        self._health = health
        self._waits_for_hint = waits_for_hint
        self._context = context
        self._key_is_here = key_is_here
        self._perf = pinned_perf
        self._statistic = statistic
        self._budget = benchmark_budget
        self._load_timeout = load_timeout
        self._hint = asyncio.Event()
        self._hinted = False
        self._free = asyncio.Event()
        self._free.set()
        self._attempt: asyncio.Task[None] | None = None
        self._healthy = asyncio.Event()
        self._retry_after = RETRY_FIRST / 2
        self._retry_at = 0.0
        self.last_proof = ""
        """What the last proving request said, while it fails."""
        self.result: Result | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group, self._entered():
            group.create_task(self._watch_the_clock())
            if self._health is not None:
                group.create_task(self._probe_for_ever(*self._health))
            if self._health is None and not self._waits_for_hint:
                self._hint.set()  # nothing will say when: the proving request finds out
            while True:
                await self._hint.wait()
                await self._free.wait()
                self._hint.clear()
                self._hinted = True
                if self._handle(Event.LOADED):
                    self._attempt = group.create_task(self._bring_up())

    @asynccontextmanager
    async def _entered(self) -> AsyncIterator[None]:
        """The author's ``lifecycle``, entered in place of waiting for a log line."""
        if self._context is None:
            yield
            return
        try:
            await self._context.__aenter__()
        except Exception as error:  # noqa: BLE001 - whatever an author's code raises
            self.fail(f"lifecycle failed to start: {type(error).__name__}: {error}")
            yield
            return
        self._hint.set()
        try:
            yield
        finally:
            await self._context.__aexit__(None, None, None)

    # Hints and trouble...

    def log_event(self, event: LogEvent) -> None:
        """A line of the model server's log that means something."""
        if event.mark is Mark.FAILED:
            self.fail(f"log: {event.line}")
        elif event.mark is Mark.LOADED:
            log.info("model server says it is loaded: pattern=%r", event.pattern)
            self._hint.set()
        else:
            log.info("model server: %s", event.line)

    def fail(self, reason: str) -> None:
        """The worker is errored, for ``reason``; what was under way to bring it up is dropped."""
        if self._attempt is not None and self._attempt is not asyncio.current_task():
            self._attempt.cancel()
        if self._lifecycle.state is not State.ERRORED:
            steady = (
                self._lifecycle.ready and self._lifecycle.seconds_in_state(time.monotonic()) > RETRY_LONGEST
            )
            self._retry_after = RETRY_FIRST if steady else min(self._retry_after * 2, RETRY_LONGEST)
            self._retry_at = time.monotonic() + self._retry_after
        if self._handle(Event.FAILED, reason=reason):
            log.error("worker errored: %s", reason)

    def block(self, reason: str) -> None:
        """Something besides the model server is missing: errored for ``reason`` until `unblock`."""
        self._free.clear()
        self.fail(reason)

    def unblock(self) -> None:
        """What was missing is there. What the model server has said meanwhile, and before, holds."""
        if not self._free.is_set():
            self._free.set()
            self._handle(Event.CLEARED)
            if self._hinted:
                self._hint.set()

    def _handle(self, event: Event, *, reason: str = "") -> bool:
        before = self._lifecycle.state
        changed = self._lifecycle.handle(event, time.monotonic(), reason=reason)
        self._tell(before)
        return changed

    def _tell(self, before: State) -> None:
        after = self._lifecycle.state
        if after is not before:
            log.info("state: %s -> %s", before.value, after.value)
        self._announce()

    # Bringing it up...

    async def _bring_up(self) -> None:
        try:
            await self._stages()
        except Exception as error:
            log.exception("bug while bringing the worker up")
            self.fail(f"{type(error).__name__} while bringing the worker up; its log has more")

    async def _stages(self) -> None:
        if not await self._prove():
            return
        self._handle(Event.PROVED)
        perf = self._perf if self._perf is not None else await self._measured()
        if perf is None:
            return
        self._perf = perf
        before = self._lifecycle.state
        self._lifecycle.measured(perf, time.monotonic())
        self._tell(before)
        await self._confirm()
        self._handle(Event.CONFIRMED)
        log.info("ready: perf=%.1f load/s loadtime=%.1f s", perf, self._lifecycle.load_time or 0.0)

    async def _prove(self) -> bool:
        """One real request must succeed, however often it takes within the load budget."""
        if self._measure is None:
            return True
        tries = 0
        while True:
            sample = await self._measure.one()
            self.last_proof = sample.why
            if sample.ok:
                return True
            if tries == len(PROOF_PAUSES):
                log.info("proving request failed, trying on: %s", sample.why)
            await asyncio.sleep(PROOF_PAUSES[min(tries, len(PROOF_PAUSES) - 1)])
            tries += 1

    async def _measured(self) -> float | None:
        """Perf by the benchmark, tried again after a pause when nothing succeeded; None when it is given up."""
        why = ""
        for pause in (*BENCHMARK_PAUSES, 0.0):
            try:
                self.result = result(await self._runs(), self._statistic)
            except ValueError as error:
                why = str(error)
                log.warning("benchmark failed: %s", why)
                await asyncio.sleep(pause)
                continue
            found = self.result
            log.info(
                "benchmark: perf=%.1f load/s best=%.1f spread=%.0f%%",
                found.perf,
                found.best,
                found.spread * 100,
            )
            return found.perf
        self.fail(f"benchmark: {why}")
        return None

    async def _runs(self) -> list[Run]:
        assert self._measure is not None
        assert self._benchmark is not None
        concurrency = self._benchmark.concurrency if self._parallel else 1
        began = time.monotonic()
        runs: list[Run] = []
        for number in range(1, self._benchmark.runs + 1):
            if runs and time.monotonic() - began > self._budget:
                log.info(
                    "benchmark cut short: runs=%d of %d, budget=%g s",
                    len(runs),
                    self._benchmark.runs,
                    self._budget,
                )
                break
            runs.append(await self._measure.run(concurrency))
            log.info(
                "benchmark run %d/%d: requests=%d perf=%.1f load/s",
                number,
                self._benchmark.runs,
                concurrency,
                runs[-1].perf,
            )
        return runs

    async def _confirm(self) -> None:
        await self._key_is_here.wait()
        if self._health is not None:
            await self._healthy.wait()

    # Health...

    async def _probe_for_ever(self, server: ModelServer, path: str) -> None:
        misses = 0
        while True:
            status, why = await _probe(server, path)
            if status == HTTPStatus.OK:
                if not self._healthy.is_set() or self._may_retry():
                    self._hint.set()
                self._healthy.set()
                misses = 0
            else:
                misses += 1
                self._missed(path, status, why, misses)
            await asyncio.sleep(
                PROBE_EVERY if self._lifecycle.ready and not misses else PROBE_EVERY_UNTIL_READY
            )

    def _missed(self, path: str, status: int | None, why: str, misses: int) -> None:
        if misses < MISSES:
            return
        self._healthy.clear()
        if status == HTTPStatus.NOT_FOUND:
            self.fail(
                f"health route {path} answered 404: set MODEL_HEALTH_ENDPOINT to a path the model server has"
            )
        elif self._lifecycle.ready:
            self.fail(f"health route {path} failed {misses} times: {why}")

    def _may_retry(self) -> bool:
        """Errored, yet healthy all along: after a pause, which grows while it keeps failing, it may prove itself."""
        return self._lifecycle.state is State.ERRORED and time.monotonic() >= self._retry_at

    async def _watch_the_clock(self) -> None:
        """Not ready within the load budget is an error with the stage and what was last seen."""
        since = time.monotonic()
        while True:
            await asyncio.sleep(min(CLOCK_EVERY, self._load_timeout / 4))
            if self._lifecycle.state in {State.READY, State.ERRORED, State.DRAINING}:
                since = time.monotonic()
            elif time.monotonic() - since >= self._load_timeout:
                seen = f"; last: {self.last_proof}" if self.last_proof else ""
                self.fail(
                    f"not ready after {self._load_timeout:g} s: still {self._lifecycle.state.value}{seen}"
                )


async def _probe(server: ModelServer, path: str) -> tuple[int | None, str]:
    """Status of the health route, or None; and what was wrong."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            answer = await server.ask("GET", path, [])
            try:
                await answer.read()
            finally:
                answer.close()
    except TimeoutError:
        return None, f"no answer in {PROBE_TIMEOUT:g} s"
    except (Refusal, AnswerBroken) as error:
        return None, str(error)
    return answer.status, f"status {answer.status}"
