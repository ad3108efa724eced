"""Follows the model server's log: absent, appended, rotated, truncated, replaced.

watchfiles says when to look; a slow poll looks anyway, for filesystems without events. Reading and searching happen in
a thread of the tail's own; what is found goes to ``on_event`` at once. The tail never waits for what an event causes.
"""

import asyncio
import errno
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import watchfiles
from watchfiles._rust_notify import WatchfilesRustInternalError

from pyworker.core.log_lines import LineScanner, LogEvent

log = logging.getLogger(__name__)

POLL: Final = 0.25
"""Seconds between looks on a filesystem without events, and until a half line is taken for a whole one."""

CHUNK: Final = 1024 * 1024
RECENT: Final = 16 * 1024
LAST_LINES: Final = 50

AT_ONCE: Final = 100
"""Events told in one turn of the event loop: requests are served between two such."""

REMEMBERED: Final = 256
"""Bytes before the place reached that must still be there, else the file was written anew."""


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Places:
    """Folders to watch, and the names in them that matter."""

    folders: frozenset[Path]
    names: frozenset[str]


@dataclass(slots=True)
class _Open:
    """A file that is being read: how far, and the last bytes read."""

    descriptor: int
    identity: tuple[int, int]
    at: int = 0
    last: bytes = b""

    def read(self) -> bytes:
        """The next bytes, at most `CHUNK`; what was never written (a hole) is left out."""
        data = _next_data(self.descriptor, self.at)
        if data is None:
            return b""
        chunk = os.pread(self.descriptor, CHUNK, data)
        if not chunk:
            return b""
        hole = data > self.at
        self.at = data + len(chunk)
        self.last = (self.last + chunk)[-REMEMBERED:] if len(chunk) < REMEMBERED else chunk[-REMEMBERED:]
        return chunk.lstrip(b"\0") if hole else chunk

    def written_anew(self) -> bool:
        """It is shorter than what was read of it, or holds something else there now."""
        if os.fstat(self.descriptor).st_size < self.at:
            return True
        start = self.at - len(self.last)
        return os.pread(self.descriptor, len(self.last), start) != self.last


@dataclass(slots=True)
class _News:
    """What one look found: events, and whether anything was read at all."""

    events: list[LogEvent] = field(default_factory=list)
    grown: bool = False


