"""Compares what a ready worker serves with what its benchmark promised, and says so when they part."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from pyworker.core.drift import Drift, Gap
from pyworker.core.ledger import Ledger, SessionEntry
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome

log = logging.getLogger(__name__)

EVERY: Final = 1.0


class ServiceWatch:
    """``concurrency`` says how many requests at once perf was measured with; None when nobody knows: then nothing is compared."""

    def __init__(
        self, lifecycle: Lifecycle, ledger: Ledger, *, concurrency: Callable[[], int | None]
    ) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._concurrency = concurrency
        self.drift = Drift()
        self.gap: Gap | None = None
        """What is told: a gap that lasts, and goes when it has gone."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            concurrency = self._concurrency()
            if self._lifecycle.ready and self._lifecycle.perf > 0 and concurrency:
                self._observe(concurrency)
                self._tell(self.drift.gap)
            else:
                self.drift.pause()

    def _observe(self, concurrency: int) -> None:
        ended = self._ledger.ended
        working = sum(
            entry.started_at is not None and not isinstance(entry, SessionEntry)
            for entry in self._ledger.in_flight
        )
        self.drift.observe(
            time.monotonic(),
            perf=self._lifecycle.perf,
            concurrency=concurrency,
            working=working,
            served=ended[Outcome.SERVED].load,
            dropped=ended[Outcome.FAILED].load + ended[Outcome.CANCELLED].load,
            in_flight=self._ledger.load_in_flight,
        )

    def _tell(self, gap: Gap | None) -> None:
        if gap is not None and self.gap is None:
            log.warning("%s", gap.words())
        elif gap is None and self.gap is not None:
            log.info("in service this worker does again what its benchmark promised")
        self.gap = gap
