"""The end of the process, for when code of an author's does not end: everything is reported, so it is left behind."""

import logging
import os
import threading
from typing import Final, Self

log = logging.getLogger(__name__)

WITHIN: Final = 5.0
"""Seconds an author's code has to end once the worker has."""

HURRIED: Final = 1.0
"""The same after a second signal."""


class Exit:
    """A context manager around a worker's run: from `begin` on it is left within `WITHIN` (`HURRIED`) seconds, or the process ends."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self, *, hurried: bool) -> None:
        self._timer = threading.Timer(HURRIED if hurried else WITHIN, _leave)
        self._timer.daemon = True
        self._timer.start()


def _leave() -> None:
    log.warning("leaving, although code of this worker's file does not end (everything else has)")
    logging.shutdown()
    os._exit(0)
