"""Notices when the worker's event loop is blocked, for how long, and by whose code.

The loop beats, which says how late it is. What holds it up is seen from another thread (the reporter's), while it does.
"""

import asyncio
import logging
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from pyworker.handler import Handler

log = logging.getLogger(__name__)

EVERY: Final = 0.1
BLOCKED: Final = 0.25
"""Seconds without a turn of the loop that are worth a line: streams stall for every client meanwhile."""

_NOT_AUTHORS: Final = (
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("purelib"),
    str(Path(__file__).parent),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A time the loop stood still: seconds, the author's line it stood at, and that handler's route."""

    seconds: float
    where: str
    route: str


class LoopWatch:
    """Watches the event loop it is made in. Lags are in seconds."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._due = 0.0
        """Monotonic second of the next beat."""
        self._seen = ("", "")
        """Whose code it was that a late beat waited for."""
        self.lag = 0.0
        """How late the loop came to its last beat."""
        self.worst: Block | None = None
        self.blocks = 0
        self._expect()

    def _expect(self) -> None:
        self._due = time.monotonic() + EVERY
        self._loop.call_later(EVERY, self._beat)

    def _beat(self) -> None:
        self.lag = max(0.0, time.monotonic() - self._due)
        if self.lag >= BLOCKED:
            self._note(Block(self.lag, *self._seen))
        self._seen = ("", "")
        self._expect()

    async def run(self) -> None:
        """Until cancelled, in another thread's event loop."""
        while True:
            await asyncio.sleep(EVERY)
            if self._seen == ("", "") and time.monotonic() - self._due >= BLOCKED / 2:
                self._seen = self._culprit()

    def _culprit(self) -> tuple[str, str]:
        """The innermost line of an author's, and the route of the handler it works for; empty where there is none."""
        where = route = ""
        for frame in _frames(sys._current_frames().get(self._thread)):  # noqa: SLF001 - the documented way
            name = frame.f_code.co_filename
            if not where and not name.startswith((*_NOT_AUTHORS, "<")):
                where = f"{name}:{frame.f_lineno} {frame.f_code.co_name}"
            for variable in ("self", "handler"):
                value = frame.f_locals.get(variable)
                if not route and isinstance(value, Handler):
                    route = value.route
        return where, route

    def _note(self, block: Block) -> None:
        self.blocks += 1
        if self.worst is None or block.seconds > self.worst.seconds:
            self.worst = block
        log.warning(
            "event loop was blocked: seconds=%.2f route=%s at=%s (every client waited; move it to a thread)",
            block.seconds,
            block.route or "none",
            block.where or "unknown",
        )


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
