"""Sockets, time and log lines around the engine."""

import asyncio
import errno
import logging
import signal
import socket
import time
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from pyworker.core.wire import EndedRequest, WorkerStatus
from pyworker.local_engine.app import Routes
from pyworker.local_engine.keys import Keys
from pyworker.local_engine.pool import Change, Pool
from pyworker.local_engine.pool_worker import Status

log = logging.getLogger(__name__)

TICK: Final = 0.25
"""Seconds between looks at what time has changed, and so how late its log line may be."""

SHUTDOWN_TIMEOUT: Final = 2.0
"""Seconds that calls under way get when the engine stops; they take milliseconds."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a load test opens hundreds at once."""

IPV4_LOOPBACK: Final = "127.0.0.1"
IPV6_LOOPBACK: Final = "::1"
_ANY_ADDRESS: Final = {"0.0.0.0": IPV4_LOOPBACK, "::": IPV6_LOOPBACK, "": IPV4_LOOPBACK}  # noqa: S104 - compared, not bound


class PortTaken(OSError):
    """Another program listens where the engine should."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run the engine. Times in seconds; port 0 takes a free one.

    ``data_dir`` keeps the signing key for the next start; None makes a new one. ``mtoken`` is the one token workers
    may report with; None binds each worker id to the token of its first report.
    """

    host: str = IPV4_LOOPBACK
    port: int = 8080
    api_key: str = "local"
    endpoint: str = "local"
    data_dir: Path | None = None
    gone_after: float = 30.0
    hold_timeout: float = 60.0
    mtoken: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for options no engine can run with."""
        if not self.api_key or not self.endpoint:
            raise ValueError("api_key and endpoint must not be empty")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if not (self.gone_after > 0 and self.hold_timeout > 0):
            raise ValueError("gone_after and hold_timeout must be above 0 s")


class LocalEngine:
    """A running engine, as an async context manager. Entering raises OSError when it cannot listen or keep its key."""

    keys: Keys
    url: str
    """Where to reach it, without a trailing slash."""

    def __init__(self, options: EngineOptions | None = None) -> None:
        self.options = options or EngineOptions()
        self.pool = Pool(
            endpoint=self.options.endpoint,
            gone_after=self.options.gone_after,
            hold_timeout=self.options.hold_timeout,
            mtoken=self.options.mtoken,
        )
        self._running = AsyncExitStack()

    @property
    def reports(self) -> deque[WorkerStatus]:
        """The last 1000 reports it took, in order."""
        return self._routes.reports

    @property
    def ended(self) -> deque[EndedRequest]:
        """The last 1000 ended requests it was told of, in order."""
        return self._routes.ended

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            # Making a key takes long enough to be felt by whatever else runs here.
            self.keys = await asyncio.to_thread(Keys.load, self.options.data_dir)
            self._routes = Routes(
                pool=self.pool, keys=self.keys, api_key=self.options.api_key, unix_offset=_unix_offset()
            )
            runner = web.AppRunner(
                self._routes.application(), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT
            )
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            self.url = await _listen(runner, self.options)
            self._tick()
            stack.callback(self._stop_ticking)
            self._running = stack.pop_all()
        log.info("engine listening: url=%s endpoint=%s", self.url, self.options.endpoint)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.__aexit__(kind, error, trace)

    def _tick(self) -> None:
        self.pool.advance(time.monotonic())
        for change in self.pool.take_changes():
            _tell(change)
        self._next_tick = asyncio.get_running_loop().call_later(TICK, self._tick)

    def _stop_ticking(self) -> None:
        self._next_tick.cancel()
        for change in self.pool.take_changes():
            _tell(change)


async def serve(options: EngineOptions) -> None:
    """Run an engine until SIGTERM, SIGINT or cancellation. Raises OSError when it cannot listen or keep its key."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with LocalEngine(options):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await stop.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
    log.info("engine stopped: endpoint=%s", options.endpoint)


async def _listen(runner: web.AppRunner, options: EngineOptions) -> str:
    """Listen where the options say; returns the URL."""
    host = IPV4_LOOPBACK if options.host == "localhost" else options.host
    first = _socket(host, options.port)
    await web.SockSite(runner, first).start()
    port: int = first.getsockname()[1]
    if host == IPV4_LOOPBACK:
        await _listen_on_ipv6_loopback(runner, port, required=options.port != 0)
    reachable = _ANY_ADDRESS.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


async def _listen_on_ipv6_loopback(runner: web.AppRunner, port: int, *, required: bool) -> None:
    """Where "localhost" is ::1 first, clients that say so must find this engine, and no other program.

    Skipped where this machine has no IPv6, and (unless ``required``) where another program has the port there.
    """
    try:
        second = _socket(IPV6_LOOPBACK, port)
    except PortTaken:
        if required:
            raise
    except OSError as error:
        log.debug("engine not on IPv6: %s", error)
    else:
        await web.SockSite(runner, second).start()


def _socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(f"the engine cannot listen on {host} port {port}: it is taken") from error
        raise OSError(f"the engine cannot listen on {host} port {port}: {error.strerror or error}") from error


def _tell(change: Change) -> None:
    level = logging.WARNING if change.after in {Status.ERROR, Status.GONE} else logging.INFO
    log.log(
        level,
        "worker state: id=%d from=%s to=%s url=%s perf=%.6g%s",
        change.worker_id,
        change.before.value if change.before else "none",
        change.after.value,
        change.url[:200],
        change.perf,
        f" error={change.error[:500]!r}" if change.error else "",
    )


def _unix_offset() -> float:
    """What turns monotonic seconds into Unix seconds: the engine's one look at the wall clock."""
    return datetime.now(UTC).timestamp() - time.monotonic()
