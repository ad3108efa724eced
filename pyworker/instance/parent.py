"""A process that ends when the one that started it does, even by kill -9."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal this process gets when its parent dies."""


def end_with(parent: int) -> None:
    """Have SIGTERM sent here when process ``parent``, which started this one, dies. Linux only; elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        raise SystemExit(f"process {parent}, which started this one, is gone")
