"""The proving request: one real request that must succeed before anything else is believed."""

import asyncio
import logging
import time
from typing import Final

from pyworker.core.benchmark import Sample
from pyworker.core.verdict import ProofFacts
from pyworker.model.measure import ANSWER_TIMEOUT, Measure

log = logging.getLogger(__name__)

PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds before it is tried again; the last holds from then on."""


class Proof:
    """Proves the model server by requests of ``measure``."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._tries = 0
        self._why = ""
        self._ended_at: float | None = None
        self._asked_at: float | None = None
        self.kind = ""
        """Content type of the answer that proved it: what others are compared with."""

    async def succeed(self) -> None:
        """Return once a request has succeeded, however often it takes: whoever waits has the load budget."""
        self._tries = 0
        while not (await self.once()).ok:
            if self._tries == len(PAUSES) + 1:
                log.info("proving request failed, trying on: %s", self._why)
            await asyncio.sleep(PAUSES[min(self._tries, len(PAUSES)) - 1])

    async def once(self, limit: float = ANSWER_TIMEOUT) -> Sample:
        """One request, with ``limit`` seconds for a whole answer."""
        self._asked_at = time.monotonic()
        try:
            sample = await self._measure.one(limit)
        finally:
            self._asked_at = None
        self._tries += 1
        self._why = sample.why
        self._ended_at = time.monotonic()
        if sample.ok:
            self.kind = sample.kind
        return sample

    def facts(self, now: float) -> ProofFacts:
        """For the verdict."""
        return ProofFacts(
            tries=self._tries,
            why=self._why,
            age=None if self._ended_at is None else now - self._ended_at,
            asking_for=None if self._asked_at is None else now - self._asked_at,
        )
