"""Metrics on demand: what makes them is loaded with the first scrape, as it takes memory that most workers do without."""

import asyncio
from typing import TYPE_CHECKING

from pyworker.console.status import Parts
from pyworker.model.gauges import Gauges

if TYPE_CHECKING:
    from pyworker.console.metrics import Metrics

Exposition = tuple[bytes, str]
"""Metrics as text, and its content type."""


class Scrape:
    """Scrapes of one worker."""

    def __init__(self, parts: Parts, gauges: Gauges) -> None:
        self._parts = parts
        self._gauges = gauges
        self._metrics: Metrics | None = None

    async def scrape(self, accept: str) -> Exposition:
        """The metrics for a client that takes ``accept``."""
        if self._metrics is None:
            self._metrics = await asyncio.to_thread(self._load)
        outside = await asyncio.to_thread(self._metrics.outside, self._gauges)
        return self._metrics.exposition(accept, outside)

    def _load(self) -> "Metrics":
        from pyworker.console.metrics import Metrics  # noqa: PLC0415 - see above

        return Metrics(self._parts)
