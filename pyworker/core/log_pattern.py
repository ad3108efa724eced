"""One pattern of a log: a substring, or with the prefix ``re:`` a regular expression, and where it is found.

A substring is looked for in whole blocks of text, which is many times faster than line by line. A regular expression is
held against lines: against those alone that hold a text which it cannot do without, where it has one.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final

MAX_SEARCHED: Final = 4096
"""Bytes of a line that a regular expression is held against: ``.*x`` takes quadratic time on a line of megabytes."""

_CERTAIN: Final = re.compile(rb"(?:[A-Za-z0-9 _\-:;,/=@%&!\"'<>~#](?![*?]))+")
"""Letters that stand for themselves, none of them optional."""


class Mark(Enum):
    """What a matching line means, most urgent first."""

    FAILED = 0
    LOADED = 1
    INFO = 2


class Pattern:
    """Raises ValueError for a text that is empty or no regular expression."""

    def __init__(self, mark: Mark, text: str) -> None:
        self.mark = mark
        self.text = text
        if not text.removeprefix("re:"):
            raise ValueError("a log pattern must not be empty: it would match every line")
        self.literal = text.encode()
        self._regex: re.Pattern[bytes] | None = None
        if text.startswith("re:"):
            source = text.removeprefix("re:").encode()
            try:
                self._regex = re.compile(source)
            except re.error as error:
                raise ValueError(f"log pattern {text!r} is no regular expression: {error}") from error
            self.literal = certain_text(source)

    def places(self, block: bytes) -> Iterator[tuple[int, int]]:
        """The lines of ``block`` that it is found in: where each begins, and where in it the first place is."""
        if not self.literal:
            yield from self._line_by_line(block)
            return
        at = block.find(self.literal)
        while at >= 0:
            start = block.rfind(b"\n", 0, at) + 1
            end = block.find(b"\n", at)
            end = len(block) if end < 0 else end
            if self._regex is None or self._regex.search(block[start : min(end, start + MAX_SEARCHED)]):
                yield start, at
            at = block.find(self.literal, end)

    def _line_by_line(self, block: bytes) -> Iterator[tuple[int, int]]:
        assert self._regex is not None
        search = self._regex.search
        lines = block.split(b"\n")
        found = [number for number, line in enumerate(lines) if search(line[:MAX_SEARCHED])]
        start = number = 0
        for wanted in found:
            start += sum(map(len, lines[number:wanted])) + wanted - number
            number = wanted
            yield start, start


def certain_text(source: bytes) -> bytes:
    """The longest text that whatever the regular expression ``source`` matches must hold; empty when unsure."""
    simpler = re.sub(rb"\\[d.]", b".", re.sub(rb"\{[^}]*\}", b"*", source))
    if re.search(rb"[|(\[\\]", simpler):
        return b""
    return max(_CERTAIN.findall(simpler), key=len, default=b"")
