"""One HTTP/1.1 connection to the model server.

An answer is pushed, not pulled: bytes go from the socket straight into the request's `Reader`, so a streamed chunk wakes
no task. A body is only looked at for its end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import inf
from typing import Final, Protocol, cast

from pyworker.core.chunks import BadChunk, Chunks
from pyworker.core.clocks import Clocks
from pyworker.core.errors import AnswerBroken, AnswerTimeout, Refusal
from pyworker.core.heads import BadHead, Head, may_become_head, read_head
from pyworker.model.upload import Upload

STALE_WITHIN: Final = 0.1
"""Seconds in which a pooled connection that the model server had closed shows that it is dead."""

JOINED: Final = 256 * 1024
"""A request's head and body travel together up to this size; above it joining them costs more than a second write."""

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's head; nginx has 4 to 8 KiB, aiohttp 8 KiB a line."""

NOT_HTTP: Final = "the model server's answer is not HTTP"


class Reader(Protocol):
    """Who an answer is for. First `answered`, then `received` for each piece, then `ended`; or `ended` alone."""

    def answered(self, head: Head, *, bodiless: bool) -> bool:
        """The head is here; ``bodiless``: and that is all. True: give me a chunked body as it is framed, without its end."""

    def received(self, data: bytes) -> None:
        """Bytes of the body, or of the other protocol after 101. Empty once when none came with the head."""

    def ended(self, error: AnswerBroken | Refusal | None) -> None:
        """The answer is whole, or there was none or not all of it: ``error`` says why."""


@dataclass(slots=True)
class Asked:
    """A request for the model server. ``may_switch``: an answer of 101 is welcome, the headers have asked for it."""

    head: bytes
    body: bytes | Upload
    clocks: Clocks
    is_head: bool = False
    may_switch: bool = False


