"""Why the figures of a report are what they are: each field with the terms it was computed from, and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import copysign
from typing import Any, Final

from pyworker.core.ledger import Report
from pyworker.core.wire import WorkerStatus

_SINCE: Final = "since the last acknowledged report"
_MEANS: Final = {
    "id": "the instance: CONTAINER_ID",
    "mtoken": "MASTER_TOKEN, not shown",
    "version": "of the protocol",
    "loadtime": "seconds from start to ready; 0 until then",
    "cur_load": "load queued and working now; an open session counts its cost",
    "new_load": f"load admitted, less load cancelled, {_SINCE}; never below 0",
    "cur_perf": f"load served {_SINCE}",
    "rej_load": f"load turned away (422, 429, 503) {_SINCE}",
    "max_perf": "load per second: what the benchmark measured, or BENCHMARK_PERF; 0 until then",
    "cur_capacity": "always 0",
    "max_capacity": "always 0",
    "num_requests_working": "requests queued and working, and open sessions",
    "num_requests_recieved": "requests whose signature held since the start: admitted and turned away",
    "working_request_idxs": "what the engine knows them by",
    "error_msg": "why the worker is errored or draining; empty otherwise",
    "disk_usage": "GiB used on /",
    "additional_disk_usage": f"GiB by which that changed {_SINCE}",
    "url": "where clients reach this worker: PUBLIC_IPADDR and VAST_TCP_PORT_<WORKER_PORT>",
}
MOST_INDEXES: Final = 100
HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Term:
    """A named part of a figure, with the sign it has in it."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Figure:
    """A field of a report: its value, what it means, and the terms that it is the sum of (none: nothing was computed)."""

    value: Any
    means: str
    terms: tuple[Term, ...] = ()

    @property
    def formula(self) -> str:
        """The terms as a sum; if that is below 0 where the wire has no such thing, that, too."""
        text = " ".join(f"{_sign(one.value)} {one.name} {abs(one.value):.10g}" for one in self.terms)
        text = text.removeprefix("+ ")
        total = sum(one.value for one in self.terms)
        below = self.terms and isinstance(self.value, float) and total < 0 == self.value
        return (
            f"{text} = {total:.10g}: told as 0, the rest is carried into the next report" if below else text
        )


def reckoning(report: Report, status: WorkerStatus, *, told_disk: float | None) -> dict[str, Figure]:
    """Every field of ``status``, which was made of ``report``; ``told_disk``: the GiB that the engine knew before."""
    before = status.disk_usage if told_disk is None else told_disk
    terms = {
        **_loads(report),
        "additional_disk_usage": (Term("used now", status.disk_usage), Term("used then", -before)),
    }
    values = {name: getattr(status, name) for name in status.__struct_fields__}
    values["mtoken"] = HIDDEN
    values["working_request_idxs"] = list(status.working_request_idxs[:MOST_INDEXES])
    return {name: Figure(value, _MEANS[name], terms.get(name, ())) for name, value in values.items()}


def _loads(report: Report) -> dict[str, tuple[Term, ...]]:
    now, then = report.sums, report.known
    sessions, beyond = now.sessions - then.sessions, now.beyond - then.beyond
    inside, rests = now.inside - then.inside, now.rests - then.rests
    new, rejected, served = report.carried
    outside, turned_away = report.working_outside, report.turned_away
    return {
        "new_load": (
            Term("admitted outside of sessions", now.admitted - then.admitted - sessions - beyond),
            Term("sessions opened, their cost", sessions),
            Term("admitted beyond sessions' cost", beyond),
            Term("cancelled", -(now.cancelled - then.cancelled)),
            *_carried(new),
        ),
        "cur_perf": (
            Term("served outside of sessions", now.served - then.served - inside - rests),
            Term("served inside of sessions", inside),
            Term("rest of the cost of sessions that closed", rests),
            *_carried(served),
        ),
        "rej_load": (Term("turned away", now.rejected - then.rejected), *_carried(rejected)),
        "cur_load": (
            Term("requests outside of sessions", report.current_load - report.sessions_load),
            Term("open sessions, their cost", report.sessions_load),
        ),
        "num_requests_working": (
            Term("requests outside of sessions", outside),
            Term("open sessions", len(report.working) - outside),
        ),
        "num_requests_recieved": (
            Term("admitted", report.received - turned_away),
            Term("turned away", turned_away),
        ),
    }


def _carried(load: float) -> Sequence[Term]:
    """What was told too much before (below 0), or left by a worker that was killed."""
    name = "left by the worker before this one" if load > 0 else "carried from the last report"
    return (Term(name, load or -0.0),)


def _sign(value: float) -> str:
    return "-" if copysign(1.0, value) < 0 else "+"
