"""The chunked coding of HTTP/1.1 (RFC 9112 section 7.1): where a body's pieces are, and where it ends.

A stream comes in whole chunks nearly always: those go on to a client as they are, framed, after one look. All else is
taken apart by `Chunks.split`. Extensions and trailers are dropped.
"""

from typing import Final

MAX_LINE: Final = 4096
"""Bytes of a size line (with its extensions) or of a trailer line; llhttp and nginx have limits of this order."""

MAX_TRAILERS: Final = 64 * 1024

_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_MOST_DIGITS: Final = 15


class BadChunk(ValueError):
    """The body is not in the chunked coding."""


class Chunks:
    """Reads one chunked body, in whatever pieces it comes."""

    __slots__ = ("_left", "_line", "_trailers", "ended", "rest")

    def __init__(self) -> None:
        self._left = 0
        """Bytes still to come of the chunk under way, its line end included."""
        self._line = b""
        """A line whose end has not come; while a chunk is under way: the first byte of its line end."""
        self._trailers: int | None = None
        """Bytes of trailers so far, once the last chunk has come."""
        self.ended = False
        self.rest = b""
        """What came after the end of the body."""

    def framed(self, data: bytes) -> bytes:
        """The chunks in ``data``, framed for another hop, without the last chunk. Raises `BadChunk`."""
        if not self._left and not self._line and self._trailers is None and are_whole(data):
            return data
        return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in self.split(data)])

    def split(self, data: bytes) -> list[bytes]:
        """The pieces of the body in ``data``. Raises `BadChunk`."""
        pieces: list[bytes] = []
        if self._line and not self._left:
            data, self._line = self._line + data, b""
        at = 0
        while at < len(data) and not self.ended:
            at = self._take(data, at, pieces) if self._left else self._take_line(data, at)
        if self.ended:
            self.rest = data[at:]
        return pieces

    def _take(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Bytes of the chunk under way; the last two of it are its line end."""
        end = min(len(data), at + self._left)
        piece_end = min(end, at + self._left - 2)
        if piece_end > at:
            pieces.append(data[at:piece_end])
        line_end = self._line + data[max(at, piece_end) : end]
        self._left -= end - at
        if not b"\r\n".startswith(line_end):
            raise BadChunk("a chunk is longer than its size says")
        self._line = line_end if self._left else b""
        return end

    def _take_line(self, data: bytes, at: int) -> int:
        """A size line, or a line of the trailers."""
        end = data.find(b"\r\n", at)
        if end < 0:
            self._line = data[at:]
            if len(self._line) > MAX_LINE:
                raise BadChunk("a line between chunks is too long")
            return len(data)
        if self._trailers is None:
            self._begin(data[at:end])
        else:
            self._end(data[at:end])
        return end + 2

    def _begin(self, line: bytes) -> None:
        size = size_of(line)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0

    def _end(self, line: bytes) -> None:
        assert self._trailers is not None
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            raise BadChunk("the trailers are too long")
        self.ended = not line


def are_whole(data: bytes) -> bool:
    """Whether ``data`` is nothing but whole chunks without extensions, and not the last one."""
    at, length = 0, len(data)
    while at < length:
        end = data.find(b"\r\n", at, at + _MOST_DIGITS + 2)
        if end <= at:
            return False
        line = data[at:end]
        if not line.isalnum():
            return False
        try:
            size = int(line, 16)
        except ValueError:
            return False
        at = end + 4 + size
        if not size or at > length or data[at - 2 : at] != b"\r\n":
            return False
    return True


def size_of(line: bytes) -> int:
    """The size that a chunk's first line gives, before its extensions. Raises `BadChunk`."""
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not digits or len(digits) > _MOST_DIGITS or not _HEX.issuperset(digits):
        raise BadChunk("no chunk size where one must be")
    return int(digits, 16)
