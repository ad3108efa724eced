"""What Prometheus scrapes: the figures of status as metrics, in its text form or OpenMetrics'.

Names and units follow Prometheus' conventions; labels are routes, outcomes, lanes, states and GPUs, so their number is
bounded. Loads are in the handlers' unit.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from pyworker.console.scrape import Exposition
from pyworker.console.status import Parts
from pyworker.core.lifecycle import State
from pyworker.core.outcome import Outcome
from pyworker.core.traffic import Durations
from pyworker.core.wire import PROTOCOL_VERSION
from pyworker.engine.reporter import Delivery
from pyworker.model.gauges import Gauges, Gpu

OUTCOMES: Final = {
    Outcome.SERVED: "served",
    Outcome.FAILED: "failed",
    Outcome.CANCELLED: "cancelled",
    Outcome.REJECTED: "rejected",
}


class Metrics:
    """The metrics of one worker."""

    def __init__(self, parts: Parts) -> None:
        self._registry = CollectorRegistry()
        self._figures = _Figures(parts)
        self._registry.register(self._figures)
        self._process = ProcessCollector(registry=None)

    def outside(self, gauges: Gauges) -> list[Metric]:
        """What the operating system and the GPUs say; may block."""
        return [*self._process.collect(), *_of_gpus(gauges.gpus())]

    def exposition(self, accept: str, outside: Sequence[Metric]) -> Exposition:
        """For a client that takes ``accept``; ``outside`` goes with the worker's own."""
        self._figures.outside = outside
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Figures(Collector):
    """Reads everything at the moment of the scrape."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.outside: Sequence[Metric] = ()

    def collect(self) -> Iterator[Metric]:
        yield from self._life()
        yield from self._requests()
        yield from self._now()
        yield from self._engine()
        yield from self._health()
        yield from self.outside

    def describe(self) -> Iterator[Metric]:
        """Nothing is known before the first scrape."""
        return iter(())

    def _life(self) -> Iterator[Metric]:
        parts, life = self._parts, self._parts.lifecycle
        yield InfoMetricFamily(
            "pyworker", "Protocol of this worker.", value={"protocol_version": PROTOCOL_VERSION}
        )
        states = {state.value: state is life.state for state in State}
        yield StateSetMetricFamily("pyworker_state", "State of the worker; one of them is 1.", value=states)
        yield _gauge(
            "pyworker_load_time_seconds", "Seconds from start to ready; 0 until then.", life.load_time or 0
        )
        yield _gauge("pyworker_perf", "Load per second that the benchmark measured; 0 until then.", life.perf)
        yield _gauge(
            "pyworker_unsecured", "1 when requests are not checked for a signature.", parts.settings.unsecured
        )
        yield from self._drift()

    def _drift(self) -> Iterator[Metric]:
        gap = self._parts.loading.service.drift.gap
        lasting = self._parts.loading.service.gap is not None
        yield _gauge(
            "pyworker_perf_drift",
            "1 when service has differed from the benchmark by over 30 % for long.",
            lasting,
        )
        if gap is not None:
            yield _gauge(
                "pyworker_perf_promised",
                "Load per second the benchmark promises for what was in flight.",
                gap.promised,
            )
            yield _gauge("pyworker_perf_served", "Load per second that was served of it.", gap.served)

    def _requests(self) -> Iterator[Metric]:
        labels = ("route", "outcome")
        counts = CounterMetricFamily("pyworker_requests", "Signed requests that ended.", labels=labels)
        loads = CounterMetricFamily("pyworker_load", "Load of signed requests that ended.", labels=labels)
        queued = _durations(
            "pyworker_request_queue_seconds", "From a request's arrival until the model server was asked."
        )
        first = _durations(
            "pyworker_request_first_byte_seconds",
            "From then until the first byte of its answer's body went out.",
        )
        total = _durations("pyworker_request_duration_seconds", "From a request's arrival to its end.")
        for name, route in sorted(self._parts.ledger.traffic.routes.items()):
            for outcome, word in OUTCOMES.items():
                counts.add_metric((name, word), route.counts[outcome])
                loads.add_metric((name, word), route.loads[outcome])
            for family, durations in (
                (queued, route.queued),
                (first, route.first_byte),
                (total, route.total),
            ):
                _add(family, name, durations)
        yield from (counts, loads, queued, first, total)

    def _now(self) -> Iterator[Metric]:
        parts = self._parts
        ledger = parts.ledger
        yield _gauge("pyworker_requests_in_flight", "Requests queued and working.", ledger.requests_in_flight)
        yield _gauge("pyworker_load_in_flight", "Load queued and working.", ledger.load_in_flight)
        running = GaugeMetricFamily("pyworker_lane_running", "Requests of a lane that run.", labels=("lane",))
        waiting = GaugeMetricFamily(
            "pyworker_lane_waiting", "Requests of a lane that wait.", labels=("lane",)
        )
        for name, lane in parts.places.status().items():
            running.add_metric((name,), lane["running"])
            waiting.add_metric((name,), lane["waiting"])
        yield from (running, waiting)
        connections = GaugeMetricFamily("pyworker_connections", "Open connections.", labels=("peer",))
        connections.add_metric(("client",), parts.clients())
        if parts.model is not None:
            connections.add_metric(("model",), parts.model.open_connections)
        yield connections
        yield _gauge("pyworker_sessions", "Open sessions.", len(parts.sessions))

    def _engine(self) -> Iterator[Metric]:
        reporter = self._parts.reporter
        named = {"worker_status": reporter.statuses, "delete_requests": reporter.ends}
        taken = CounterMetricFamily(
            "pyworker_reports", "Reports that the engine acknowledged.", labels=("report",)
        )
        failing = GaugeMetricFamily(
            "pyworker_report_failures", "Reports in a row that failed.", labels=("report",)
        )
        age = GaugeMetricFamily(
            "pyworker_report_age_seconds", "Seconds since the engine acknowledged one.", labels=("report",)
        )
        for name, delivery in named.items():
            taken.add_metric((name,), delivery.acknowledged)
            failing.add_metric((name,), delivery.failures)
            if (seconds := _age(delivery)) is not None:
                age.add_metric((name,), seconds)
        yield from (taken, failing, age)
        ledger = self._parts.ledger
        yield _gauge(
            "pyworker_unreported_ends", "Ended requests the engine does not know of.", ledger.unreported_ends
        )
        yield _counter("pyworker_lost_ends", "Ended requests given up, as too many waited.", ledger.lost_ends)

    def _health(self) -> Iterator[Metric]:
        watch, tail = self._parts.watch, self._parts.loading.tail
        yield _gauge("pyworker_loop_lag_seconds", "How late the event loop came to its last beat.", watch.lag)
        yield _counter(
            "pyworker_loop_blocks", "Times the event loop stood still for 0.25 s or more.", watch.blocks
        )
        if tail is not None:
            yield _counter(
                "pyworker_model_log_bytes", "Bytes read of the model server's log.", tail.bytes_read
            )
            yield _gauge("pyworker_model_log_unread_bytes", "Bytes of it that wait to be read.", tail.unread)


def _of_gpus(gpus: Sequence[Gpu]) -> list[Metric]:
    labels = ("gpu", "name")
    used = GaugeMetricFamily("pyworker_gpu_memory_used_bytes", "Memory in use on a GPU.", labels=labels)
    there = GaugeMetricFamily("pyworker_gpu_memory_bytes", "Memory of a GPU.", labels=labels)
    busy = GaugeMetricFamily("pyworker_gpu_utilization_ratio", "Share of time a GPU was busy.", labels=labels)
    for gpu in gpus:
        key = (str(gpu.index), gpu.name)
        used.add_metric(key, gpu.memory_used)
        there.add_metric(key, gpu.memory)
        busy.add_metric(key, gpu.utilization)
    return [used, there, busy] if gpus else []


def _gauge(name: str, means: str, value: float) -> Metric:
    return GaugeMetricFamily(name, means, value=float(value))


def _counter(name: str, means: str, value: float) -> Metric:
    return CounterMetricFamily(name, means, value=float(value))


def _durations(name: str, means: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, means, labels=("route",))


def _add(family: HistogramMetricFamily, route: str, durations: Durations) -> None:
    buckets = [
        ("+Inf" if bound == float("inf") else str(bound), count) for bound, count in durations.cumulative()
    ]
    family.add_metric((route,), buckets, durations.sum)


def _age(delivery: Delivery) -> float | None:
    at = delivery.last_acknowledged
    return None if at is None else time.monotonic() - at
