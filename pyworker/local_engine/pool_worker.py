"""One worker as its reports describe it, and the requests held against it.

A request is *held* from the moment it was routed here until the worker says that it ended: its load is queue that the
worker has, or is about to have. The ``cur_load`` of a report is the same load seen from the other side, so it is never
added to it.

Units: load, perf in load per second, every ``now`` in monotonic seconds.
"""

import hmac
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from pyworker.core.wire import EndedRequest, WorkerStatus

END_STATUSES: Final = ("Success", "Error", "Cancelled", "Rejected")
"""What a request can end as, in the wire's words."""

AVERAGED_OVER: Final = 60.0
"""Seconds after which a load weighs 1/e in the rolling average: a minute, so that one report is not the picture."""


class Status(Enum):
    """State of a worker, in the words clients read."""

    LOADING = "model_loading"
    READY = "idle"
    ERROR = "error"
    GONE = "stopped"
    """It stopped reporting."""


@dataclass(slots=True, eq=False)
class Hold:
    """A request routed here that is not known to have ended."""

    request_idx: int
    load: float
    seen_at: float
    """When it was routed, or last named by a report as being worked on."""


@dataclass(slots=True)
class Totals:
    """What a worker's acknowledged reports add up to."""

    reports: int = 0
    received: int = 0
    """Requests (``num_requests_recieved``), counted on when the worker starts again from 0."""
    new_load: float = 0.0
    served_load: float = 0.0
    """Sum of ``cur_perf``."""
    rejected_load: float = 0.0
    ended: dict[str, int] = field(default_factory=lambda: dict.fromkeys(END_STATUSES, 0))
    """Entries of ``delete_requests`` by status."""


class PoolWorker:
    """A worker that has reported; ``report`` is its first report."""

    def __init__(self, report: WorkerStatus, now: float) -> None:
        self.report = report
        """The newest one."""
        self.reported_at = now
        self.started_at = now
        self.ready_at: float | None = None
        """When it was first seen ready."""
        self.status = Status.LOADING
        self.totals = Totals()
        self.load_average = report.cur_load
        self.routed_at = -math.inf
        self.reqnum = 0
        """Grants given for this worker so far."""
        self.held_load = 0.0
        # In the order of `Hold.seen_at`, the oldest first: what is due to be released stands in front.
        self._holds: dict[Hold, None] = {}
        self._by_index: defaultdict[int, deque[Hold]] = defaultdict(deque)

    @property
    def id(self) -> int:
        return self.report.id

    @property
    def held(self) -> int:
        """Requests held."""
        return len(self._holds)

    @property
    def expected_queue(self) -> float:
        """Seconds until what is held is worked off."""
        if not self._holds:
            return 0.0
        return self.held_load / self.report.max_perf if self.report.max_perf > 0 else math.inf

    def knows(self, token: str) -> bool:
        """Whether ``token`` is the one its first report came with."""
        return same_secret(self.report.mtoken, token)

    # What it reports...

    def take(self, report: WorkerStatus, now: float) -> None:
        """Take a report in: the figures it adds, and which held requests it names as being worked on."""
        self.totals.reports += 1
        self.totals.new_load += report.new_load
        self.totals.served_load += report.cur_perf
        self.totals.rejected_load += report.rej_load
        known = self.report.num_requests_recieved if self.totals.reports > 1 else 0
        fresh = report.num_requests_recieved - known
        self.totals.received += fresh if fresh >= 0 else report.num_requests_recieved
        weight = -math.expm1((self.reported_at - now) / AVERAGED_OVER)
        self.load_average += weight * (report.cur_load - self.load_average)
        self.report = report
        self.reported_at = now
        self._see(report.working_request_idxs, now)

    def _see(self, working: Iterable[int], now: float) -> None:
        # One request_idx may be held more often than it is worked on (a client that never came, then tried again):
        # each mention speaks for one, the oldest first, as each end releases one, the oldest first.
        for index, times in Counter(working).items():
            for _, hold in zip(range(times), self._by_index.get(index, ()), strict=False):
                hold.seen_at = now
                del self._holds[hold]
                self._holds[hold] = None

    # The life of a hold...

    def hold(self, request_idx: int, load: float, now: float) -> None:
        """Hold a request just routed here."""
        hold = Hold(request_idx, load, now)
        self._holds[hold] = None
        self._by_index[request_idx].append(hold)
        self.held_load += load
        self.routed_at = now
        self.reqnum += 1

    def end(self, ended: EndedRequest) -> bool:
        """Count a request that ended and release one hold of its index; says whether there was one."""
        self.totals.ended[ended.status] += 1
        holds = self._by_index.get(ended.request_idx)
        if not holds:
            return False
        self._release(holds[0])
        return True

    def release_unseen(self, since: float) -> int:
        """Release what was last seen at ``since`` or before: nobody is going to end it. Returns how many."""
        due = []
        for hold in self._holds:
            if hold.seen_at > since:
                break
            due.append(hold)
        for hold in due:
            self._release(hold)
        return len(due)

    def _release(self, hold: Hold) -> None:
        del self._holds[hold]
        holds = self._by_index[hold.request_idx]
        holds.remove(hold)
        if not holds:
            del self._by_index[hold.request_idx]
        # Sums of floats drift; with nothing left the truth is known.
        self.held_load = self.held_load - hold.load if self._holds else 0.0


def status_of(report: WorkerStatus) -> Status:
    """The state that a report describes."""
    if report.error_msg:
        return Status.ERROR
    return Status.READY if report.loadtime > 0 else Status.LOADING


def same_secret(one: str, other: str) -> bool:
    """Compare in constant time, whatever characters the other side sent."""
    return hmac.compare_digest(one.encode(errors="backslashreplace"), other.encode(errors="backslashreplace"))
