"""The model server's answer → the client's connection, byte for byte.

Short answers are read whole first, so that one that breaks off is still a 502. Longer ones and streams go on as they
come, each chunk written to the client's transport by the model connection itself: no task wakes for it.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web

from pyworker.core.errors import AnswerBroken, AnswerTimeout, ModelTimeout, ModelUnreachable
from pyworker.model.connection import Header, ModelAnswer

READ_WHOLE: Final = 64 * 1024
"""An answer whose Content-Length is at most this is read before its head goes out (protocol.md section 1: the
official client retries an answer that breaks off in mid-body at once and for ever, but backs off from a 502)."""

HIGH_WATER: Final = 64 * 1024
"""Bytes waiting for a slow client before the model server has to wait."""

READ_PAUSE: Final = 300.0
"""Seconds a client may go without reading while the model server waits for it: then it counts as gone."""

_HOP_BY_HOP: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer",
    b"transfer-encoding", b"upgrade",
})  # fmt: skip


class Relayed(web.StreamResponse):
    """An answer that is on the wire already: aiohttp has only to go on with the next request, or close."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing left to write."""


async def relay(request: web.BaseRequest, answer: ModelAnswer) -> Relayed:
    """Pass ``answer`` on to the client of ``request``.

    Raises `ModelUnreachable` or `ModelTimeout` when it breaks before a byte went out, `AnswerBroken` when it breaks later:
    then the client's connection has been cut, so that what it got cannot look complete.
    """
    if answer.status == HTTPStatus.SWITCHING_PROTOCOLS:
        return await _both_ways(request, answer)
    if answer.length is not None and answer.length <= READ_WHOLE:
        return await _whole(request, answer)
    return await _as_it_comes(request, answer)


async def _whole(request: web.BaseRequest, answer: ModelAnswer) -> Relayed:
    try:
        body = await answer.read()
    except AnswerTimeout as error:
        raise ModelTimeout(f"{error} in the middle of its answer") from error
    except AnswerBroken as error:
        raise ModelUnreachable(f"{error} in the middle of its answer") from error
    keep_alive = bool(request.keep_alive)
    transport = _transport(request)
    transport.write(_head(request, answer, keep_alive=keep_alive) + body)
    if transport.get_write_buffer_size() > HIGH_WATER:  # a client that asks on and on without reading
        await request.writer.drain()
    return Relayed(answer.status, keep_alive=keep_alive)


async def _as_it_comes(request: web.BaseRequest, answer: ModelAnswer) -> Relayed:
    transport = _transport(request)
    bodiless = request.method == "HEAD" or answer.status in {204, 304}
    chunked = answer.length is None and not bodiless and request.version >= (1, 1)
    keep_alive = bool(request.keep_alive) and (chunked or bodiless or answer.length is not None)
    head = _head(request, answer, keep_alive=keep_alive, chunked=chunked)
    pump = _Pump(answer, transport, head, chunked=chunked)
    answer.attach(pump.write)
    pump.flush_head()
    try:
        await _until_end(request, answer, pump)
    except AnswerBroken:
        _cut(transport, hard=not chunked and answer.length is None)
        raise
    if chunked:
        transport.write(b"0\r\n\r\n")
    return Relayed(answer.status, keep_alive=keep_alive)


async def _both_ways(request: web.BaseRequest, answer: ModelAnswer) -> Relayed:
    """The model server has switched protocols (WebSocket): bytes both ways until either side ends it."""
    transport = _transport(request)
    transport.write(_head(request, answer, keep_alive=True))
    pump = _Pump(answer, transport, b"", chunked=False)
    answer.attach(pump.write)
    request.protocol.set_parser(cast("Any", _Upstream(request.protocol, answer)))
    try:
        await _until_end(request, answer, pump)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if not transport.is_closing() or task is None or task.uncancel():
            raise
        # the client has closed the connection: that is how a WebSocket ends
    return Relayed(answer.status, keep_alive=False)


class _Upstream:
    """What aiohttp hands a client's bytes to after the switch: they go to the model server, as fast as it takes them."""

    def __init__(self, protocol: web.RequestHandler, answer: ModelAnswer) -> None:
        self._protocol = protocol
        self._answer = answer
        self._paused = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if not self._answer.write(data, self._room) and not self._paused:
            self._paused = True
            self._protocol.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """The client is gone; its request is being cancelled."""

    def _room(self) -> None:
        if self._paused:
            self._paused = False
            self._protocol.resume_reading()


async def _until_end(request: web.BaseRequest, answer: ModelAnswer, pump: "_Pump") -> None:
    """Return when ``answer`` has gone out whole. Raises `AnswerBroken` when it did not come whole."""
    while not answer.ended:
        if not pump.full:
            await answer.turn()
            continue
        try:
            async with asyncio.timeout(READ_PAUSE):
                await request.writer.drain()
        except TimeoutError:
            _transport(request).abort()
            raise asyncio.CancelledError from None
        pump.go_on()
    answer.check()


class _Pump:
    """Writes the chunks of an answer to a transport, and stops the model server when the client is too slow."""

    __slots__ = ("_answer", "_chunked", "_head", "_transport", "full")

    def __init__(
        self, answer: ModelAnswer, transport: asyncio.Transport, head: bytes, *, chunked: bool
    ) -> None:
        self._answer = answer
        self._transport = transport
        self._chunked = chunked
        self._head = head
        self.full = False

    def write(self, chunk: bytes) -> None:
        framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._chunked else chunk
        if self._head:  # the head travels with the first chunk, in one packet
            framed, self._head = self._head + framed, b""
        self._transport.write(framed)
        if self._transport.get_write_buffer_size() > HIGH_WATER and not self.full:
            self.full = True
            self._answer.pause()
            self._answer.wake()

    def flush_head(self) -> None:
        """No chunk came with the head: let the client have it now."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def go_on(self) -> None:
        self.full = False
        self._answer.resume()


def _transport(request: web.BaseRequest) -> asyncio.Transport:
    if request.transport is None or request.transport.is_closing():
        raise asyncio.CancelledError  # the client is gone; aiohttp is about to say so
    return request.transport


def _cut(transport: asyncio.Transport, *, hard: bool) -> None:
    """End the connection without the end of the answer; ``hard``: by reset, where a plain close would look like one."""
    if hard:
        transport.abort()
    else:
        transport.close()


def _head(request: web.BaseRequest, answer: ModelAnswer, *, keep_alive: bool, chunked: bool = False) -> bytes:
    lines = [b"HTTP/1.1 %d %b\r\n" % (answer.status, answer.reason)]
    for name, value in end_to_end(answer.headers):
        if answer.length is not None or name.lower() != b"content-length":
            lines.append(b"%b: %b\r\n" % (name, value))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if answer.status == HTTPStatus.SWITCHING_PROTOCOLS:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    elif not keep_alive:
        lines.append(b"Connection: close\r\n")
    elif request.version < (1, 1):
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def end_to_end(headers: list[Header]) -> list[Header]:
    """The headers meant for the other end: none of this hop's, none that ``Connection`` names."""
    dropped = _HOP_BY_HOP
    for name, value in headers:
        if name.lower() == b"connection":
            dropped = dropped | {token.strip().lower() for token in value.split(b",")}
    return [(name, value) for name, value in headers if name.lower() not in dropped]
