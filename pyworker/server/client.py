"""A client's connection: aiohttp's, with a shortcut for the usual request.

aiohttp wakes a task for every request. A request that is here as a whole is first offered to `Shortcut`, which may serve
it from here: then the answer is pushed to this connection by the model server's, and no task ever knows of it. Where its
head has come before, aiohttp's parser does not either: it is only shown what is not taken.
"""

import asyncio
from http import HTTPStatus
from typing import Any, Final, Protocol

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http import RawRequestMessage

from pyworker.core.errors import BadHttp, NotReady, Refusal, TooSlow
from pyworker.core.known_heads import extent
from pyworker.server.refusals import RefusalLog
from pyworker.server.relay import Relay

KEEP_ALIVE: Final = 75.0
"""Seconds an idle client connection stays open, as nginx has it."""

HEAD_TIMEOUT: Final = 30.0
"""Seconds until the first request's head must be here; a later one's has `KEEP_ALIVE` from the end of the last request."""

BODY_PATIENCE: Final = 0.05
"""Seconds in which the rest of a short body may come before a task is woken to wait for it: clients send head and body
in two packets."""

SHORT_BODY: Final = 64 * 1024


class Shortcut(Protocol):
    """Serves a request, or says False. It ends with `ClientConnection.served` or `ClientConnection.refuse`."""

    def take_known(self, client: "ClientConnection", data: bytes) -> bool:
        """The request that starts with ``data``, if it is whole and one of those known by their head."""

    def take(self, client: "ClientConnection", message: RawRequestMessage, raw: bytes, body: bytes) -> bool:
        """The request ``message`` with its ``body``. ``raw`` is what it was read from, or empty."""


