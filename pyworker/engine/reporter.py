"""Tells the engine what is true: at once when the state changes, once a second while figures do, else every ten.

A report is acknowledged or it never was: the ledger forgets what it told only after the engine answered 200.

The reporter may run in a thread of its own (`ReporterThread`), so that nothing which blocks the worker's event loop can
silence it. The ledger stays the event loop's: the reporter asks that loop for figures, and while it gets no answer it
repeats what it knows, with no new load, so that the engine does not take a busy worker for a dead one.
"""

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec
import psutil

from pyworker.core.ledger import Entry, Ledger, Report
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.core.reckoning import Figure, reckoning
from pyworker.core.wire import DELETE_PATH, STATUS_PATH, DeleteRequests, EndedRequest, WorkerStatus, encode
from pyworker.engine.client import EngineClient, EngineError, pause

log = logging.getLogger(__name__)

HEARTBEAT: Final = 10.0
LEAST_PAUSE: Final = 1.0
"""Seconds between reports of figures; a change of state does not wait for it."""

ENDS_EVERY: Final = 0.25
"""Seconds between looks for ended requests: the engine holds their load until it hears of them."""

ENDS_BATCH: Final = 1000
NO_DELETES: Final = frozenset({"https://cloud.vast.ai/api/v0"})
"""Addresses that do not take `DELETE_PATH` (protocol.md section 2)."""

GIB: Final = 2**30
STALL: Final = 2.0
"""Seconds the worker's event loop may take to say what is true before the reporter goes on without it."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who reports: the instance's id and token, and the URL clients reach it at."""

    container_id: int
    master_token: str
    public_url: str


