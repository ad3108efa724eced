"""Bytes of a log → whole lines → loaded | failed | info.

Speed comes from not looking at lines: patterns are searched in the whole chunk, and only where one is found is its
line cut out.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

MAX_LINE: Final = 64 * 1024
"""Bytes kept of a line that has not ended: the rest of a longer one is searched in pieces."""

MAX_TEXT: Final = 500
"""Characters of a line that go into an event: it becomes a reason on the wire and in status."""

_ANSI: Final = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")


class Mark(Enum):
    """What a matching line means, most urgent first."""

    FAILED = 0
    LOADED = 1
    INFO = 2


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A line that matched: what it means, its text (at most `MAX_TEXT` characters), the pattern it matched."""

    mark: Mark
    line: str
    pattern: str


class _Pattern:
    """A substring, or with the prefix ``re:`` a regular expression."""

    def __init__(self, mark: Mark, text: str) -> None:
        self.mark = mark
        self.text = text
        raw = text.removeprefix("re:") if text.startswith("re:") else re.escape(text)
        try:
            self._regex = re.compile(raw.encode())
        except re.error as error:
            raise ValueError(f"log pattern {text!r} is no regular expression: {error}") from error
        self._plain = None if text.startswith("re:") else text.encode()

    def places(self, chunk: bytes) -> Iterator[int]:
        """Where it is found. A substring by `bytes.find`, which is many times faster than a regex."""
        if self._plain is None:
            yield from (match.start() for match in self._regex.finditer(chunk))
            return
        at = chunk.find(self._plain)
        while at >= 0:
            yield at
            at = chunk.find(self._plain, at + 1)


class LineScanner:
    """Fed with bytes as they are read; answers with events, each line at most once, in order.

    Raises ValueError for a pattern that is empty or no regular expression.
    """

    def __init__(
        self, *, loaded: Iterable[str] = (), failed: Iterable[str] = (), info: Iterable[str] = ()
    ) -> None:
        marked = ((Mark.FAILED, failed), (Mark.LOADED, loaded), (Mark.INFO, info))
        self._patterns = [_Pattern(mark, text) for mark, texts in marked for text in texts]
        if any(not pattern.text.removeprefix("re:") for pattern in self._patterns):
            raise ValueError("a log pattern must not be empty: it would match every line")
        self._rest = b""
        self._rest_told = False

    def feed(self, chunk: bytes) -> list[LogEvent]:
        """Events of the lines that ended in ``chunk``."""
        text = self._rest + chunk if self._rest else chunk
        end = text.rfind(b"\n") + 1
        lines, self._rest = text[:end], text[end:]
        events: list[LogEvent] = []
        if lines:
            events = self._scan(lines)
            if self._rest_told:  # its first line was told by `flush` while it was half a line
                first_end = lines.find(b"\n")
                events = self._scan(lines[first_end + 1 :])
            self._rest_told = False
        if len(self._rest) > MAX_LINE:
            events += self._scan(self._rest)
            self._rest = b""
        return events

    def flush(self) -> list[LogEvent]:
        """Events of a last line without an end: for when the log has been still for a while."""
        if not self._rest or self._rest_told:
            return []
        events = self._scan(self._rest)
        self._rest_told = bool(events)
        return events

    def restart(self) -> None:
        """The log begins anew (rotated or truncated): what is left of the old one's last line is no line of it."""
        self._rest = b""
        self._rest_told = False

    def _scan(self, text: bytes) -> list[LogEvent]:
        if b"\x1b" in text:
            text = _ANSI.sub(b"", text)
        found: dict[int, tuple[int, _Pattern]] = {}
        for order, pattern in enumerate(self._patterns):
            for at in pattern.places(text):
                start = text.rfind(b"\n", 0, at) + 1
                if start not in found:
                    found[start] = (order, pattern)
        return [
            LogEvent(found[start][1].mark, _line(text, start), found[start][1].text)
            for start in sorted(found)
        ]


def _line(text: bytes, start: int) -> str:
    end = text.find(b"\n", start)
    line = text[start : len(text) if end < 0 else end]
    return line.decode("utf-8", "replace").strip()[:MAX_TEXT]
