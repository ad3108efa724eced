"""The model server: as many connections as there are requests, kept for the next ones."""

import asyncio
import ssl
import time
from collections import deque
from typing import Final
from urllib.parse import urlsplit

from pyworker.core.clocks import Clocks
from pyworker.core.errors import AnswerBroken, AnswerTimeout, ModelTimeout, ModelUnreachable
from pyworker.model.connection import Connection, Header, ModelAnswer, Upload

STALE_WITHIN: Final = 0.1
"""Seconds in which a pooled connection that the model server had closed shows that it is dead."""

MAX_IDLE_CONNECTIONS: Final = 256

DEFAULT_CLOCKS: Final = Clocks()


class ModelServer:
    """The model server at ``url`` (http or https). Raises ValueError when ``url`` is no URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"model server URL {url!r}: must start with http:// or https:// and name a host")
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._host_header = parts.netloc.rpartition("@")[2].encode()
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._last_byte_at: float | None = None

    @property
    def last_byte_at(self) -> float | None:
        """The loop's time (monotonic seconds) of the newest byte of any answer's body; None before the first."""
        known = [one.flowed_at for one in self._open]
        return max((at for at in (*known, self._last_byte_at) if at is not None), default=None)

    def _remember_life(self, connection: Connection) -> None:
        """Before a connection forgets: with the next request, or because it is gone."""
        flowed = connection.flowed_at
        if flowed is not None and (self._last_byte_at is None or flowed > self._last_byte_at):
            self._last_byte_at = flowed

    async def ask(
        self,
        method: str,
        path: str,
        headers: list[Header],
        body: bytes | Upload = b"",
        *,
        clocks: Clocks = DEFAULT_CLOCKS,
        may_switch: bool = False,
    ) -> ModelAnswer:
        """Send a request; the answer's head is here when this returns.

        A pooled connection that turns out to have been closed is tried once more on a fresh one: if it ends at once and
        without a byte. One that ends later may have been worked on, and is not asked twice.
        ``may_switch``: an answer of 101 is welcome, the headers have asked for it.
        Raises `ModelUnreachable` when no connection can be made or it breaks before an answer, `ModelTimeout` when one of
        ``clocks`` runs out, and whatever `Refusal` an upload ends with.
        """
        head = self._head(method, path, headers, body)
        try:
            connection = self._pooled()
            if connection is not None:
                asked = time.monotonic()
                try:
                    return await connection.ask(
                        head, body, clocks=clocks, is_head=method == "HEAD", may_switch=may_switch
                    )
                except AnswerTimeout:
                    raise
                except AnswerBroken:
                    stale = not connection.heard and time.monotonic() - asked <= STALE_WITHIN
                    if not stale or (isinstance(body, Upload) and not body.rewind()):
                        raise
            connection = await self._connect(clocks.connect)
            return await connection.ask(
                head, body, clocks=clocks, is_head=method == "HEAD", may_switch=may_switch
            )
        except AnswerTimeout as error:
            raise ModelTimeout(str(error)) from error
        except AnswerBroken as error:
            raise ModelUnreachable(f"{error} before it answered") from error

    def _head(self, method: str, path: str, headers: list[Header], body: bytes | Upload) -> bytes:
        lines = [
            b"%b %b%b HTTP/1.1\r\nHost: %b\r\n"
            % (method.encode(), self._prefix, path.encode(), self._host_header)
        ]
        lines += [b"%b: %b\r\n" % header for header in headers]
        length = body.length if isinstance(body, Upload) else len(body)
        if length is None:
            lines.append(b"Transfer-Encoding: chunked\r\n\r\n")
        elif length or method in {"POST", "PUT", "PATCH"}:
            lines.append(b"Content-Length: %d\r\n\r\n" % length)
        else:
            lines.append(b"\r\n")
        return b"".join(lines)

    def _pooled(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the newest is the least likely to have been closed
            if not connection.closed:
                return connection
        return None

    async def _connect(self, limit: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limit):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, released=self._released, lost=self._lost),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except TimeoutError as error:
            raise ModelTimeout(
                f"the model server did not accept a connection within connect_timeout={limit:g} s"
            ) from error
        except OSError as error:
            raise ModelUnreachable(
                f"no connection to the model server at {self._host}:{self._port}: {_cause(error)}"
            ) from error
        self._open.add(connection)
        return connection

    def _released(self, connection: Connection) -> None:
        self._remember_life(connection)
        if connection.closed or len(self._idle) >= MAX_IDLE_CONNECTIONS:
            connection.abort()
        else:
            self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        self._remember_life(connection)
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
