"""The model server: as many connections as there are requests, kept for the next ones."""

import asyncio
import ssl
from collections import deque
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from pyworker.core.clocks import Clocks
from pyworker.core.errors import AnswerBroken, ModelTimeout, ModelUnreachable
from pyworker.core.heads import Header
from pyworker.model.answer import ModelAnswer, as_refusal
from pyworker.model.connection import Asked, Connection
from pyworker.model.upload import Upload

MAX_IDLE_CONNECTIONS: Final = 256

MAX_BEGINNINGS: Final = 256
"""First lines of heads that are kept made: a handler's path is asked for again and again."""

DEFAULT_CLOCKS: Final = Clocks()

_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})


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
        self._beginnings: dict[tuple[str, str], bytes] = {}
        self._last_byte_at: float | None = None

    @property
    def last_byte_at(self) -> float | None:
        """The loop's time (monotonic seconds) of the newest byte of any answer's body; None before the first."""
        known = [one.flowed_at for one in self._open]
        return max((at for at in (*known, self._last_byte_at) if at is not None), default=None)

    def heard(self) -> None:
        """A piece of a body has arrived on a connection that is none of these."""
        self._last_byte_at = asyncio.get_running_loop().time()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def _remember_life(self, connection: Connection) -> None:
        """Before a connection forgets: with the next request, or because it is gone."""
        flowed = connection.flowed_at
        if flowed is not None and (self._last_byte_at is None or flowed > self._last_byte_at):
            self._last_byte_at = flowed

    # A request...

    async def ask(
        self,
        method: str,
        path: str,
        headers: list[Header],
        body: bytes = b"",
        *,
        clocks: Clocks = DEFAULT_CLOCKS,
    ) -> ModelAnswer:
        """Send a request; the answer's head is here when this returns.

        A pooled connection that turns out to have been closed is tried once more on a fresh one (`Connection.found_dead`).
        Raises `ModelUnreachable` when no connection can be made or it breaks before an answer, `ModelTimeout` when one of
        ``clocks`` runs out.
        """
        answer = ModelAnswer(self.asked(method, path, headers, body, clocks=clocks))
        try:
            connection = self.pooled()
            if connection is not None:
                try:
                    await answer.ask(connection)
                except AnswerBroken:
                    if not connection.found_dead:
                        raise
                else:
                    return answer
            await answer.ask(await self.connect(clocks))
        except AnswerBroken as error:
            raise as_refusal(error) from error
        return answer

    def asked(
        self,
        method: str,
        path: str,
        headers: list[Header],
        body: bytes | Upload,
        *,
        clocks: Clocks = DEFAULT_CLOCKS,
        may_switch: bool = False,
    ) -> Asked:
        """A request in the form that a `Connection` sends."""
        head = self.head(method, path, headers)
        length = body.length if isinstance(body, Upload) else len(body)
        if length is None:
            head += b"Transfer-Encoding: chunked\r\n\r\n"
        elif length or method in _WITH_BODY:
            head += b"Content-Length: %d\r\n\r\n" % length
        else:
            head += b"\r\n"
        return Asked(head, body, clocks, method == "HEAD", may_switch)

    def head(self, method: str, path: str, headers: Iterable[Header]) -> bytes:
        """The head that asks for ``path``, without its end and without how long the body is."""
        return self._beginning(method, path) + b"".join([b"%b: %b\r\n" % header for header in headers])

    def _beginning(self, method: str, path: str) -> bytes:
        begun = self._beginnings.get((method, path))
        if begun is None:
            line = b"%b %b%b HTTP/1.1\r\nHost: %b\r\n"
            begun = line % (method.encode(), self._prefix, path.encode(), self._host_header)
            if len(self._beginnings) < MAX_BEGINNINGS:
                self._beginnings[method, path] = begun
        return begun

    # Connections...

    def pooled(self) -> Connection | None:
        """A connection that has served before, if one is idle."""
        while self._idle:
            connection = self._idle.pop()  # the newest is the least likely to have been closed
            if not connection.closed:
                return connection
        return None

    async def connect(self, clocks: Clocks) -> Connection:
        """A fresh connection. Raises `ModelUnreachable`, `ModelTimeout`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(clocks.connect):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, released=self._released, lost=self._lost),
                    self._host,
                    self._port,
                    ssl=self._ssl,
                )
        except TimeoutError as error:
            raise ModelTimeout(
                f"the model server did not accept a connection within connect_timeout={clocks.connect} s"
            ) from error
        except OSError as error:
            raise ModelUnreachable(
                f"no connection to the model server at {self._host}:{self._port}: {_cause(error)}"
            ) from error
        self._open.add(connection)
        return connection

    def _released(self, connection: Connection) -> None:
        self._remember_life(connection)
        if connection.closed:
            return
        if len(self._idle) >= MAX_IDLE_CONNECTIONS:
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
