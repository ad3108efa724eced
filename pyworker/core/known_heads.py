"""Heads of requests that have come before: a client says nearly the same one again and again.

What was once read and found usual is remembered by its bytes, without the value of its ``Content-Length``, which is all
that differs from one request of a client's to its next.
"""

from typing import Final, Generic, TypeVar

REMEMBERED: Final = 256
"""Heads remembered; each is a kind of client and a route."""

MAX_HEAD: Final = 4096
"""Bytes of a head that is remembered."""

_MOST_DIGITS: Final = 10
_NAMES: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")

_T = TypeVar("_T")


class KnownHeads(Generic[_T]):
    """What each head means, as whoever `learn`s it says. Learn only what an HTTP parser has accepted."""

    def __init__(self) -> None:
        self._known: dict[bytes, _T] = {}

    def find(self, data: bytes) -> tuple[_T, int, int] | None:
        """What the head at the start of ``data`` means, where its body starts, and the body's length in bytes."""
        found = _taken_apart(data)
        if found is None:
            return None
        head, start, length = found
        meaning = self._known.get(head)
        return None if meaning is None else (meaning, start, length)

    def learn(self, data: bytes, meaning: _T) -> None:
        """Remember the head at the start of ``data``; past `REMEMBERED` the one learned first is forgotten."""
        found = _taken_apart(data)
        if found is None or found[1] > MAX_HEAD or found[0] in self._known:
            return
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[found[0]] = meaning


def extent(data: bytes) -> int | None:
    """The length in bytes of the request that starts ``data``, if its head is whole and names one."""
    found = _taken_apart(data)
    return None if found is None else found[1] + found[2]


def _taken_apart(data: bytes) -> tuple[bytes, int, int] | None:
    """The head without its body's length, where the body starts, and its length."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    for name in _NAMES:
        at = data.find(name, 0, end)
        if at >= 0:
            break
    else:
        return None
    at += len(name)
    stop = data.find(b"\r\n", at)
    number = data[at:stop]
    if not number.isdigit() or len(number) > _MOST_DIGITS:
        return None
    return data[:at] + data[stop:end], end + 4, int(number)
