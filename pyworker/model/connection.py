"""One HTTP/1.1 connection to the model server, and its answers as they come.

An answer is pushed, not pulled: bytes go from the socket through the parser straight into the reader's function, so a
streamed chunk wakes no task. `ModelAnswer.pause` and `resume` carry back-pressure.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from math import inf
from typing import Final, Protocol, cast

import httptools

from pyworker.core.clocks import Clocks
from pyworker.core.errors import AnswerBroken, AnswerTimeout, Refusal

MAX_BUFFERED: Final = 256 * 1024
"""Bytes of an answer held before anyone reads it; past it the model server waits."""

KEPT: Final = 256 * 1024
"""Bytes of an upload kept, so that it can be sent again when a pooled connection turns out to be dead."""

Header = tuple[bytes, bytes]
Sink = Callable[[bytes], None]


class Body(Protocol):
    """A request's body that is still coming."""

    async def piece(self) -> bytes:
        """The next bytes, empty at the end; a cancelled call loses none. Raises `Refusal`."""


class Upload:
    """A body that is sent on as it comes: ``length`` bytes, or chunked where nobody knows how many."""

    def __init__(self, body: Body, length: int | None) -> None:
        self._body = body
        self.length = length
        self._kept: list[bytes] | None = []
        self._size = 0
        self._again: deque[bytes] = deque()

    async def piece(self) -> bytes:
        if self._again:
            return self._again.popleft()
        piece = await self._body.piece()
        if self._kept is not None:
            self._size += len(piece)
            self._kept.append(piece)
            if self._size > KEPT:
                self._kept = None
        return piece

    def rewind(self) -> bool:
        """Begin again, for another connection; False when too much of it is gone."""
        if self._kept is None:
            return False
        self._again = deque(self._kept)
        return True


