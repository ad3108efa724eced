"""Whether a ready model server is frozen. Requests in flight and no byte of any answer for long: then a request must prove it.

A health route cannot tell: vLLM's says 200 while its engine core stands still.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from pyworker.core.liveness import Silence, Working, stalled
from pyworker.model.probe import Told
from pyworker.model.proof import Proof

log = logging.getLogger(__name__)

LOOKS: Final = 20
"""Looks in the time that silence is allowed: a stall is noticed a twentieth late, at most `SLOWEST` seconds."""

SLOWEST: Final = 5.0
LONGEST: Final = 60.0
"""Seconds the proving request has at most: the server has been silent for long already."""


class ServeWatch:
    """Watches requests in flight (``working``) and the newest byte of any answer (``last_byte_at``).

    Without a ``proof`` (no handler carries a benchmark) it can only suspect.
    """

    def __init__(
        self,
        *,
        working: Callable[[], Sequence[Working]],
        last_byte_at: Callable[[], float | None],
        proof: Proof | None,
        allowance: float,
    ) -> None:
        self._working = working
        self._last_byte_at = last_byte_at
        self._proof = proof
        self._allowance = allowance
        self._proved_at = float("-inf")
        self.suspected: Silence | None = None
        """A silence that is too long, and that nothing can prove to be more than that."""

    async def run(self, told: Told) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(min(self._allowance / LOOKS, SLOWEST))
            silence = self._silence() if told.ready else None
            if silence is not None and self._proof is not None:
                await self._prove(silence, self._proof, told)
            else:
                self._suspect(silence)

    def _silence(self) -> Silence | None:
        heard = self._last_byte_at()
        since = max(self._proved_at, heard if heard is not None else self._proved_at)
        return stalled(self._working(), last_byte_at=since, now=time.monotonic())

    def _suspect(self, silence: Silence | None) -> None:
        if silence is not None and self.suspected is None:
            log.warning(
                "no byte from the model server for %.0f s with %d requests in flight: it may be frozen, but no handler "
                "carries a benchmark to prove it with",
                silence.seconds,
                silence.requests,
            )
        self.suspected = silence

    async def _prove(self, silence: Silence, proof: Proof, told: Told) -> None:
        """Send the proving request. A byte for anyone meanwhile is as good as its success."""
        log.warning(
            "no byte from the model server for %.0f s with %d requests in flight: proving it",
            silence.seconds,
            silence.requests,
        )
        began = time.monotonic()
        limit = min(LONGEST, max(self._allowance, 1.0))
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(proof.once(limit))
            while not asking.done() and not self._heard_since(began):
                await asyncio.wait([asking], timeout=limit / LOOKS)
            asking.cancel()
        if self._heard_since(began) or (not asking.cancelled() and asking.result().ok):
            self._proved_at = time.monotonic()
            log.info("the model server is alive: it only was silent")
        elif told.ready:
            told.fail(
                f"the model server is frozen: no byte for {silence.seconds:.0f} s with {silence.requests} requests in "
                f"flight, and the proving request failed: {asking.result().why}"
            )

    def _heard_since(self, began: float) -> bool:
        heard = self._last_byte_at()
        return heard is not None and heard > began
