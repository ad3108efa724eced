"""Which worker is next; who is gone, which load is released.

Nothing here waits, logs or reads a clock: ``now`` (monotonic seconds) is passed in. What becomes true by time alone
becomes true when `Pool.advance` is called, which `Pool.route` does by itself.
"""

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pyworker.core.wire import DeleteRequests, WorkerStatus
from pyworker.local_engine.pool_worker import END_STATUSES, PoolWorker, Status, same_secret, status_of
from pyworker.local_engine.refusals import BadCall, PoolFull, UnknownEndpoint, WrongToken

MAX_WORKERS: Final = 1000
"""Workers kept; past it the one that has been gone for longest is forgotten."""

MAX_HELD: Final = 10_000
"""Requests held against one worker, far above what it could queue; past it clients wait here instead."""

MAX_CHANGES: Final = 1000
MAX_COST: Final = 1e12
"""Load of one request. Keeps sums of loads far from where floats get coarse."""

MAX_INDEX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Routed:
    """A request was given to a worker."""

    worker_id: int
    url: str
    request_idx: int
    reqnum: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """No worker can take the request now; ``status`` says why."""

    request_idx: int
    status: str


@dataclass(frozen=True, slots=True)
class Change:
    """A worker's state changed; ``before`` is None for its first report, ``error`` what it is errored with."""

    worker_id: int
    before: Status | None
    after: Status
    url: str
    perf: float
    error: str


class Pool:
    """The workers of one endpoint.

    ``gone_after``: seconds without a report after which a worker is gone. ``hold_timeout``: seconds after which a
    held request that no report names is released. ``mtoken``: the one token workers may come with; None binds each
    worker id to the token of its first report.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        gone_after: float = 30.0,
        hold_timeout: float = 60.0,
        mtoken: str | None = None,
        max_workers: int = MAX_WORKERS,
        max_held: int = MAX_HELD,
    ) -> None:
        self.endpoint = endpoint
        self.unknown_ends = 0
        """Ended requests that were not held: from before this engine started, or released already."""
        self.timed_out = 0
        """Held requests released because no report named them."""
        self._gone_after = gone_after
        self._hold_timeout = hold_timeout
        self._mtoken = mtoken
        self._max_workers = max_workers
        self._max_held = max_held
        self._workers: dict[int, PoolWorker] = {}
        self._next_index = 1
        self._changes: deque[Change] = deque(maxlen=MAX_CHANGES)

    @property
    def workers(self) -> Mapping[int, PoolWorker]:
        """By id, in the order in which they first reported."""
        return MappingProxyType(self._workers)

    # What workers say...

    def report(self, report: WorkerStatus, now: float) -> PoolWorker:
        """Take a worker's report in. Raises `WrongToken` and `PoolFull`."""
        self._check_token(report.id, report.mtoken)
        self.advance(now)
        worker = self._workers.get(report.id)
        before = worker.status if worker else None
        if worker is None:
            self._make_room()
            worker = self._workers[report.id] = PoolWorker(report, now)
        worker.take(report, now)
        self._move(worker, before, status_of(report))
        if worker.status is Status.READY and worker.ready_at is None:
            worker.ready_at = now
        return worker

    def end(self, message: DeleteRequests) -> int:
        """Release the load of requests that ended; returns how many were held.

        Requests of a worker never heard of are taken too: it may have started before this engine did. Raises
        `WrongToken`, and `BadCall` for a status the protocol does not have; then none of them counts.
        """
        self._check_token(message.worker_id, message.mtoken)
        for ended in message.requests:
            if ended.status not in END_STATUSES:
                raise BadCall(f"status must be one of {', '.join(END_STATUSES)}, not {ended.status[:100]!r}")
        worker = self._workers.get(message.worker_id)
        held = sum(worker.end(ended) for ended in message.requests) if worker else 0
        self.unknown_ends += len(message.requests) - held
        return held

    def _check_token(self, worker_id: int, token: str) -> None:
        worker = self._workers.get(worker_id)
        if self._mtoken is not None and not same_secret(self._mtoken, token):
            raise WrongToken(worker_id)
        if worker is not None and not worker.knows(token):
            raise WrongToken(worker_id)

    def _make_room(self) -> None:
        if len(self._workers) < self._max_workers:
            return
        gone = [worker for worker in self._workers.values() if worker.status is Status.GONE]
        if not gone:
            raise PoolFull(f"{self._max_workers} workers report here already")
        del self._workers[min(gone, key=_silent_since).id]

    # What clients ask...

    def route(self, cost: float, request_idx: int | None, endpoint: str, now: float) -> Routed | Waiting:
        """Give a request of ``cost`` load to the ready worker with the shortest expected queue, and hold it there.

        ``request_idx`` None or 0 asks for a new one; a client that comes again keeps its own. Raises
        `UnknownEndpoint`, and `BadCall` for a cost or an index that is none.
        """
        if endpoint != self.endpoint:
            raise UnknownEndpoint(f"no endpoint {endpoint[:200]!r}; known: {self.endpoint}")
        if not (math.isfinite(cost) and 0 <= cost <= MAX_COST):
            raise BadCall(f"cost must be a number from 0 to {MAX_COST:g}")
        if request_idx is not None and not 0 <= request_idx <= MAX_INDEX:
            raise BadCall("request_idx must be a whole number, 0 or more")
        self.advance(now)
        index = request_idx or self._new_index()
        ready = [worker for worker in self._workers.values() if self._can_take(worker)]
        if not ready:
            return Waiting(index, self._why_waiting())
        # Among equal queues the one that has rested longest.
        worker = min(ready, key=lambda one: (one.expected_queue, one.routed_at))
        worker.hold(index, cost, now)
        return Routed(worker.id, worker.report.url, index, worker.reqnum)

    def _new_index(self) -> int:
        index = self._next_index
        self._next_index += 1
        return index

    def _can_take(self, worker: PoolWorker) -> bool:
        return worker.status is Status.READY and worker.held < self._max_held

    def _why_waiting(self) -> str:
        if not self._workers:
            return "no worker has reported yet"
        states = Counter(worker.status.value for worker in self._workers.values())
        counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        full = " (full)" if states[Status.READY.value] else ""
        return f"no worker is ready: {counts}{full}"

    # What time changes...

    def advance(self, now: float) -> None:
        """Make true what is true by ``now``: who does not report is gone, what nobody will end is released."""
        for worker in self._workers.values():
            if now - worker.reported_at >= self._gone_after:
                self._move(worker, worker.status, Status.GONE)
            self.timed_out += worker.release_unseen(now - self._hold_timeout)

    def _move(self, worker: PoolWorker, before: Status | None, after: Status) -> None:
        worker.status = after
        if before is after:
            return
        report = worker.report
        error = report.error_msg if after is Status.ERROR else ""
        self._changes.append(Change(worker.id, before, after, report.url, report.max_perf, error))

    def take_changes(self) -> list[Change]:
        """The changes of state since the last call, in order: for whoever tells people."""
        changes = list(self._changes)
        self._changes.clear()
        return changes


def _silent_since(worker: PoolWorker) -> float:
    return worker.reported_at
