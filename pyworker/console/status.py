"""The state of a worker in one JSON object: what `pyworker status` prints and the admin port serves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pyworker.core.ledger import Ledger
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.core.progress import Picture
from pyworker.core.redact import excerpt
from pyworker.core.sessions import Sessions
from pyworker.core.signature import Verifier
from pyworker.core.verdict import Verdict
from pyworker.engine.reporter import Delivery, Reporter
from pyworker.handler import Handler
from pyworker.loop_watch import LoopWatch
from pyworker.model.load_watch import LoadWatch
from pyworker.model.loading import Loading
from pyworker.model.perf import Perf
from pyworker.model.pool import ModelServer
from pyworker.model.service_watch import ServiceWatch
from pyworker.server.places import Places
from pyworker.server.tls import Certificate
from pyworker.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running worker that status is read from."""

    settings: Settings
    lifecycle: Lifecycle
    ledger: Ledger
    places: Places
    loading: Loading
    reporter: Reporter
    watch: LoopWatch
    handlers: Sequence[Handler]
    verifier: Verifier
    certificate: Certificate | None
    model_url: str
    model: ModelServer | None
    sessions: Sessions
    clients: Callable[[], int]
    """Open connections of clients."""


def status(parts: Parts) -> dict[str, Any]:
    """A JSON-ready picture of the worker now. Loads in the handlers' unit, times in seconds; holds no secret."""
    now = time.monotonic()
    life = parts.lifecycle
    verdict = parts.loading.verdict()
    tail = parts.loading.tail
    return {
        "state": life.state.value,
        "seconds_in_state": round(life.seconds_in_state(now), 3),
        "uptime": round(now - life.started_at, 3),
        "why": verdict.line,
        "why_not_ready": _why(verdict),
        "warnings": warnings(parts),
        "progress": _progress(parts.loading.load_watch, life.started_at),
        "loadtime": life.load_time,
        "perf": life.perf,
        "benchmark": _benchmark(parts.loading.perf),
        "in_service": _in_service(parts.loading.service),
        "history": [
            {"state": phase.state.value, "at": round(phase.since - life.started_at, 3)}
            for phase in life.history
        ],
        "requests": _requests(parts.ledger),
        "lanes": parts.places.status(),
        "engine": {
            "addresses": [excerpt(address) for address in parts.settings.report_addrs],
            "worker_status": _delivery(parts.reporter.statuses, now),
            "delete_requests": {
                **_delivery(parts.reporter.ends, now),
                "unreported": parts.ledger.unreported_ends,
            },
        },
        "last_report": _last_report(parts, now),
        "pending": _pending(parts, now),
        "event_loop": _event_loop(parts.watch),
        "routes": [handler.route for handler in parts.handlers],
        "public_url": parts.settings.public_url,
        "model_server": parts.model_url,
        "model_log": {
            "path": str(tail.path) if tail else None,
            "last_line": excerpt((tail.last_lines or [""])[-1]) if tail else None,
        },
        "certificate": _certificate(parts),
        "unsecured": parts.settings.unsecured,
        "settings_given": list(parts.settings.given),
    }


def warnings(parts: Parts) -> list[str]:
    """What the owner of the instance should know though the worker works; one sentence each."""
    found = []
    if parts.settings.unsecured:
        found.append(
            "UNSECURED=true: requests are not checked for a signature, anyone can use the model server"
        )
    if other := parts.verifier.other_url:
        found.append(
            f"a request was refused as the engine signed it for {other!r}, and this worker is {parts.verifier.own_url!r}: "
            "are PUBLIC_IPADDR and VAST_TCP_PORT_* still right? ALLOWED_URLS lets more URLs in"
        )
    if parts.certificate is not None and (told := parts.certificate.warning()):
        found.append(told)
    return found + _of_the_books(parts.ledger) + parts.loading.warnings()


def _of_the_books(ledger: Ledger) -> list[str]:
    found = []
    if ledger.lost_ends:
        found.append(
            f"{ledger.lost_ends} ended requests were given up, as more than {ledger.max_ended} waited for the engine: it may "
            "hold their load for ever; JOURNAL_MAX_SIZE makes room for more"
        )
    if ledger.unjournaled:
        found.append(
            f"{ledger.unjournaled} requests found the journal full: if the worker had been killed, they would have been lost"
        )
    if ledger.without_journal:
        found.append(
            f"no journal, so a killed worker loses what it had not reported: {ledger.without_journal}"
        )
    return found


def _certificate(parts: Parts) -> dict[str, Any] | None:
    """The certificate that is served, and until when; None without TLS."""
    if parts.certificate is None:
        return None
    expires = parts.certificate.expires
    return {
        "path": str(parts.settings.ssl_cert_file),
        "expires": None if expires is None else expires.isoformat(timespec="seconds"),
        "problem": parts.certificate.problem,
    }


