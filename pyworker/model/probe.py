"""The health route, asked on connections of its own: traffic must not starve the probe."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.core.liveness import MISSES, WINDOW, Life, Probes
from pyworker.core.verdict import HealthFacts
from pyworker.model.pool import ModelServer

TIMEOUT: Final = 10.0
EVERY: Final = 10.0
EVERY_UNTIL_READY: Final = 0.5
AFTER_A_MISS: Final = 2.0
"""Seconds until a ready worker's server is asked again after a missed probe: three misses take at least four."""


class Told(Protocol):
    """Who hears of the model server's health."""

    @property
    def ready(self) -> bool: ...
    def may_retry(self) -> bool:
        """Errored, and it is time to try again."""
        ...

    def hint(self) -> None:
        """It may be up."""
        ...

    def fail(self, reason: str) -> None:
        """It is not what it should be."""
        ...


@dataclass(frozen=True, slots=True)
class Probed:
    """One answer of the health route: its status, None for no answer, and what was wrong."""

    status: int | None
    why: str

    @property
    def ok(self) -> bool:
        return self.status == HTTPStatus.OK


class HealthWatch:
    """Probes ``path`` on ``server`` for ever. ``last_byte_at`` says when the model server last sent anything to anyone."""

    def __init__(self, server: ModelServer, path: str, *, last_byte_at: Callable[[], float | None]) -> None:
        self._server = server
        self._path = path
        self._last_byte_at = last_byte_at
        self._probes = Probes(fresh=EVERY)
        self._last: Probed | None = None
        self._last_at = 0.0
        self._missing = 0
        self.healthy = asyncio.Event()

    async def run(self, told: Told) -> None:
        """Until cancelled."""
        while True:
            probed = await self._probe()
            self._last, self._last_at = probed, time.monotonic()
            self._judge(probed, told)
            await asyncio.sleep(self._pause(told))

    def _pause(self, told: Told) -> float:
        if not told.ready:
            return EVERY_UNTIL_READY
        return EVERY if self._last is None or self._last.ok else AFTER_A_MISS

    def _judge(self, probed: Probed, told: Told) -> None:
        if probed.ok and not self.healthy.is_set():
            self._probes.forget()
        life = self._probes.probed(ok=probed.ok, now=self._last_at, last_byte_at=self._last_byte_at())
        self._missing = self._missing + 1 if probed.status == HTTPStatus.NOT_FOUND else 0
        if probed.ok:
            if not self.healthy.is_set() or told.may_retry():
                told.hint()
            self.healthy.set()
        elif self._missing >= MISSES:
            self.healthy.clear()
            told.fail(
                f"health route {self._path} answered 404: set MODEL_HEALTH_ENDPOINT to a path the model server has"
            )
        elif life is Life.DEAD:
            self.healthy.clear()
            if told.ready:
                told.fail(f"health route {self._path} failed {self._times()}: {probed.why}")

    def _times(self) -> str:
        """How often, in words."""
        if self._probes.in_a_row:
            return f"{self._probes.misses} times"
        return f"{self._probes.misses} of the last {WINDOW} times"

    async def _probe(self) -> Probed:
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await self._server.ask("GET", self._path, [])
                try:
                    await answer.read()
                finally:
                    answer.close()
        except TimeoutError:
            return Probed(None, f"no answer in {TIMEOUT:g} s")
        except (Refusal, AnswerBroken) as error:
            return Probed(None, str(error))
        return Probed(answer.status, f"status {answer.status}")

    def facts(self, now: float) -> HealthFacts:
        """For the verdict."""
        if self._last is None:
            return HealthFacts(self._path)
        return HealthFacts(self._path, self._last.ok, self._last.why, now - self._last_at)