class Connection(asyncio.Protocol):
    """One connection: a request at a time, and its answer."""

    __slots__ = (
        "_asked", "_asked_at", "_begun", "_chunks", "_client_sends", "_framed", "_full", "_head", "_head_came", "_left",
        "_lost", "_on_room", "_reader", "_reading_paused", "_released", "_sender", "_stays", "_switched",
        "_take", "_timer", "_timer_at", "_transport", "closed", "heard", "loop", "moved_at", "used",
    )  # fmt: skip

    def __init__(  # noqa: PLR0915 - each is a field
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        released: Callable[["Connection"], None],
        lost: Callable[["Connection"], None],
    ) -> None:
        # Lives as long as the connection.
        self.loop = loop
        self._released = released
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self.closed = False
        self.used = False
        """Whether it has served a request before the one that is under way."""
        self._reading_paused = False
        self._full = False
        self._on_room: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        # Lives as long as a request.
        self._reader: Reader | None = None
        self._asked: Asked | None = None
        self._asked_at = 0.0
        self.moved_at = 0.0
        """When the last byte went or came, in the loop's seconds."""
        self._head_came = inf
        self.heard = False
        """Whether a byte has come since the request went out."""
        self._sender: asyncio.Task[None] | None = None
        self._client_sends = False
        # Lives as long as an answer.
        self._begun = b""
        """A head whose end has not come."""
        self._head: Head | None = None
        self._stays = False
        self._framed = False
        self._switched = False
        self._left = 0
        """Bytes still to come of a body whose length is known."""
        self._chunks: Chunks | None = None
        self._take: Callable[[bytes], None] = self._take_unasked
        """What becomes of the bytes that come next."""

    @property
    def flowed_at(self) -> float | None:
        """When an answer's body last grew; None when it has not. A head alone is no life: a frozen vLLM sends heads still."""
        return self.moved_at if self.moved_at > self._head_came else None

    # Asking...

    def send(self, asked: Asked, reader: Reader) -> None:
        """Send a request, whose answer is for ``reader``."""
        assert self._transport is not None
        assert self._reader is None
        self._asked = asked
        self._reader = reader
        self._take = self._take_head
        self.heard = False
        self._asked_at = self.moved_at = self.loop.time()
        self._head_came = inf
        body = asked.body
        if isinstance(body, Upload):
            self._client_sends = True
            self._transport.write(asked.head)
            self._sender = self.loop.create_task(self._send(body))
        elif len(body) > JOINED:
            self._transport.write(asked.head)
            self._transport.write(body)
        else:
            self._transport.write(asked.head + body)
        self._watch(asked.clocks.shortest)

    @property
    def found_dead(self) -> bool:
        """It had been closed before the request reached it, as far as anyone can tell: it ended at once, without a byte."""
        return self.used and not self.heard and self.loop.time() - self._asked_at <= STALE_WITHIN

    async def _send(self, upload: Upload) -> None:
        """Pass an upload on, as fast as both sides are."""
        try:
            while piece := await self._wait_for(upload.piece()):
                self._write_piece(piece, chunked=upload.length is None)
                self.moved_at = self.loop.time()
                while self._full:
                    await self._room()
            if upload.length is None:
                self._write_piece(b"", chunked=True)
        except Refusal as refusal:
            self._fail(refusal)
            return
        self._client_sends = False
        self.moved_at = self.loop.time()

    async def _wait_for(self, piece: Awaitable[bytes]) -> bytes:
        self._client_sends = True
        found = await piece
        self._client_sends = False
        return found

    def _write_piece(self, piece: bytes, *, chunked: bool) -> None:
        assert self._transport is not None
        if chunked:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        else:
            self._transport.write(piece)

    async def _room(self) -> None:
        room = asyncio.Event()
        self._on_room = room.set
        await room.wait()

    def write(self, data: bytes, on_room: Callable[[], None]) -> bool:
        """Send bytes of another protocol; False: call again only after ``on_room``."""
        if self._transport is not None and not self.closed:
            self._transport.write(data)
        self._on_room = on_room
        return not self._full

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._on_room is not None:
            self._on_room()

    # The clocks: one timer a connection, set on as long as something moves...

    def _watch(self, seconds: float) -> None:
        when = self.loop.time() + seconds
        if when < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = when
            self._timer = self.loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._asked is None:
            return
        deadline, why = self._asked.clocks.soonest(
            asked=self._asked_at,
            since=self.moved_at,
            answering=self._head is not None,
            models_turn=not (self._client_sends or self._reading_paused or self._switched),
        )
        now = self.loop.time()
        if deadline <= now:
            self._fail(AnswerTimeout(f"the model server {why}"))
        else:
            self._watch(min(deadline - now, self._asked.clocks.shortest))

    # What the transport says...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.moved_at = self.loop.time()
        self._take(data)

    def _take_unasked(self, data: bytes) -> None:  # noqa: ARG002 - whatever it is
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        head = self._head
        until_close = head is not None and head.length is None and not head.chunked
        if until_close and exc is None:
            self._finish()
        else:
            self._fail(AnswerBroken("the model server closed the connection"))
        self._lost(self)

    # The head...

    def _take_head(self, data: bytes) -> None:
        if self._begun:
            data, self._begun = self._begun + data, b""
        while data:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:  # noqa: PLR2004 - not found
                if len(data) > MAX_HEAD or not may_become_head(data):
                    self._fail(AnswerBroken(NOT_HTTP))
                else:
                    self._begun = data
                return
            try:
                head = read_head(data[:end])
            except BadHead:
                self._fail(AnswerBroken(NOT_HTTP))
                return
            if not head.informational:
                self._begin_body(head, data[end:])
                return
            data = data[end:]

    def _begin_body(self, head: Head, data: bytes) -> None:
        assert self._reader is not None
        assert self._asked is not None
        if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
            if not self._asked.may_switch:
                self._fail(AnswerBroken("the model server switched protocols, which nobody asked for"))
                return
            self._switched = True
        self._head = head
        self._head_came = self.moved_at
        self._stays = head.stays
        bodiless = self._asked.is_head or head.bodiless
        self._framed = self._reader.answered(head, bodiless=bodiless)
        if bodiless or head.length == 0:
            self._end_body(data)
        elif head.length is not None and len(data) == head.length:  # a short answer in one piece
            self._reader.received(data)
            self._finish()
        else:
            self._take = self._way_of_body(head)
            if data:
                self._take(data)
            else:
                self._reader.received(b"")

    def _way_of_body(self, head: Head) -> Callable[[bytes], None]:
        assert self._reader is not None
        if head.chunked:
            self._chunks = Chunks()
            return self._take_chunks
        if head.length is not None:
            self._left = head.length
            return self._take_counted
        return self._take_until_close if self._framed else self._reader.received

    # The body...

    def _take_counted(self, data: bytes) -> None:
        assert self._reader is not None
        here, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(here)
        self._reader.received(here)
        if not self._left:
            self._end_body(rest)

    def _take_chunks(self, data: bytes) -> None:
        assert self._reader is not None
        chunks = self._chunks
        assert chunks is not None
        try:
            found = chunks.framed(data) if self._framed else b"".join(chunks.split(data))
        except BadChunk as error:
            self._fail(AnswerBroken(f"{NOT_HTTP}: {error}"))
            return
        if found:
            self._reader.received(found)
        if chunks.ended:
            self._end_body(chunks.rest)

    def _take_until_close(self, data: bytes) -> None:
        assert self._reader is not None
        self._reader.received(b"%x\r\n%b\r\n" % (len(data), data))

    def _end_body(self, rest: bytes) -> None:
        if rest:  # an answer that nobody asked for
            self._stays = False
        self._finish()

    # Ending...

    def _finish(self) -> None:
        """The answer is whole: the connection is free for the next request, if both sides have said all."""
        stays = self._stays and self._all_sent() and not self._switched and not self.closed
        reader = self._reader
        self._head_came = -inf
        self._forget()
        if stays:
            self.used = True
            self.resume()
        else:
            self.abort()
        self._released(self)
        if reader is not None:
            reader.ended(None)

    def _all_sent(self) -> bool:
        """Not so when the answer came before the request had gone out whole: what follows would be read as its rest."""
        sending = self._sender is not None and not self._sender.done()
        return not sending and self._transport is not None and self._transport.get_write_buffer_size() == 0

    def _fail(self, error: AnswerBroken | Refusal) -> None:
        self.abort()
        reader = self._reader
        self._forget()
        if reader is not None:
            reader.ended(error)

    def leave(self) -> None:
        """Nobody waits for the answer any more: cut the connection, so that the model server stops working on it."""
        self._forget()
        self.abort()

    def _forget(self) -> None:
        """Nothing is left of the request that was under way."""
        self._reader = None
        self._asked = None
        self._take = self._take_unasked
        self._head = None
        self._begun = b""
        self._left = 0
        self._chunks = None
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._client_sends = False
        self._on_room = None

    def abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Let the model server wait until `resume`."""
        if not self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = False
            self.moved_at = self.loop.time()
            self._transport.resume_reading()