class ClientConnection(web.RequestHandler):
    """A client's connection. What is no HTTP is answered in JSON and leaves no trace: anyone can send it, any number."""

    __slots__ = (
        "_due", "_first", "_full", "_in_head", "_is_new", "_patience", "_refusals", "_relay", "_shortcut", "_taken", "_unparsed", "refusal",
    )  # fmt: skip

    def __init__(
        self,
        manager: web.Server,
        *,
        refusals: RefusalLog,
        shortcut: Shortcut | None,
        full: bool,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._refusals = refusals
        self._shortcut = shortcut
        self._full = full
        self._due: int | None = 0
        """Bytes of the request under way that have not come; 0 between two requests, None when nobody knows any more."""
        self._first = b""
        """What the last request began with, if it is known where that is."""
        self._unparsed: bytes | None = None
        """A request that is being served and that aiohttp's parser has not seen."""
        self._is_new = True
        """Nothing has been left to aiohttp yet: its task waits for a request, or is about to."""
        self._in_head = False
        """Part of a head has come, and its rest has not."""
        self._relay: Relay | None = None
        self._taken = False
        """A request is being served without a task; it is the first of `_messages`."""
        self._patience: asyncio.TimerHandle | None = None
        self.refusal: Refusal | None = None
        """What the task that has been woken is to answer."""

    # It opens...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._full:
            self._say_and_close(
                NotReady("too many connections: ask the engine for another worker", retry_after=1.0)
            )
        elif self._keepalive_handle is not None:
            # aiohttp gives the first head as long as a pause between requests
            self._keepalive_handle.cancel()
            self._next_keepalive_close_time = self._loop.time() + HEAD_TIMEOUT
            self._keepalive_handle = self._loop.call_later(HEAD_TIMEOUT, self._process_keepalive)

    # A request comes...

    def data_received(self, data: bytes) -> None:
        if not data:
            pass  # aiohttp asks itself whether more requests are in its buffer
        elif self._due == 0:
            if self._take_known(data):
                return
            self._begin_request(data)
        elif self._due is not None:
            self._due = self._due - len(data) if self._due >= len(data) else None
        self._parse(data)
        if self._messages:
            self._in_head = False
            if not isinstance(self._messages[-1][0], RawRequestMessage):
                self._break_bodies()
            self._next_request()
        else:
            self._in_head = self._is_idle()

    def _take_known(self, data: bytes) -> bool:
        """Whether ``data`` is a request that is being served now, without having been parsed."""
        if self._shortcut is None or self._messages or self._taken or self._paused or not self._is_idle():
            return False
        self._unparsed = data
        if self._shortcut.take_known(self, data):
            return True
        self._unparsed = None
        return False

    @property
    def may_go(self) -> bool:
        """Whether nothing is being done for this client: its connection can be given to another."""
        busy = self._taken or self._messages or self._current_request is not None
        return not busy and not self._force_close

    def _is_idle(self) -> bool:
        """Whether aiohttp's task waits for a request."""
        return self._is_new if self._waiter is None else not self._waiter.done()

    def _begin_request(self, data: bytes) -> None:
        whole = extent(data)
        self._due = whole - len(data) if whole is not None and whole >= len(data) else None
        self._first = b"" if self._due is None else data

    def _parse(self, data: bytes) -> None:
        self._is_new = False
        waiter, self._waiter = self._waiter, None  # so that aiohttp wakes its task only when we say so
        super().data_received(data)
        self._waiter = waiter

    def _break_bodies(self) -> None:
        """What came is no HTTP: bodies that wait for their rest will not get it."""
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("not HTTP"))

    def _next_request(self) -> None:
        """Take up the first request in line, if none is under way and the client reads its answers."""
        if self._taken or self._paused or not self._is_idle():
            return
        message, payload = self._messages[0]
        if self._shortcut is not None and isinstance(message, RawRequestMessage):
            raw = self._first if len(self._messages) == 1 else b""
            if not payload.is_eof():
                if self._waits_for(message):
                    return
            elif self._shortcut.take(self, message, raw, _read(payload)):
                return
        self._wake()

    def _waits_for(self, message: RawRequestMessage) -> bool:
        """Whether the body of ``message`` is about to be here."""
        if self._patience is None:
            length = message.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > SHORT_BODY or "Expect" in message.headers:
                return False
            self._patience = self._loop.call_later(BODY_PATIENCE, self._wake)
        return not self._patience.cancelled()

    def _wake(self) -> None:
        """Leave the first request in line to aiohttp's task."""
        self._lose_patience()
        if self._waiter is not None and not self._waiter.done():
            self._first = b""
            self._waiter.set_result(None)

    def _lose_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # It is served, without a task...

    def begin(self, relay: Relay) -> None:
        """The first request in line is taken: ``relay`` brings its answer."""
        self._lose_patience()
        self._taken = True
        self._relay = relay

    def served(self, *, keep_alive: bool) -> None:
        """It has been answered."""
        self._taken = False
        self._relay = None
        if self._parser is None:  # the connection has closed meanwhile
            return
        if self._unparsed is None:
            self._forget_message()
        self._unparsed = None
        if not keep_alive:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + KEEP_ALIVE
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_later(KEEP_ALIVE, self._process_keepalive)
        if self._messages:
            self._loop.call_soon(self._next_request)

    def _forget_message(self) -> None:
        assert self._parser is not None
        self._messages.popleft()
        self._first = b""
        self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def refuse(self, refusal: Refusal) -> None:
        """It is not going to be: aiohttp's task is to answer ``refusal``."""
        self._taken = False
        self._relay = None
        self.refusal = refusal
        if self._unparsed is not None:
            data, self._unparsed = self._unparsed, None
            self._parse(data)
        self._wake()

    def watch(self, relay: Relay | None) -> None:
        """A task relays an answer: it wants to know when this client is too slow for it."""
        self._relay = relay

    # The client is slow, or leaves...

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._relay is not None:
            self._relay.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._relay is not None:
            self._relay.resume()
        elif self._messages:
            self._next_request()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lose_patience()
        super().connection_lost(exc)
        if self._relay is not None:
            self._relay.leave()

    def _process_keepalive(self) -> None:
        """No request has come in time: one that had begun is told so."""
        if self._taken:
            self._keepalive_handle = self._loop.call_later(KEEP_ALIVE, self._process_keepalive)
        elif self._in_head and self._loop.time() >= self._next_keepalive_close_time:
            self._say_and_close(TooSlow("the request's head did not come in time"))
        else:
            super()._process_keepalive()

    def _say_and_close(self, refusal: Refusal) -> None:
        if self.transport is not None:
            self.transport.write(self._refusals.as_bytes(refusal))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - aiohttp's signature
        message: str | None = None,  # noqa: ARG002 - it quotes the request, which may hold secrets
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is half sent: no other may follow it")
        assert status < HTTPStatus.INTERNAL_SERVER_ERROR
        response = self._refusals.answer(BadHttp("the request is not valid HTTP"), None)
        response.force_close()
        return response


def _read(payload: StreamReader) -> bytes:
    """All of a body that has come whole, without taking it: aiohttp's task may yet want it."""
    if payload is EMPTY_PAYLOAD:
        return b""
    pieces = payload._buffer  # noqa: SLF001 - there is no public way to look at it
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
