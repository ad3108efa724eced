"""Which headers go on, either way (protocol.md section 1): what is this hop's, and what is the worker's business alone."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_plus

from aiohttp import web
from multidict import CIMultiDictProxy

from pyworker.core.heads import Head, Header

PASSED_ON: Final = ("Accept", "Accept-Encoding", "X-Request-Id", "traceparent")
"""Headers that go on from a client with its grant in the envelope, and nothing else of its head."""

PASSED_ON_ONCE: Final = ("X-Request-Id", "traceparent")
"""Those of them that differ from one request of a client's to its next."""

_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip

_KEPT_BACK: Final = frozenset({
    b"authorization", b"cookie", b"x-auth-data", b"x-session-id", b"host", b"content-length", b"expect",
})  # fmt: skip
"""End-to-end headers that do not go on from a client with its grant in a header."""


# Towards the model server...


def passed_on(headers: CIMultiDictProxy[str]) -> list[Header]:
    """What goes on of the head of a request with its grant in the envelope."""
    return [
        (name.encode(), value.encode("utf-8", "surrogateescape"))
        for name in PASSED_ON
        if name in headers
        for value in headers.getall(name)
    ]


def own_headers(request: web.BaseRequest) -> list[Header]:
    """All end-to-end headers of a request with its grant in a header, but for what is the worker's business alone."""
    return [header for header in end_to_end(request.raw_headers) if header[0].lower() not in _KEPT_BACK]


def own_query(request: web.BaseRequest) -> str:
    """The query, with its question mark, without the client's API key."""
    pairs = request.raw_path.partition("?")[2].split("&")
    kept = [pair for pair in pairs if pair and unquote_plus(pair.partition("=")[0]) != "api_key"]
    return "?" + "&".join(kept) if kept else ""


def wants_switch(request: web.BaseRequest) -> bool:
    """Whether the client asks for a WebSocket."""
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


# Towards the client...


def head_for_client(head: Head, *, chunked: bool, http11: bool, keep_alive: bool) -> bytes:
    """The head of the model server's answer as it goes on: end-to-end headers as they were, and this hop's own."""
    kind = (chunked, http11, keep_alive)
    made = head.for_clients.get(kind)
    if made is None:
        made = head.for_clients[kind] = _made(head, chunked=chunked, http11=http11, keep_alive=keep_alive)
    return made


def _made(head: Head, *, chunked: bool, http11: bool, keep_alive: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    for name, value in end_to_end(head.headers):
        if head.length is not None or name.lower() != b"content-length":
            lines.append(b"%b: %b\r\n" % (name, value))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    elif not keep_alive:
        lines.append(b"Connection: close\r\n")
    elif not http11:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def end_to_end(headers: Sequence[Header]) -> list[Header]:
    """The headers meant for the other end: none of this hop's, none that ``Connection`` names."""
    dropped = _HOP_BY_HOP
    for name, value in headers:
        if len(name) == 10 and name.lower() == b"connection":  # noqa: PLR2004 - the name's own length, which is quicker
            dropped = dropped | {token.strip().lower() for token in value.split(b",")}
    return [header for header in headers if header[0].lower() not in dropped]
