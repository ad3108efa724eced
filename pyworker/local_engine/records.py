"""The JSON that clients of the engine read and write, beside what `pyworker.core.wire` has; checked as it is read.

Names are the wire's. Times are Unix seconds.
"""

import json
from typing import Any, Final, TypeVar

import msgspec

from pyworker.core.signature import Origin
from pyworker.core.wire import PROTOCOL_VERSION, WorkerStatus
from pyworker.local_engine.pool_worker import PoolWorker, Status, status_of
from pyworker.local_engine.refusals import BadCall

Body = TypeVar("Body")

LARGEST: Final = 2**63 - 1
"""Whole numbers above it are no longer the same in every JSON reader."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoint as lists of endpoints show it. What concerns scaling is null: nothing here scales."""

    id: int
    endpoint_name: str
    api_key: str
    created_at: float
    user_id: int = 1
    endpoint_state: str = "active"
    min_load: float | None = None
    min_cold_load: float | None = None
    target_util: float | None = None
    cold_mult: float | None = None
    cold_workers: int | None = None
    max_workers: int | None = None
    max_queue_time: float | None = None
    target_queue_time: float | None = None
    inactivity_timeout: float | None = None


class WorkersRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of POST /get_endpoint_workers/: ``id`` is the endpoint's."""

    id: int
    api_key: str = ""


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as /get_endpoint_workers/ shows it; loads and perf as it last reported them.

    ``dlperf``, ``reliability`` and ``gpu_name`` rate rented machines: here they are unknown and 0 or empty.
    """

    id: int
    status: str
    cur_load: float
    new_load: float
    cur_load_rolling_avg: float
    cur_perf: float
    perf: float
    measured_perf: float
    reqs_working: int
    disk_usage: float
    loaded_at: float
    started_at: float
    dlperf: float = 0.0
    reliability: float = 0.0
    gpu_name: str = ""

    @classmethod
    def of(cls, worker: PoolWorker, *, unix_offset: float) -> "WorkerRecord":
        """``unix_offset`` turns monotonic seconds into Unix seconds; ``loaded_at`` is 0 until the worker was ready."""
        report = worker.report
        return cls(
            id=worker.id,
            status=worker.status.value,
            cur_load=report.cur_load,
            new_load=report.new_load,
            cur_load_rolling_avg=worker.load_average,
            cur_perf=report.cur_perf,
            perf=report.max_perf,
            measured_perf=report.max_perf,
            reqs_working=report.num_requests_working,
            disk_usage=report.disk_usage,
            loaded_at=0.0 if worker.ready_at is None else worker.ready_at + unix_offset,
            started_at=worker.started_at + unix_offset,
        )


class _Version(msgspec.Struct):
    version: str = ""


def read(body: bytes, kind: type[Body]) -> Body:
    """The body as a ``kind``. Raises `BadCall` that says what is wrong, never what was sent."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadCall(f"the body is not what this route takes: {error}") from error


def read_status(body: bytes) -> WorkerStatus:
    """A worker's report. Raises `BadCall`, for an unknown protocol version before anything else is looked at."""
    version = read(body, _Version).version
    if version != PROTOCOL_VERSION:
        raise BadCall(f"unknown protocol version {version[:20]!r}: this engine speaks {PROTOCOL_VERSION}")
    report = read(body, WorkerStatus)
    if not (0 <= report.id <= LARGEST and 0 <= report.num_requests_working <= LARGEST):
        raise BadCall("id and num_requests_working must be whole numbers, 0 or more")
    if report.url or status_of(report) is Status.READY:
        _check_url(report.url)
    return report


def _check_url(url: str) -> None:
    try:
        Origin.of(url)
    except ValueError as error:
        raise BadCall(f"clients cannot reach this worker: {error}") from error
    if not url.isprintable():
        raise BadCall("clients cannot reach this worker: its url has control characters")


def body_key(body: bytes) -> str:
    """The ``api_key`` of a body that may be anything or nothing: the official tools send one with GET, too."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    key = value.get("api_key") if isinstance(value, dict) else None
    return key if isinstance(key, str) else ""


def cost_of(cost: float | str) -> float:
    """A cost as a number: it arrives as a string or a number. Raises `BadCall`."""
    try:
        return float(cost)
    except ValueError as error:
        raise BadCall("cost must be a number, or a string that is one") from error


def cost_text(cost: float) -> str:
    """A cost as a grant carries it: ``256``, not ``256.0``."""
    return str(int(cost)) if cost.is_integer() else repr(cost)