class ModelAnswer:
    """One answer of the model server: its head now, its body through `read` or `attach`."""

    __slots__ = ("_buffer", "_buffered", "_connection", "_error", "_sink", "_waiter", "chunked", "ended", "headers",
                 "length", "reason", "status")  # fmt: skip

    def __init__(self, connection: "Connection", status: int, reason: bytes, headers: list[Header]) -> None:
        self._connection = connection
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length: int | None = None
        """Its Content-Length; None when it is chunked or ends with the connection."""
        self.chunked = False
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-length":
                self.length = int(value)
            elif lower == b"transfer-encoding":
                self.chunked = b"chunked" in value.lower()
        if self.chunked:
            self.length = None
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: AnswerBroken | None = None
        self.ended = False

    # The connection's side...

    def feed(self, chunk: bytes) -> None:
        if self._sink is not None:
            self._sink(chunk)
            return
        self._buffer.append(chunk)
        self._buffered += len(chunk)
        if self._buffered > MAX_BUFFERED:
            self.pause()

    def end(self, error: AnswerBroken | None = None) -> None:
        self.ended = True
        self._error = error
        self.wake()

    # The reader's side...

    async def read(self) -> bytes:
        """The whole body. Raises `AnswerBroken` when it does not arrive whole."""
        if self.ended and self._error is None:  # the usual case: it came with the head
            return b"".join(self._buffer)
        parts: list[bytes] = []
        self.attach(parts.append)
        while not self.ended:
            await self.turn()
        self.check()
        return b"".join(parts)

    def attach(self, sink: Sink) -> None:
        """Give every byte of the body, from the first, to ``sink``."""
        self._sink = sink
        self.resume()  # first: the sink may ask for a pause
        while self._buffer:
            sink(self._buffer.popleft())

    async def turn(self) -> None:
        """Wait until the answer ends or `wake` is called."""
        if not self.ended:
            self._waiter = self._connection.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def check(self) -> None:
        """Raises `AnswerBroken` when the answer ended before its end."""
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Stop reading from the model server until `resume`."""
        if not self.ended:  # else the connection may serve another request by now
            self._connection.pause()

    def resume(self) -> None:
        if not self.ended:
            self._connection.resume()

    def close(self) -> None:
        """Leave the answer. If it has not ended its connection is cut, so that the model server stops working on it."""
        if not self.ended:
            self._connection.abort()

    # After 101, when the connection is no longer HTTP...

    def write(self, data: bytes, on_room: Callable[[], None]) -> bool:
        """Send ``data`` to the model server. False: that is enough for now, until ``on_room`` is called."""
        return self.ended or self._connection.write(data, on_room)


class Connection(asyncio.Protocol):
    """One connection: a request at a time, and the parser of its answers."""

    def __init__(
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
        self._parser = httptools.HttpResponseParser(self)
        self.closed = False
        self._reading_paused = False
        self._full = False
        self._on_room: Callable[[], None] | None = None
        # Lives as long as a request.
        self.heard = False
        """Whether a byte has come since the last request went out."""
        self._head: asyncio.Future[ModelAnswer] | None = None
        self._answer: ModelAnswer | None = None
        self._reason = b""
        self._headers: list[Header] = []
        self._skip = False
        self._is_head = False
        self._may_switch = False
        self._switched = False
        self._sender: asyncio.Task[None] | None = None
        self._client_sends = False
        self._clocks = Clocks()
        self._asked = 0.0
        self._moved = 0.0
        self._head_came = inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def flowed_at(self) -> float | None:
        """When an answer's body last grew; None when it has not. A head alone is no life: a frozen vLLM sends heads still."""
        return self._moved if self._moved > self._head_came else None

    # Asking...

    async def ask(
        self,
        head: bytes,
        body: bytes | Upload,
        *,
        clocks: Clocks,
        is_head: bool = False,
        may_switch: bool = False,
    ) -> ModelAnswer:
        """Send a request and return its answer once the head is here.

        Raises `AnswerBroken` if none comes, `AnswerTimeout` if a clock runs out, the `Refusal` of an upload that failed.
        """
        assert self._transport is not None
        assert self._head is None
        self._is_head = is_head
        self._may_switch = may_switch
        self.heard = False
        self._head_came = inf
        self._head = self.loop.create_future()
        self._clocks = clocks
        self._asked = self._moved = self.loop.time()
        if isinstance(body, Upload):
            self._client_sends = True
            self._transport.write(head)
            self._sender = self.loop.create_task(self._send(body))
        elif len(body) > MAX_BUFFERED:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)
        self._watch()
        try:
            return await self._head
        except asyncio.CancelledError:
            self.abort()
            raise

    async def _send(self, upload: Upload) -> None:
        """Pass an upload on, as fast as both sides are."""
        try:
            while piece := await self._wait_for(upload.piece()):
                self._write_piece(piece, chunked=upload.length is None)
                self._moved = self.loop.time()
                while self._full:
                    await self._room()
            if upload.length is None:
                self._write_piece(b"", chunked=True)
        except Refusal as refusal:
            self._fail(refusal)
            return
        self._client_sends = False
        self._moved = self.loop.time()

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

    # The clocks: one timer a request, set again as long as something moves...

    def _watch(self, deadline: float = inf) -> None:
        when = min(deadline, self.loop.time() + self._clocks.shortest)
        if when < inf:
            self._timer = self.loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        deadline, why = self._clocks.soonest(
            asked=self._asked,
            since=self._moved,
            answering=self._answer is not None,
            models_turn=not (self._client_sends or self._reading_paused or self._switched),
        )
        if deadline <= self.loop.time():
            self._fail(AnswerTimeout(f"the model server {why}"))
        else:
            self._watch(deadline)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the transport says...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._moved = self.loop.time()
        if self._switched:
            self._feed_switched(data)
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._switch(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._fail(AnswerBroken("the model server's answer is not HTTP"))

    def _switch(self, rest: bytes) -> None:
        if self._switched:
            self._feed_switched(rest)
        else:
            self._fail(AnswerBroken("the model server switched protocols, which nobody asked for"))

    def _feed_switched(self, data: bytes) -> None:
        if self._answer is not None and data:
            self._answer.feed(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and self._ends_with_connection(self._answer) and exc is None:
            self._finish(self._answer)
        else:
            self._fail(AnswerBroken("the model server closed the connection"))
        self._lost(self)

    @staticmethod
    def _ends_with_connection(answer: ModelAnswer) -> bool:
        return answer.length is None and not answer.chunked

    # What the parser says...

    def on_status(self, reason: bytes) -> None:
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer is None:  # after the head these are trailers, which are dropped
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        reason, headers = self._reason, self._headers
        self._reason, self._headers = b"", []
        if status == HTTPStatus.SWITCHING_PROTOCOLS and self._may_switch:
            self._switched = True
        elif status < HTTPStatus.OK:  # informational: the real answer follows
            self._skip = True
            return
        if self._head is None or self._head.done():
            self.abort()
            return
        self._head_came = self._moved
        self._answer = ModelAnswer(self, status, reason, headers)
        self._head.set_result(self._answer)
        if self._is_head:
            self._finish(self._answer)
            self.abort()

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(body)

    def on_message_complete(self) -> None:
        if self._skip:
            self._skip = False
        elif self._answer is not None and not self._switched:
            self._finish(self._answer)

    # Ending...

    def _finish(self, answer: ModelAnswer) -> None:
        """The answer is whole: the connection is free for the next request, if both sides have said all."""
        stays = self._parser.should_keep_alive() and self._all_sent() and not self._switched
        self._head_came = -inf
        self._end()
        answer.end()
        if not self.closed and not stays:
            self.abort()
        self.resume()
        self._released(self)

    def _all_sent(self) -> bool:
        """Not so when the answer came before the request had gone out whole: what follows would be read as its rest."""
        sending = self._sender is not None and not self._sender.done()
        return not sending and self._transport is not None and self._transport.get_write_buffer_size() == 0

    def _end(self) -> None:
        """Nothing is left of the request that was under way."""
        self._answer = None
        self._head = None
        self._unwatch()
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        self._client_sends = False
        self._on_room = None

    def _fail(self, error: AnswerBroken | Refusal) -> None:
        self.abort()
        head, answer = self._head, self._answer
        self._end()
        if answer is not None and not answer.ended:
            answer.end(error if isinstance(error, AnswerBroken) else AnswerBroken(str(error)))
        elif head is not None and not head.done():
            head.set_exception(error)

    def abort(self) -> None:
        self.closed = True
        self._unwatch()
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if not self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._reading_paused and self._transport is not None and not self.closed:
            self._reading_paused = False
            self._moved = self.loop.time()
            self._transport.resume_reading()