class LogTail:
    """One log file, followed by path through whatever becomes of it."""

    def __init__(self, path: Path, *, scanner: LineScanner, on_event: Callable[[LogEvent], None]) -> None:
        self.path = path
        self._scanner = scanner
        self._on_event = on_event
        self._open: _Open | None = None
        self._recent = b""
        self._thread = ThreadPoolExecutor(1, "log-tail")
        self.at_ease = False
        """A model that loads is paid for by the moment; later an error may be a twentieth of a second old, and looking
        for events costs less."""
        self.bytes_read = 0
        self.grew_at: float | None = None
        """Monotonic second of the newest bytes; None before the first."""
        self._complained = False

    @property
    def last_lines(self) -> list[str]:
        """The newest lines of the log, at most `LAST_LINES`. A progress bar's states count as lines."""
        lines = self._recent.decode("utf-8", "replace").splitlines()
        if len(lines) > 1 and self.bytes_read > RECENT:
            del lines[0]  # what is left of it may begin within a secret
        return list(deque((line.rstrip() for line in lines), maxlen=LAST_LINES))

    @property
    def unread(self) -> int:
        """Bytes of the open file that have not been read; 0 where there is none."""
        if self._open is None:
            return 0
        try:
            return max(0, os.fstat(self._open.descriptor).st_size - self._open.at)
        except OSError:  # closed a moment ago, by the thread that follows a rotation
            return 0

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                await self.look()
                places = await self._in_thread(self._places)
                if places.folders:
                    await self._watch(places)
                else:
                    await asyncio.sleep(POLL)
        finally:
            self._thread.shutdown(wait=False)
            if self._open is not None:
                os.close(self._open.descriptor)

    async def _watch(self, places: _Places) -> None:
        """Look whenever something happens at ``places``, and every `POLL` seconds (at ease: four times that).

        Returns when the places have changed, or how often to look has.
        """
        at_ease = self.at_ease
        watch = watchfiles.awatch(
            *places.folders,
            debounce=20,
            step=50 if at_ease else 5,
            recursive=False,
            yield_on_timeout=True,
            rust_timeout=int(POLL * (4000 if at_ease else 1000)),
        )
        try:
            async for changes in watch:
                if not changes or any(Path(path).name in places.names for _, path in changes):
                    await self.look()
                    if self.at_ease is not at_ease or await self._in_thread(self._places) != places:
                        return
        except (OSError, WatchfilesRustInternalError) as error:
            self._complain(f"no file system events ({error}), looking every {POLL:g} s instead")
            await asyncio.sleep(POLL)

    async def look(self) -> None:
        """Read whatever is new and tell what it says."""
        while True:
            news = await self._in_thread(self._read)
            for start in range(0, len(news.events), AT_ONCE):
                for event in news.events[start : start + AT_ONCE]:
                    self._on_event(event)
                await asyncio.sleep(0)
            if not news.grown:
                return

    async def _in_thread(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    # In the thread...

    def _places(self) -> _Places:
        """Where the log is, and where it really is if its path is a link."""
        real = self.path.resolve()
        folders = frozenset(folder for folder in (self.path.parent, real.parent) if folder.is_dir())
        return _Places(folders, frozenset({self.path.name, real.name}))

    def _read(self) -> _News:
        """What the next bytes say, at most `CHUNK` of them; of a line that stands unfinished, what it says so far."""
        news = _News()
        chunk = self._old_file(news) or self._new_file(news)
        now = time.monotonic()
        if chunk:
            news.grown = True
            news.events += self._scanner.feed(chunk)
            self.bytes_read += len(chunk)
            self.grew_at = now
            self._recent = (self._recent + chunk[-RECENT:])[-RECENT:]
        elif self.grew_at is not None and now - self.grew_at >= POLL:
            news.events += self._scanner.flush()
        return news

    def _old_file(self, news: _News) -> bytes:
        """The rest of the file that is open, even if the path names another by now."""
        if self._open is None:
            return b""
        if self._open.written_anew():
            news.events += self._scanner.flush()
            self._scanner.restart()
            self._open.at, self._open.last = 0, b""
        return self._open.read()

    def _new_file(self, news: _News) -> bytes:
        """The beginning of the file at the path, if it is not the one that is open.

        An empty one is left alone: whoever rotates makes it before the model server has turned to it.
        """
        try:
            found = self.path.stat()
        except OSError:
            return b""
        if not stat.S_ISREG(found.st_mode):
            self._complain("it is no regular file")
            return b""
        opened = self._opened(found)
        if opened is None:
            return b""
        if self._open is not None:
            os.close(self._open.descriptor)
            news.events += self._scanner.flush()
            self._scanner.restart()
        self._complained = False
        self._open = opened
        return opened.read()

    def _opened(self, seen: os.stat_result) -> _Open | None:
        """The file at the path, if it is news. Never waits: a pipe put in its place would, for someone to write into it."""
        if self._open is not None and (not seen.st_size or self._is_open(seen)):
            return None
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            self._complain(error.strerror or str(error))
            return None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            return None
        return _Open(descriptor, (found.st_dev, found.st_ino))

    def _is_open(self, found: os.stat_result) -> bool:
        return self._open is not None and (found.st_dev, found.st_ino) == self._open.identity

    def _complain(self, why: str) -> None:
        """Say once that it cannot be read; said again only after it could."""
        if not self._complained:
            self._complained = True
            log.warning("the model server's log: path=%s why=%s", self.path, why)


def _next_data(descriptor: int, at: int) -> int | None:
    """Where the next written byte is, from ``at`` on; None at the end. A hole is left by who writes on after truncation."""
    try:
        return os.lseek(descriptor, at, os.SEEK_DATA)
    except OSError as error:
        return None if error.errno == errno.ENXIO else at  # else: a filesystem that does not know of holes
