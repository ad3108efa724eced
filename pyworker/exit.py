"""How a process is told to end, and how it ends even if code of an author's does not."""

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final, Self

log = logging.getLogger(__name__)

REPEAT: Final = 0.5
"""Seconds within which signals are one: systemd sends its own to every process, beside the one that a parent passes on."""

WITHIN: Final = 5.0
"""Seconds an author's code has to end once the worker has."""

HURRIED: Final = 1.0
"""The same after a second signal."""


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def told_by_signals(stop: asyncio.Event, cut: asyncio.Event, leaving: "Exit | None" = None) -> Iterator[None]:
    """SIGTERM or SIGINT sets ``stop``; another one after `REPEAT` seconds sets ``cut``. In the running event loop.

    Whoever is ``leaving`` already hears no further ones: all is done, and it ends well.
    """
    loop = asyncio.get_running_loop()
    again_from = float("inf")

    def told() -> None:
        nonlocal again_from
        if loop.time() >= again_from:
            cut.set()
        if not stop.is_set():
            again_from = loop.time() + REPEAT
            stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        if leaving is not None and stop.is_set():
            leaving.hear_no_more()


class Exit:
    """A context manager around a worker's run, in which everything is reported before `begin`: from `begin` on it is left within `WITHIN` (`HURRIED`) seconds, or the process ends."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._heard: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for number, handler in self._heard.items():
            signal.signal(number, handler)

    def hear_no_more(self) -> None:
        self._heard = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}

    def begin(self, *, hurried: bool) -> None:
        self._timer = threading.Timer(HURRIED if hurried else WITHIN, _leave)
        self._timer.daemon = True
        self._timer.start()


def _leave() -> None:
    log.warning("leaving, although code of this worker's file does not end (everything else has)")
    logging.shutdown()
    os._exit(0)
