"""A model server's log from before a reboot is put aside: its lines are no news.

Where the image's own supervisor starts the model server, the log is its: it may be open, and hold lines of this start. So it
is copied and emptied, and only once after each boot of an instance that has been up before.
"""

import logging
import os
from pathlib import Path
from typing import Final

from pyworker.files import write_whole

log = logging.getLogger(__name__)

MARK: Final = "booted"
"""File in the work folder: the boot in which a worker was last started here."""

MOST: Final = 64 * 2**20
"""Bytes of an old log that are kept, its end."""

PIECE: Final = 2**20


def put_aside(model_log: Path, folder: Path, boot: str) -> bool:
    """Whether ``model_log`` was put aside, as ``model_log.old``. ``boot`` is another text after each boot. Blocks."""
    try:
        known = _known(folder / MARK)
        if known != boot:
            write_whole(folder / MARK, boot)
        if known in {"", boot} or not model_log.is_file() or not model_log.stat().st_size:
            return False
        _copy_and_empty(model_log)
    except OSError as error:
        log.warning("model log from before this boot cannot be put aside: %s", error)
        return False
    log.info("model log from before this boot put aside: path=%s.old", model_log)
    return True


def _known(mark: Path) -> str:
    try:
        return mark.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _copy_and_empty(model_log: Path) -> None:
    with model_log.open("rb") as source, model_log.with_name(model_log.name + ".old").open("wb") as target:
        source.seek(max(0, os.fstat(source.fileno()).st_size - MOST))
        while piece := source.read(PIECE):
            target.write(piece)
    os.truncate(model_log, 0)


def this_boot() -> str:
    """Another text after each boot of the machine, and each start of the container; empty where that cannot be known."""
    try:
        machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        first = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{machine} {first}"
