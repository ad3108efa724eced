"""A worker as its author starts it: reads the instance's settings, opens the books, serves until told to stop."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import aiohttp
import uvloop

from pyworker.allocator import keep_buffers
from pyworker.config import WorkerConfig
from pyworker.engine.client import EngineClient
from pyworker.engine.journal import ledger_at, slots_in
from pyworker.exit import Exit, told_by_signals
from pyworker.handler import handlers_of
from pyworker.logs import set_up_logging
from pyworker.running import Running
from pyworker.server.app import Serve
from pyworker.settings import Settings


class Worker:
    """A worker for ``config`` on this instance.

    Raises `ConfigError` for a configuration that cannot work and `SettingsError` for a wrong environment, both with
    everything that is needed to mend them.
    """

    runs: ClassVar[int] = 0
    """Workers run in this process: how the command line knows that a file has run its own."""

    collected: ClassVar[list[WorkerConfig] | None] = None
    """Where `run` leaves its configuration instead of serving, while someone only wants to know it; None otherwise."""

    def __init__(
        self,
        config: WorkerConfig,
        *,
        settings: Settings | None = None,
        plain_routes: Mapping[tuple[str, str], Serve] | None = None,
    ) -> None:
        """``plain_routes``, by (method, path), are served beside the handlers', unsigned and uncounted."""
        self.config = config
        self.plain_routes = plain_routes or {}
        self.settings = settings or Settings.from_env()
        self.handlers = handlers_of(config, perf_is_known=self.settings.benchmark_perf is not None)

    def run(self, **_: Any) -> None:
        """Serve until SIGTERM or SIGINT, then drain and return. Keyword arguments of the official package are ignored."""
        if Worker.collected is not None:
            Worker.collected.append(self.config)
            return
        set_up_logging(self.settings.log_level, self.settings.log_format)
        keep_buffers()
        with Exit() as leaving, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._until_told(leaving))

    async def run_async(self, **_: Any) -> None:
        """`run`, in a loop that runs already."""
        if Worker.collected is not None:
            Worker.collected.append(self.config)
            return
        await self._until_told(None)

    async def _until_told(self, leaving: Exit | None) -> None:
        Worker.runs += 1
        stop, cut = asyncio.Event(), asyncio.Event()
        with told_by_signals(stop, cut, leaving):
            await self.serve(stop, cut, leaving)

    async def serve(self, stop: asyncio.Event, cut: asyncio.Event, leaving: Exit | None = None) -> None:
        """Serve until ``stop`` is set, then drain; ``cut`` cuts the draining short, ``leaving`` what comes after it."""
        unix_offset = time.time() - time.monotonic()
        ledger = await asyncio.to_thread(
            ledger_at,
            self.settings.workspace,
            container_id=self.settings.container_id,
            unix_offset=unix_offset,
            slots=slots_in(self.settings.journal_max_size),
        )
        async with aiohttp.ClientSession() as session, EngineClient(self.settings.report_addrs) as client:
            running = Running(
                self.config,
                self.settings,
                self.handlers,
                session=session,
                client=client,
                ledger=ledger,
                unix_offset=unix_offset,
                leaving=leaving,
                plain_routes=self.plain_routes,
            )
            try:
                await running.run(stop, cut)
            finally:
                ledger.close()