def _why(verdict: Verdict) -> dict[str, Any]:
    """The evidence of "why not ready?"."""
    return {
        "signals": [asdict(signal) for signal in verdict.signals],
        "likely_cause": str(verdict.cause) if verdict.cause is not None else "",
    }


def _benchmark(perf: Perf) -> dict[str, Any] | None:
    found = perf.result
    if found is None:
        return None
    curve = perf.runner.curve if perf.runner is not None else ()
    return {**asdict(found), "source": perf.source, "curve": [asdict(point) for point in curve]}


def _progress(watch: LoadWatch, started_at: float) -> dict[str, Any]:
    """Stages with the seconds after the start at which they began, how far the present one is, and what was told of it."""
    return {
        **progress_picture(watch.progress.picture()),
        "stages": [
            {"stage": leg.stage.value, "at": round(leg.since - started_at, 3)} for leg in watch.progress.legs
        ],
        "events": [
            {"at": round(event.at - started_at, 3), "event": "progress", **progress_picture(event.picture)}
            for event in watch.events
        ],
    }


def progress_picture(picture: Picture) -> dict[str, Any]:
    return {
        "stage": picture.stage.value,
        "words": picture.words(),
        "bytes": round(picture.done),
        "bytes_per_second": round(picture.per_second),
        "bytes_total": None if picture.total is None else round(picture.total),
        "percent": None if picture.percent is None else round(picture.percent, 1),
        "seconds_left": None if picture.left is None else round(picture.left, 1),
    }


def _in_service(watch: ServiceWatch) -> dict[str, Any]:
    """Load per second served, and promised by the benchmark for what was in flight; a warning where they part for long."""
    seen = watch.drift.seen
    return {
        "promised": None if seen is None else round(seen.promised, 3),
        "served": None if seen is None else round(seen.served, 3),
        "warning": watch.gap.words() if watch.gap is not None else "",
    }


def _requests(ledger: Ledger) -> dict[str, Any]:
    def pair(load: float, count: int) -> dict[str, float]:
        return {"load": load, "count": count}

    ended = ledger.ended
    return {
        "received": pair(ledger.received.load, ledger.received.count),
        "rejected": pair(ledger.rejected.load, ledger.rejected.count),
        "served": pair(ended[Outcome.SERVED].load, ended[Outcome.SERVED].count),
        "failed": pair(ended[Outcome.FAILED].load, ended[Outcome.FAILED].count),
        "cancelled": pair(ended[Outcome.CANCELLED].load, ended[Outcome.CANCELLED].count),
        "in_flight": pair(ledger.load_in_flight, len(ledger.in_flight)),
    }


def _last_report(parts: Parts, now: float) -> dict[str, Any] | None:
    """The newest acknowledged report: when it was sent and taken, and every field with what it was computed from."""
    last = parts.reporter.last
    if last is None:
        return None
    return {
        "sent_seconds_ago": round(now - last.sent_at, 3),
        "seconds_since_acknowledged": round(now - last.acknowledged_at, 3),
        "answered_after": round(last.acknowledged_at - last.sent_at, 3),
        "address": excerpt(last.address),
        "fields": {
            name: {
                "value": figure.value,
                "means": figure.means,
                "terms": [{"name": one.name, "value": one.value + 0.0} for one in figure.terms],  # no -0.0
                "formula": figure.formula,
            }
            for name, figure in last.figures.items()
        },
    }


def _pending(parts: Parts, now: float) -> dict[str, Any]:
    """What the engine has not acknowledged yet."""
    new, rejected, served = parts.ledger.undelivered
    since, failing = parts.reporter.under_way_since, parts.reporter.statuses.failing_since
    return {
        "new_load": new,
        "rej_load": rejected,
        "cur_perf": served,
        "ended_requests": parts.ledger.unreported_ends,
        "report_under_way_for": None if since is None else round(now - since, 3),
        "failing_for": None if failing is None else round(now - failing, 3),
    }


def _event_loop(watch: LoopWatch) -> dict[str, Any]:
    worst = watch.worst
    blocked = None if worst is None else {"seconds": worst.seconds, "route": worst.route, "at": worst.where}
    return {"lag": round(watch.lag, 4), "blocks": watch.blocks, "worst": blocked}


def _delivery(delivery: Delivery, now: float) -> dict[str, Any]:
    since = delivery.last_acknowledged
    return {
        "acknowledged": delivery.acknowledged,
        "failures_in_a_row": delivery.failures,
        "last_error": delivery.last_error if delivery.failures else "",
        "seconds_since_acknowledged": None if since is None else round(now - since, 3),
    }