class HomeLoop:
    """Runs functions in the event loop that ledger and lifecycle belong to; from there itself, at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    async def call(self, function: Callable[[], _T]) -> _T:
        """The function's result. Raises TimeoutError when that loop does not come to it in `STALL` seconds."""
        if asyncio.get_running_loop() is self._loop:
            return function()
        answer: concurrent.futures.Future[_T] = concurrent.futures.Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function())
                except Exception as error:  # noqa: BLE001 - raised where the answer is awaited
                    answer.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        async with asyncio.timeout(STALL):
            return await asyncio.wrap_future(answer)

    def tell(self, function: Callable[[], None]) -> None:
        """Have it run there, before whatever is asked of that loop next."""
        if asyncio.get_running_loop() is self._loop:
            function()
        else:
            self._loop.call_soon_threadsafe(function)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What is true at one instant."""

    report: Report
    changes: int
    loadtime: float
    perf: float
    error: str


@dataclass(slots=True)
class Delivery:
    """How reporting goes: for status, and for whoever asks why the engine does not know."""

    acknowledged: int = 0
    failures: int = 0
    failing_since: float | None = None
    last_error: str = ""
    last_acknowledged: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """A report the engine acknowledged. Times are monotonic seconds."""

    status: WorkerStatus
    figures: Mapping[str, Figure]
    sent_at: float
    acknowledged_at: float
    address: str


class Reporter:
    """Reports one worker through ``client``. ``unix_offset`` turns monotonic seconds into Unix seconds."""

    def __init__(
        self,
        *,
        identity: Identity,
        client: EngineClient,
        ledger: Ledger,
        lifecycle: Lifecycle,
        unix_offset: float,
        home: HomeLoop,
        disk_usage: Callable[[], float] | None = None,
    ) -> None:
        self._identity = identity
        self.client = client
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._unix_offset = unix_offset
        self._home = home
        self._loop: asyncio.AbstractEventLoop | None = None
        self._disk_usage = disk_usage or _disk_usage
        self._told_disk: float | None = None
        self._told_changes = -1
        self._sent_at = float("-inf")
        self._stopping = False
        self._news = asyncio.Event()
        self._news.set()
        self.statuses = Delivery()
        self.ends = Delivery()
        self.under_way_since: float | None = None
        """Monotonic second a report was sent whose answer is awaited."""
        self.last: Told | None = None
        """The newest report the engine acknowledged."""

    def announce(self) -> None:
        """The state changed: report at once. May be called from any thread."""
        if self._loop is None:
            self._news.set()
        else:
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        """Until `stop` is called, or cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_status())
            group.create_task(self._tell_ends())

    def stop(self) -> None:
        """Have `run` return when what is on its way has been answered."""
        self._stopping = True
        self._news.set()

    async def flush(self) -> None:
        """Deliver the last report and every end, however often it takes: the caller sets the limit."""
        for send in (self._send_ends, self._send_status):
            while not await send():  # noqa: ASYNC110 - nothing can tell us when the engine is back
                await asyncio.sleep(pause(1))

    # Status...

    async def _tell_status(self) -> None:
        while not self._stopping:
            await self._wait_for_news()
            while not await self._send_status() and not self._stopping:
                await self._pause(self.statuses)

    async def _wait_for_news(self) -> None:
        while not self._news.is_set():
            since = time.monotonic() - self._sent_at
            if since >= HEARTBEAT or (since >= LEAST_PAUSE and self._ledger.changes != self._told_changes):
                return
            try:
                async with asyncio.timeout(max(LEAST_PAUSE - since, 0.0) or LEAST_PAUSE):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def _pause(self, delivery: Delivery) -> None:
        """After a failure wait, but not through a change of state."""
        self._news.clear()
        try:
            async with asyncio.timeout(pause(delivery.failures)):
                await self._news.wait()
        except TimeoutError:
            pass

    async def _send_status(self) -> bool:
        disk = await asyncio.to_thread(self._disk_usage)
        self._news.clear()
        try:
            now = await self._home.call(self._snapshot)
        except TimeoutError:
            return await self._repeat()
        status = self._status_of(now, disk)
        figures = reckoning(now.report, status, told_disk=self._told_disk)
        self._sent_at = self.under_way_since = time.monotonic()
        address = await self._post(STATUS_PATH, encode(status), self.statuses)
        self.under_way_since = None
        if address is None:
            return False
        self._told_changes = now.changes
        self._told_disk = disk
        self.last = Told(status, figures, self._sent_at, time.monotonic(), address)
        self._home.tell(partial(self._ledger.taken, now.report))
        return True

    def _snapshot(self) -> _Snapshot:
        life = self._lifecycle
        return _Snapshot(
            self._ledger.report(), self._ledger.changes, life.load_time or 0.0, life.perf, life.told_error
        )

    def _status_of(self, now: _Snapshot, disk: float) -> WorkerStatus:
        report = now.report
        return WorkerStatus(
            id=self._identity.container_id,
            mtoken=self._identity.master_token,
            loadtime=now.loadtime,
            cur_load=report.current_load,
            rej_load=report.rejected_load,
            new_load=report.new_load,
            max_perf=now.perf,
            cur_perf=report.served_load,
            num_requests_working=len(report.working),
            num_requests_recieved=report.received,
            error_msg=now.error,
            additional_disk_usage=0.0 if self._told_disk is None else disk - self._told_disk,
            disk_usage=disk,
            working_request_idxs=report.working,
            url=self._identity.public_url,
        )

    async def _repeat(self) -> bool:
        """The worker's event loop is blocked: what was true last, with no load that was told already."""
        self._sent_at = time.monotonic()
        if self.last is None:
            return True
        log.warning("the worker's event loop is blocked: reporting what is known")
        same = msgspec.structs.replace(
            self.last.status, new_load=0.0, rej_load=0.0, cur_perf=0.0, additional_disk_usage=0.0
        )
        return await self._post(STATUS_PATH, encode(same), self.statuses) is not None

    # Ends...

    async def _tell_ends(self) -> None:
        while not self._stopping:
            if await self._send_ends():
                await asyncio.sleep(ENDS_EVERY)
            else:
                await asyncio.sleep(pause(self.ends.failures))

    async def _send_ends(self) -> bool:
        """Deliver every end there is, in order, in batches; says whether all are acknowledged."""
        while ends := await self._ends():
            body = DeleteRequests(
                worker_id=self._identity.container_id,
                mtoken=self._identity.master_token,
                requests=tuple(self._end(entry) for entry in ends),
            )
            if await self._post(DELETE_PATH, encode(body), self.ends, skip=NO_DELETES) is None:
                return False
            self._home.tell(partial(self._ledger.ends_taken, ends))
            if len(ends) < ENDS_BATCH:  # what has ended meanwhile goes with the next round, not one by one
                break
        return True

    async def _ends(self) -> tuple[Entry, ...]:
        try:
            return await self._home.call(partial(self._ledger.ends, ENDS_BATCH))
        except TimeoutError:
            return ()

    def _end(self, entry: Entry) -> EndedRequest:
        assert entry.outcome is not None
        return EndedRequest(
            request_idx=entry.request_idx,
            success=entry.outcome in {Outcome.SERVED, Outcome.CANCELLED},
            status=entry.outcome.value,
            entered_queue_at=self._unix(entry.entered_at),
            work_started_at=self._unix(entry.started_at),
            work_completed_at=self._unix(entry.ended_at),
        )

    def _unix(self, monotonic: float | None) -> float:
        return 0.0 if monotonic is None else monotonic + self._unix_offset

    async def _post(
        self, path: str, body: bytes, delivery: Delivery, *, skip: frozenset[str] = frozenset()
    ) -> str | None:
        """The address that took it; None when none did."""
        try:
            address = await self.client.post(path, body, skip=skip)
        except EngineError as error:
            delivery.failures += 1
            delivery.last_error = str(error)
            if delivery.failing_since is None:
                delivery.failing_since = time.monotonic()
                log.warning("engine does not take %s: %s (trying on, nothing is lost)", path, error)
            return None
        if delivery.failing_since is not None:
            log.info("engine takes %s again: after=%.1f s", path, time.monotonic() - delivery.failing_since)
        delivery.failures = 0
        delivery.failing_since = None
        delivery.acknowledged += 1
        delivery.last_acknowledged = time.monotonic()
        return address


def _disk_usage() -> float:
    """GiB used on the instance's disk."""
    return psutil.disk_usage("/").used / GIB
