"""Life of a model load: from the first hint that the model server is up to READY, and back after trouble.

Hints are a line of the log, a health route that answers 200, an entered ``lifecycle``. A hint is never enough: one
real request must succeed before the benchmark. What goes wrong is a state with a reason, not an end.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

from pyworker.core.lifecycle import Event, Lifecycle, State
from pyworker.core.log_lines import LogEvent
from pyworker.core.log_pattern import Mark
from pyworker.core.redact import excerpt
from pyworker.fence import end
from pyworker.model.benchmark import NoPerf
from pyworker.model.perf import Perf
from pyworker.model.probe import HealthWatch
from pyworker.model.proof import Proof

log = logging.getLogger(__name__)

RETRY_FIRST: Final = 5.0
RETRY_LONGEST: Final = 60.0
"""Seconds until a worker that is errored, but whose model server may well be up, is proved again: 5, 10, … 60."""

LEAVE: Final = 5.0
"""Seconds that an author's ``lifecycle`` may take to be left."""

LOG_REASON: Final = "log: "
MAX_REASON: Final = 400
"""Characters of a reason, which goes to the engine as ``error_msg``."""


class Startup:
    """Brings one worker up, and up again. ``announce`` is called after every change of state."""

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        announce: Callable[[], None],
        proof: Proof | None,
        perf: Perf,
        health: HealthWatch | None,
        waits_for_hint: bool,
        context: AbstractAsyncContextManager[Any] | None,
        key_is_here: asyncio.Event,
        port_is_open: asyncio.Event,
    ) -> None:
        self._lifecycle = lifecycle
        self._announce = announce
        self._proof = proof
        self._perf = perf
        self._health = health
        self._waits_for_hint = waits_for_hint
        self._context = context
        self._key_is_here = key_is_here
        self._port_is_open = port_is_open
        self._hint = asyncio.Event()
        self._hinted = False
        self._free = asyncio.Event()
        self._free.set()
        self._attempt: asyncio.Task[None] | None = None
        self._retry_after = RETRY_FIRST / 2
        self._retry_at = 0.0
        self.loaded_at: float | None = None
        """Monotonic second of the newest line that says the model server is loaded."""
        self.blocked = ""
        """What besides the model server is missing; empty when nothing is."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group, self._entered():
            if self._health is not None:
                group.create_task(self._health.run(self))
            else:
                group.create_task(self._retry_unasked())
                if not self._waits_for_hint:
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
        loop = asyncio.get_running_loop()
        inside: asyncio.Future[None] = loop.create_future()
        leave = asyncio.Event()
        task = loop.create_task(_held(self._context, inside, leave))
        first: set[asyncio.Future[Any]] = {task, inside}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if inside.done():
                self._hint.set()
            else:
                error = task.result()
                self.fail(f"lifecycle failed to start: {type(error).__name__}: {error}")
            yield
        finally:
            leave.set()
            await asyncio.wait({task}, timeout=LEAVE)
            await end(task, "the handler's lifecycle")

    # Hints and trouble...

    @property
    def ready(self) -> bool:
        return self._lifecycle.ready

    def hint(self) -> None:
        """The model server may be up: time to prove it."""
        self._hint.set()

    def log_event(self, event: LogEvent) -> None:
        """A line of the model server's log that means something."""
        if event.mark is Mark.FAILED:
            self._log_failed(event)
        elif event.mark is Mark.LOADED:
            log.info("model server says it is loaded: pattern=%r", event.pattern)
            self.loaded_at = time.monotonic()
            self._hint.set()
        else:
            log.info("model server: %s", event.line)

    def _log_failed(self, event: LogEvent) -> None:
        """Of the lines of one trouble the first is the reason: those that follow tell of its consequences."""
        told = self._lifecycle.state is State.ERRORED and self._lifecycle.error.startswith(LOG_REASON)
        if not told:
            seen = "" if event.pattern in event.line else f"{event.pattern}: "
            self.fail(LOG_REASON + seen + event.line)

    def fail(self, reason: str) -> None:
        """The worker is errored, for ``reason``; what was under way to bring it up is dropped."""
        if self._attempt is not None and self._attempt is not asyncio.current_task():
            self._attempt.cancel()
        if self._lifecycle.state is not State.ERRORED:
            steady = self.ready and self._lifecycle.seconds_in_state(time.monotonic()) > RETRY_LONGEST
            self._retry_after = RETRY_FIRST if steady else min(self._retry_after * 2, RETRY_LONGEST)
            self._retry_at = time.monotonic() + self._retry_after
        reason = excerpt(reason, most=MAX_REASON)
        if self._handle(Event.FAILED, reason=reason):
            log.error("worker errored: %s", reason)

    def may_retry(self) -> bool:
        """Errored, yet nothing says that it is down: after a pause, which grows while it keeps failing, it may prove itself."""
        return self._lifecycle.state is State.ERRORED and time.monotonic() >= self._retry_at

    async def _retry_unasked(self) -> None:
        """Without a health route nobody says that the model server is up again; if it once was, the proof finds out."""
        while True:
            await asyncio.sleep(RETRY_FIRST / 10)
            if self._hinted and self.may_retry():
                self._hint.set()

    def block(self, reason: str) -> None:
        """Something besides the model server is missing: errored for ``reason`` until `unblock`."""
        self._free.clear()
        self.blocked = excerpt(reason, most=MAX_REASON)
        self.fail(reason)

    def unblock(self) -> None:
        """What was missing is there. What the model server has said meanwhile, and before, holds."""
        if not self._free.is_set():
            self._free.set()
            self.blocked = ""
            self._handle(Event.CLEARED)
            if self._hinted:
                self._hint.set()

    def _handle(self, event: Event, *, reason: str = "") -> bool:
        before = self._lifecycle.state
        changed = self._lifecycle.handle(event, time.monotonic(), reason=reason)
        if changed:  # what is told again and again is no news
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
        except NoPerf as error:
            self.fail(f"benchmark: {error}")
        except Exception as error:
            log.exception("bug while bringing the worker up")
            self.fail(f"{type(error).__name__} while bringing the worker up; its log has more")

    async def _stages(self) -> None:
        if self._proof is not None:
            await self._proof.succeed()
        self._handle(Event.PROVED)
        perf = await self._perf.known(self._proof.kind if self._proof is not None else "")
        before = self._lifecycle.state
        self._lifecycle.measured(perf, time.monotonic())
        self._tell(before)
        await self._key_is_here.wait()
        await self._port_is_open.wait()  # who is sent here as soon as the engine knows must find it open
        if self._health is not None:
            await self._health.healthy.wait()
        self._handle(Event.CONFIRMED)
        log.info("ready: perf=%.1f load/s loadtime=%.1f s", perf, self._lifecycle.load_time or 0.0)


async def _held(
    context: AbstractAsyncContextManager[Any], inside: "asyncio.Future[None]", leave: asyncio.Event
) -> BaseException | None:
    """Be in an author's ``context`` until ``leave``, all in one task, as it may want. Returns what it raised."""
    try:
        async with context:
            inside.set_result(None)
            await leave.wait()
    except BaseException as error:  # noqa: BLE001 - whatever an author's code raises
        if inside.done() and not isinstance(error, asyncio.CancelledError):
            log.warning("lifecycle failed at its end: %s: %s", type(error).__name__, error)
        return error
    return None
