"""Pooled HTTP/1.1 connections to the model server, and its answers as they come.

An answer is pushed, not pulled: bytes go from the socket through the parser straight into the reader's function, so a
streamed chunk wakes no task. `ModelAnswer.pause` and `resume` carry back-pressure.
"""

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

from pyworker.core.errors import AnswerBroken, ModelTimeout, ModelUnreachable

CONNECT_TIMEOUT: Final = 10.0
"""Seconds. The model server is next door; ten seconds of silence is a full backlog or a wrong address."""

MAX_BUFFERED: Final = 256 * 1024
"""Bytes of an answer held before anyone reads it; past it the model server waits."""

STALE_WITHIN: Final = 0.1
"""Seconds in which a pooled connection that the model server had closed shows that it is dead."""

MAX_IDLE_CONNECTIONS: Final = 256

Header = tuple[bytes, bytes]
Sink = Callable[[bytes], None]


class ModelAnswer:
    """One answer of the model server: its head now, its body through `read` or `relay`."""

    __slots__ = ("_buffer", "_buffered", "_connection", "_error", "_sink", "_waiter", "chunked", "ended", "headers",
                 "length", "reason", "status")  # fmt: skip

    def __init__(self, connection: "_Connection", status: int, reason: bytes, headers: list[Header]) -> None:
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


class _Connection(asyncio.Protocol):
    """One connection: a request at a time, and the parser of its answers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        released: Callable[["_Connection"], None],
        lost: Callable[["_Connection"], None],
    ) -> None:
        # Lives as long as the connection.
        self.loop = loop
        self._released = released
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.closed = False
        self.heard = False
        """Whether a byte has come since the last request went out."""
        self._paused = False
        # Lives as long as a request.
        self._head: asyncio.Future[ModelAnswer] | None = None
        self._answer: ModelAnswer | None = None
        self._reason = b""
        self._headers: list[Header] = []
        self._skip = False
        self._is_head = False

    # Asking...

    async def ask(self, head: bytes, body: bytes, *, is_head: bool = False) -> ModelAnswer:
        """Send a request and return its answer once the head is here. Raises `AnswerBroken` if none comes."""
        assert self._transport is not None
        assert self._head is None
        self._is_head = is_head
        self.heard = False
        self._head = self.loop.create_future()
        if len(body) > MAX_BUFFERED:
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)
        try:
            return await self._head
        except asyncio.CancelledError:
            self.abort()
            raise

    # What the transport says...

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        self.heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("the model server's answer is not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and self._ends_with_connection(self._answer) and exc is None:
            self.on_message_complete()
        else:
            self._fail("the model server closed the connection")
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
        if status < HTTPStatus.OK:  # informational: the real answer follows
            self._skip = True
            return
        if self._head is None or self._head.done():
            self.abort()
            return
        self._answer = ModelAnswer(self, status, reason, headers)
        self._head.set_result(self._answer)
        if self._is_head:
            self.on_message_complete()
            self.abort()

    def on_body(self, body: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(body)

    def on_message_complete(self) -> None:
        if self._skip:
            self._skip = False
            return
        answer = self._answer
        if answer is None or answer.ended:
            return
        self._answer = None
        self._head = None
        answer.end()
        if not self.closed and not (self._parser.should_keep_alive() and self._all_sent()):
            self.abort()
        self.resume()
        self._released(self)

    def _all_sent(self) -> bool:
        """Not so when the answer came before the request had gone out whole: what follows would be read as its rest."""
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    # Ending...

    def _fail(self, why: str) -> None:
        self.abort()
        head, answer = self._head, self._answer
        self._head = self._answer = None
        if answer is not None and not answer.ended:
            answer.end(AnswerBroken(why))
        elif head is not None and not head.done():
            head.set_exception(AnswerBroken(why))

    def abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if not self._paused and self._transport is not None and not self.closed:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None and not self.closed:
            self._paused = False
            self._transport.resume_reading()


class ModelServer:
    """The model server at ``url`` (http or https), asked over as many connections as there are requests.

    Raises ValueError when ``url`` is no URL.
    """

    def __init__(self, url: str, *, connect_timeout: float = CONNECT_TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"model server URL {url!r}: must start with http:// or https:// and name a host")
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._prefix = parts.path.rstrip("/")
        self._host_header = parts.netloc.rpartition("@")[2].encode()
        self._connect_timeout = connect_timeout
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def ask(self, method: str, path: str, headers: list[Header], body: bytes = b"") -> ModelAnswer:
        """Send a request; the answer's head is here when this returns.

        A pooled connection that turns out to have been closed is tried once more on a fresh one: if it ends at once and
        without a byte. One that ends later may have been worked on, and is not asked twice.
        Raises `ModelUnreachable` when no connection can be made or it breaks before an answer, `ModelTimeout` when
        connecting takes too long.
        """
        head = self._head(method, path, headers, body)
        connection = self._pooled()
        if connection is not None:
            asked = time.monotonic()
            try:
                return await connection.ask(head, body, is_head=method == "HEAD")
            except AnswerBroken as error:
                if connection.heard or time.monotonic() - asked > STALE_WITHIN:
                    raise ModelUnreachable(f"{error} before it answered") from error
        connection = await self._connect()
        try:
            return await connection.ask(head, body, is_head=method == "HEAD")
        except AnswerBroken as error:
            raise ModelUnreachable(f"{error} before it answered") from error

    def _head(self, method: str, path: str, headers: list[Header], body: bytes) -> bytes:
        lines = [
            b"%b %b%b HTTP/1.1\r\nHost: %b\r\n"
            % (method.encode(), self._prefix.encode(), path.encode(), self._host_header)
        ]
        lines += [b"%b: %b\r\n" % header for header in headers]
        if body or method in {"POST", "PUT", "PATCH"}:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        lines.append(b"\r\n")
        return b"".join(lines)

    def _pooled(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the newest is the least likely to have been closed
            if not connection.closed:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, released=self._released, lost=self._lost),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except TimeoutError as error:
            raise ModelTimeout(
                f"the model server did not accept a connection in {self._connect_timeout:g} s"
            ) from error
        except OSError as error:
            raise ModelUnreachable(
                f"no connection to the model server at {self._host}:{self._port}: {_cause(error)}"
            ) from error
        self._open.add(connection)
        return connection

    def _released(self, connection: _Connection) -> None:
        if connection.closed or len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
        else:
            self._idle.append(connection)

    def _lost(self, connection: _Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Cut every connection: requests under way are cancelled at the model server."""
        for connection in tuple(self._open):
            connection.abort()
        self._idle.clear()


def _cause(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
