"""Everything that brings the model server up, watches it, and can say why it is not ready: built once, run together."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from pyworker.core.ledger import Ledger, SessionEntry
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.liveness import Working
from pyworker.core.log_lines import LineScanner
from pyworker.core.redact import excerpt
from pyworker.core.verdict import Facts, LogFacts, Verdict, verdict
from pyworker.handler import Handler
from pyworker.model.benchmark import BenchmarkRunner
from pyworker.model.gauges import Gauges
from pyworker.model.identity import identity
from pyworker.model.load_watch import LoadWatch
from pyworker.model.log_tail import LogTail
from pyworker.model.measure import Measure
from pyworker.model.perf import Perf
from pyworker.model.perf_cache import PerfCache, PerfKey
from pyworker.model.pool import ModelServer
from pyworker.model.probe import HealthWatch
from pyworker.model.proof import Proof
from pyworker.model.serve_watch import ServeWatch
from pyworker.model.service_watch import ServiceWatch
from pyworker.model.startup import Startup
from pyworker.settings import Settings, setting

PERF_FILE: Final = "perf.json"


class Loading:
    """``loaded_patterns`` are those of the log that mean loaded; ``key_missing`` says why the engine's key is not here."""

    def __init__(
        self,
        *,
        settings: Settings,
        lifecycle: Lifecycle,
        ledger: Ledger,
        announce: Callable[[], None],
        handlers: Sequence[Handler],
        model: ModelServer | None,
        health: tuple[ModelServer, str] | None,
        log_path: Path | None,
        scanner: LineScanner,
        loaded_patterns: Sequence[str],
        context: AbstractAsyncContextManager[Any] | None,
        key_is_here: asyncio.Event,
        port_is_open: asyncio.Event,
        key_missing: Callable[[], str],
        gauges: Gauges,
        model_size: float | None,
    ) -> None:
        self._settings = settings
        self._lifecycle = lifecycle
        self._announce = announce
        self._ledger = ledger
        self._model = model
        self._gauges = gauges
        self._patterns = tuple(loaded_patterns)
        self._key_missing = key_missing
        self._carrier = next((one for one in handlers if one.benchmark is not None), None)
        self._allowances = {
            one.route: one.stall_timeout or settings.serve_stall_timeout
            for one in handlers
            if one.call is None
        }
        measure = Measure(self._carrier, model) if self._carrier is not None else None
        self.proof = Proof(measure) if measure is not None else None
        self.perf = self._perf(measure)
        self.health = HealthWatch(*health, last_byte_at=self._last_byte_at) if health is not None else None
        self.startup = Startup(
            lifecycle=lifecycle,
            announce=self._changed,
            proof=self.proof,
            perf=self.perf,
            health=self.health,
            waits_for_hint=(log_path is not None and bool(loaded_patterns)) or context is not None,
            context=context,
            key_is_here=key_is_here,
            port_is_open=port_is_open,
        )
        self.tail = LogTail(log_path, scanner=scanner, on_event=self.startup.log_event) if log_path else None
        self.load_watch = LoadWatch(
            lifecycle=lifecycle,
            gauges=gauges,
            tail=self.tail,
            size=model_size,
            load_timeout=settings.load_timeout,
            stall_timeout=settings.load_stall_timeout,
        )
        self._serve_watch = self._serve_watch_of(model)
        self.service = ServiceWatch(lifecycle, ledger, concurrency=self._measured_with)

    def _perf(self, measure: Measure | None) -> Perf:
        runner = None
        if measure is not None and self._carrier is not None and self._carrier.benchmark is not None:
            runner = BenchmarkRunner(
                measure,
                self._carrier.benchmark,
                parallel=not self._carrier.one_at_a_time,
                budget=self._settings.benchmark_budget,
            )
        return Perf(
            pinned=self._settings.benchmark_perf,
            pinned_by=self._settings.perf_pinned_by,
            runner=runner,
            statistic=self._settings.benchmark_statistic,
            cache=PerfCache(self._settings.workspace / PERF_FILE),
            key=self._perf_key,
        )

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What is to run until the worker ends."""
        parts = [
            self.startup.run(),
            self.load_watch.run(self.startup, self._last_seen),
            self.service.run(),
        ]
        if self.tail is not None:
            parts.append(self.tail.run())
        if self._serve_watch is not None:
            parts.append(self._serve_watch.run(self.startup))
        return parts

    def _serve_watch_of(self, model: ModelServer | None) -> ServeWatch | None:
        if model is None:
            return None
        return ServeWatch(
            working=self._working,
            last_byte_at=self._last_byte_at,
            proof=self.proof,
            allowance=min(self._allowances.values(), default=self._settings.serve_stall_timeout),
        )

    def warnings(self) -> list[str]:
        """What cannot be found out about the model server."""
        if self._serve_watch is None or self.proof is not None:
            return []
        told = (
            "no handler carries a benchmark, so no request of ours proves that the model server works, neither before it is "
            "ready nor when it falls silent; give one a benchmark_config (BENCHMARK_PERF still pins perf)"
        )
        silence = self._serve_watch.suspected
        if silence is None:
            return [told]
        seen = f"no byte from the model server for {silence.seconds:.0f} s with {silence.requests} requests in flight"
        return [f"{seen}: it may be frozen", told]

    # What the parts ask for...

    def _changed(self) -> None:
        """The worker's state has changed."""
        self.load_watch.entered()
        self._announce()

    def _last_byte_at(self) -> float | None:
        return self._model.last_byte_at if self._model is not None else None

    def _working(self) -> list[Working]:
        """Requests the model server works on; those of remote functions are none of its."""
        return [
            Working(entry.started_at, self._allowances[entry.route])
            for entry in self._ledger.in_flight
            if entry.started_at is not None
            and not isinstance(entry, SessionEntry)
            and entry.route in self._allowances
        ]

    def _measured_with(self) -> int | None:
        """How many requests at once perf was measured with; None when nobody knows."""
        if self.perf.result is not None:
            return self.perf.result.concurrency
        if self._carrier is None or self._carrier.benchmark is None:
            return None
        return 1 if self._carrier.one_at_a_time else self._carrier.benchmark.concurrency

    async def _perf_key(self) -> PerfKey:
        """What a kept perf must have been measured with."""
        assert self._carrier is not None
        assert self._carrier.benchmark is not None
        command = setting("MODEL_SERVER_CMD", "")
        return PerfKey(
            handler=self._carrier.route,
            benchmark=f"{self._carrier.benchmark} {self._carrier.one_at_a_time} {self._carrier.sample_source}",
            model=self._settings.model_name,
            device=await asyncio.to_thread(self._gauges.device),
            model_server=f"{await identity(self._model)} {command}",
        )

    def _last_seen(self) -> str:
        """What there was last, for the reason of a load that failed."""
        now = time.monotonic()
        if self._lifecycle.state is State.PROVING and self.proof is not None:
            return self.proof.facts(now).why
        lines = self.tail.last_lines if self.tail is not None else []
        if lines:
            return f"log: {excerpt(lines[-1])}"
        return f"health route: {self.health.facts(now).said}" if self.health is not None else ""

    # Why is it not ready?

    def verdict(self) -> Verdict:
        """Sentence and evidence."""
        return verdict(self._facts())

    def line(self) -> str:
        """The sentence alone; empty when ready."""
        return "" if self._lifecycle.ready else self.verdict().line

    def _facts(self) -> Facts:
        now = time.monotonic()
        runner = self.perf.runner
        return Facts(
            state=self._lifecycle.state,
            error=self._lifecycle.error,
            seconds_in_state=self._lifecycle.seconds_in_state(now),
            seconds_left=self.load_watch.seconds_left(now),
            picture=self.load_watch.progress.picture(),
            moved=self.load_watch.moved(now),
            log=self._log_facts(now),
            health=self.health.facts(now) if self.health is not None else None,
            proof=self.proof.facts(now) if self.proof is not None else None,
            benchmark=self.perf.source or (runner.now_doing if runner is not None else ""),
            key=self._key_missing(),
            blocked=self.startup.blocked,
        )

    def _log_facts(self, now: float) -> LogFacts | None:
        if self.tail is None:
            return None
        loaded = self.startup.loaded_at
        return LogFacts(
            path=str(self.tail.path),
            patterns=self._patterns,
            lines=tuple(line for line in self.tail.last_lines if line),
            still_for=None if self.tail.grew_at is None else now - self.tail.grew_at,
            loaded=None if loaded is None else now - loaded,
        )
