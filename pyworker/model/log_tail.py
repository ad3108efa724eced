"""Follows the model server's log: absent, appended, rotated, truncated, replaced.

watchfiles says when to look; a slow poll looks anyway, for filesystems without events. What is read goes to the
scanner; what the scanner finds goes to ``on_event`` at once. The tail never waits for what an event causes.
"""

import asyncio
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

import watchfiles
from watchfiles._rust_notify import WatchfilesRustInternalError

from pyworker.core.log_lines import LineScanner, LogEvent

log = logging.getLogger(__name__)

POLL: Final = 0.25
"""Seconds between looks on a filesystem without events, and until a half line is taken for a whole one."""

CHUNK: Final = 1024 * 1024
LAST_LINES: Final = 50


@dataclass(frozen=True, slots=True)
class _Places:
    """Folders to watch, and the names in them that matter."""

    folders: frozenset[Path]
    names: frozenset[str]


class LogTail:
    """One log file, followed by path through whatever becomes of it."""

    def __init__(self, path: Path, *, scanner: LineScanner, on_event: Callable[[LogEvent], None]) -> None:
        self.path = path
        self._scanner = scanner
        self._on_event = on_event
        self._file: BinaryIO | None = None
        self._identity: tuple[int, int] | None = None
        self._recent = b""
        self.bytes_read = 0
        self._complained = False

    @property
    def last_lines(self) -> list[str]:
        """The newest lines of the log, at most `LAST_LINES`."""
        text = self._recent.decode("utf-8", "replace")
        return list(deque((line.rstrip() for line in text.splitlines()), maxlen=LAST_LINES))

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                await self.look()
                places = await asyncio.to_thread(self._places)
                if places.folders:
                    await self._watch(places)
                else:
                    await asyncio.sleep(POLL)
        finally:
            if self._file is not None:
                self._file.close()

    async def _watch(self, places: "_Places") -> None:
        """Look whenever something happens at ``places``, and every `POLL` seconds; return when they have changed."""
        watch = watchfiles.awatch(
            *places.folders,
            debounce=20,
            step=5,
            recursive=False,
            yield_on_timeout=True,
            rust_timeout=int(POLL * 1000),
        )
        try:
            async for changes in watch:
                if not changes or any(Path(path).name in places.names for _, path in changes):
                    await self.look()
                    if await asyncio.to_thread(self._places) != places:
                        return
        except (OSError, WatchfilesRustInternalError) as error:
            self._complain(f"no file system events ({error}), looking every {POLL:g} s instead")
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Read whatever is new and tell what it says."""
        grown = False
        while chunks := await asyncio.to_thread(self._read):
            for chunk in chunks:
                grown = True
                self._tell(self._scanner.feed(chunk))
        if not grown:
            self._tell(self._scanner.flush())

    def _tell(self, events: list[LogEvent]) -> None:
        for event in events:
            self._on_event(event)

    # In a thread...

    def _places(self) -> "_Places":
        """Where the log is, and where it really is if its path is a link."""
        real = self.path.resolve()
        folders = frozenset(folder for folder in (self.path.parent, real.parent) if folder.is_dir())
        return _Places(folders, frozenset({self.path.name, real.name}))

    def _read(self) -> list[bytes]:
        """The next bytes, at most `CHUNK`; empty when there are none now."""
        chunks = list(self._old_file()) or list(self._new_file())
        for chunk in chunks:
            self.bytes_read += len(chunk)
            self._recent = (self._recent + chunk)[-16 * 1024 :]
        return chunks

    def _old_file(self) -> Iterator[bytes]:
        """The rest of the file that is open, even if the path names another by now."""
        if self._file is None:
            return
        size = os.fstat(self._file.fileno()).st_size
        if size < self._file.tell():  # truncated in place: it begins anew
            self._file.seek(0)
            self._scanner.restart()
        chunk = self._file.read(CHUNK)
        if chunk:
            yield chunk

    def _new_file(self) -> Iterator[bytes]:
        """The beginning of the file at the path, if it is not the one that is open."""
        try:
            found = self.path.stat()
        except OSError:
            return
        if (found.st_dev, found.st_ino) == self._identity:
            return
        if not stat.S_ISREG(found.st_mode):
            self._complain("it is no regular file")
            return
        try:
            opened = self.path.open("rb")
        except OSError as error:
            self._complain(error.strerror or str(error))
            return
        if self._file is not None:
            self._file.close()
            self._scanner.restart()
        self._file = opened
        self._complained = False
        identity = os.fstat(opened.fileno())
        self._identity = (identity.st_dev, identity.st_ino)
        chunk = opened.read(CHUNK)
        if chunk:
            yield chunk

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the model server's log: path=%s why=%s", self.path, why)
