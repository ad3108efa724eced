"""The heads of a model server's answers: bytes → `Head`, read by llhttp.

A model server says nearly the same head again and again, so what was read is remembered by its bytes.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import httptools

REMEMBERED: Final = 256
"""Heads remembered. A server that dates its answers makes one a second for each of their lengths."""

Header = tuple[bytes, bytes]

_START: Final = b"HTTP/1."
_BODILESS: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class BadHead(ValueError):
    """What came is not the head of an HTTP/1.x answer."""


@dataclass(slots=True)
class Head:
    """The head of an answer. ``length`` is its Content-Length, None when it is chunked or ends with the connection."""

    status: int
    reason: bytes
    headers: tuple[Header, ...]
    length: int | None
    chunked: bool
    stays: bool
    """The model server keeps the connection for the next request."""
    for_clients: dict[tuple[bool, bool, bool], bytes] = field(default_factory=dict, repr=False, compare=False)
    """What became of it for clients, by what they are: kept by whoever makes it."""

    @property
    def informational(self) -> bool:
        """The real answer follows."""
        return self.status < HTTPStatus.OK and self.status != HTTPStatus.SWITCHING_PROTOCOLS

    @property
    def bodiless(self) -> bool:
        """Whatever ``length`` says, no body follows; nor does one to a request for the head alone."""
        return self.status in _BODILESS


def may_become_head(data: bytes) -> bool:
    """Whether ``data``, as far as it goes, looks like the beginning of an answer."""
    return data.startswith(_START) if len(data) >= len(_START) else _START.startswith(data)


@lru_cache(maxsize=REMEMBERED)
def read_head(raw: bytes) -> Head:
    """The head that ``raw`` is, with the empty line at its end. Raises `BadHead`."""
    notes = _Notes()
    try:
        notes.parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadHead(str(error)) from error
    if not notes.complete:
        raise BadHead("its end is missing")
    length, chunked = _framing(notes.headers)
    return Head(notes.status, notes.reason, tuple(notes.headers), length, chunked, notes.stays)


class _Notes:
    """What llhttp says."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.reason = b""
        self.headers: list[Header] = []
        self.stays = False
        self.complete = False

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.stays = self.parser.should_keep_alive()
        self.complete = True


def _framing(headers: list[Header]) -> tuple[int | None, bool]:
    """Content-Length, and whether the body is chunked (then the former is None). llhttp has refused what is ambiguous."""
    length, chunked = None, False
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            length = int(value)
        elif lower == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadHead(f"transfer coding {value[:50]!r} is not supported")
            chunked = True
    return (None, True) if chunked else (length, False)
