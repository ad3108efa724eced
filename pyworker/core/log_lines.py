"""Bytes of a log → whole lines → loaded | failed | info.

Speed comes from not looking at lines: patterns are searched in the whole chunk, and only where one is found is its
line cut out.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from pyworker.core.log_pattern import Mark, Pattern
from pyworker.core.redact import WINDOW, excerpt

MAX_LINE: Final = 64 * 1024
"""Bytes kept of a line that has not ended: the rest of a longer one is searched in pieces."""

OVERLAP: Final = 1024
"""Bytes of such a piece that are searched again with the next one: a pattern may lie across the cut."""

_ANSI: Final = re.compile(rb"\x1b\[[0-9;]*+[@-~]|\x1b(?:\[[0-?]*+[ -/]*+[@-~]|[()][0-9A-Z])")
"""Codes of a terminal. The first half is all that colours need, and a tenth faster than the second."""

_COLOURED: Final = re.compile(rb"\x1b\[[0-9;]*m[^\x1b\n]{0,48}\x1b\[[0-9;]*m")
SAMPLE: Final = 16 * 1024
MOST_WORDS: Final = 4
OFTEN: Final = 16
"""Times a coloured word has to be in the first `SAMPLE` bytes of a block to be worth a pass of its own."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A line that matched: what it means, an excerpt of it, the pattern it matched."""

    mark: Mark
    line: str
    pattern: str


class LineScanner:
    """Fed with bytes as they are read; answers with events, in order, each line once.

    A line is told twice only if what comes later in it is more urgent than what was told of its beginning.
    Raises ValueError for a pattern that is empty or no regular expression.
    """

    def __init__(
        self, *, loaded: Iterable[str] = (), failed: Iterable[str] = (), info: Iterable[str] = ()
    ) -> None:
        marked = ((Mark.FAILED, failed), (Mark.LOADED, loaded), (Mark.INFO, info))
        self._patterns = [Pattern(mark, text) for mark, texts in marked for text in texts]
        self._rest = b""
        self._told: Mark | None = None
        """The most urgent thing told of the line that `_rest` is the beginning of."""

    def feed(self, chunk: bytes) -> list[LogEvent]:
        """Events of the lines that ended in ``chunk``. A carriage return ends a line too, as progress bars use it."""
        text = self._rest + chunk if self._rest else chunk
        if b"\r" in text:
            text = text.replace(b"\r", b"\n")
        end = text.rfind(b"\n") + 1
        events: list[LogEvent] = []
        if end:
            events = self._scan(text[:end])
            self._told = None
        self._rest = text[end:]
        if len(self._rest) > MAX_LINE:
            events += self._scan_rest()
            self._rest = self._rest[-OVERLAP:]
        return events

    def flush(self) -> list[LogEvent]:
        """Events of a last line without an end: for when the log has been still for a while."""
        return self._scan_rest() if self._rest else []

    def restart(self) -> None:
        """The log begins anew (rotated or truncated): what is left of the old one's last line is no line of it."""
        self._rest = b""
        self._told = None

    def _scan_rest(self) -> list[LogEvent]:
        events = self._scan(self._rest)
        if events:
            self._told = events[0].mark
        return events

    def _scan(self, text: bytes) -> list[LogEvent]:
        if b"\x1b" in text:
            text = _plain(text)
        found: dict[int, tuple[int, Pattern]] = {}
        for pattern in self._patterns:  # most urgent first
            for start, at in pattern.places(text):
                found.setdefault(start, (at, pattern))
        if 0 in found and self._told is not None and found[0][1].mark.value >= self._told.value:
            del found[0]
        return [
            LogEvent(pattern.mark, _excerpt(text, start, at, len(pattern.literal)), pattern.text)
            for start, (at, pattern) in sorted(found.items(), key=itemgetter(0))
        ]


def _plain(text: bytes) -> bytes:
    """Without colours. What is coloured is most often one and the same word: then both of its codes go in one step."""
    coloured = Counter(_COLOURED.findall(text, 0, SAMPLE))
    for word, times in coloured.most_common(MOST_WORDS):
        if times >= OFTEN:
            text = b"".join(_ANSI.split(word)).join(text.split(word))
    return b"".join(_ANSI.split(text)) if b"\x1b" in text else text  # a tenth faster than sub


def _excerpt(text: bytes, start: int, at: int, length: int) -> str:
    """Of the line that begins at ``start`` that part which has what was found (``length`` bytes at ``at``) in it."""
    end = text.find(b"\n", at, at + WINDOW)
    end = at + WINDOW if end < 0 else end
    if at - start > WINDOW // 2:
        start = at - WINDOW // 2
        start = max(start, text.find(b" ", start, at))  # not in the middle of what may be a secret
    line = text[start:end].decode("utf-8", "replace")
    return excerpt(line, around=text[at : at + length].decode("utf-8", "replace"))
