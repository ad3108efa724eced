"""A thread with an event loop of its own for the reporter: what blocks the worker's loop does not silence it."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import uvloop

from pyworker.engine.reporter import Reporter


class ReporterThread:
    """Runs ``reporter``, and what else must not be held up, beside the event loop that makes it; `run`, then `finish`."""

    def __init__(
        self, reporter: Reporter, beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
    ) -> None:
        self._reporter = reporter
        self._beside = tuple(beside)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._flush_within = 0.0
        self._limit: asyncio.Timeout | None = None
        self._delivered = False
        self._ended: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Report until cancelled; raises what the reporter raised."""
        self._ended = asyncio.get_running_loop().create_future()
        home = asyncio.get_running_loop()
        threading.Thread(target=self._work, args=(home, self._ended), name="reporter", daemon=True).start()
        await asyncio.shield(self._ended)

    async def finish(self, flush_within: float) -> bool:
        """Deliver what is left and end the thread; says whether the engine has all within ``flush_within`` seconds."""
        if self._ended is None:
            return False
        self._flush_within = flush_within
        await asyncio.to_thread(self._started.wait)
        if not self._ended.done() and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            await self._ended
        return self._delivered

    def hurry(self, within: float) -> None:
        """`finish` is to take no longer than ``within`` seconds from now."""
        if self._loop is not None and self._ended is not None and not self._ended.done():
            self._loop.call_soon_threadsafe(self._hasten, within)

    # In the thread...

    def _hasten(self, within: float) -> None:
        self._flush_within = min(self._flush_within, within)
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + self._flush_within)

    def _work(self, home: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]") -> None:
        error: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._report())
        except BaseException as caught:  # noqa: BLE001 - whatever it is, the worker's loop raises it
            error = caught
        finally:
            self._started.set()
        home.call_soon_threadsafe(_end, ended, error)

    async def _report(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._started.set()
        async with self._reporter.client, asyncio.TaskGroup() as group:
            reporting = group.create_task(self._reporter.run())
            beside = [group.create_task(one()) for one in self._beside]
            await self._stop.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._flush_within) as self._limit:
                    await self._leave(reporting)
            self._limit = None
            for task in (reporting, *beside):
                task.cancel()

    async def _leave(self, reporting: "asyncio.Task[None]") -> None:
        """What is on its way is answered before the rest is sent: nothing is told twice."""
        self._reporter.stop()
        await asyncio.wait({reporting})
        await self._reporter.flush()
        self._delivered = True


def _end(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
