"""How the C library keeps memory: a proxy asks for the same large buffers again and again.

glibc gives every block of more than 128 KiB back to the kernel when it is freed, and the kernel fills the next one with
zeros, page by page: for answers of 1 MiB that costs as much as copying them.
"""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

LARGEST: Final = 1024 * 1024
"""Bytes of a block that is kept for the next one of its kind; the event loop reads up to 256 KiB at a time."""

KEPT: Final = 16 * 1024 * 1024
"""Bytes of free memory that are not given back."""


def keep_buffers() -> bool:
    """Have freed buffers kept for the next ones; says whether the C library can (glibc: mallopt(3))."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT))
