"""A client's body as it comes, within the limits of size and time."""

import asyncio
import time
from typing import Final

from aiohttp import web

from pyworker.core.errors import BadHttp, QueueFull, TooLarge, TooSlow, UnsupportedBody

PAUSE: Final = 30.0
"""Seconds a client may take between two pieces of its body."""

RATE: Final = 1024
"""Bytes a second that a body must come at, on the whole."""


class Budget:
    """Bytes of bodies that may be held together while their rest is awaited, and nobody knows yet whose they are."""

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> None:
        """Raises `QueueFull` when there is no room."""
        if size > self._left:
            raise QueueFull("too many large bodies are on their way here at once", retry_after=1.0)
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size


class ClientBody:
    """The body of ``request``, of at most ``most`` bytes.

    Raises `TooLarge` at once when more is announced, `UnsupportedBody` when it is compressed on its way.
    """

    def __init__(self, request: web.Request, most: int) -> None:
        self.length = request.content_length
        """Bytes announced; None when it is chunked (or there is none)."""
        if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
            raise UnsupportedBody("the only transfer encoding that is supported is chunked")
        self._content = request.content
        self._most = most
        self._size = 0
        self._waited = 0.0
        if (self.length or 0) > most:
            raise self._too_large()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def is_here(self) -> bool:
        """Whether all of it has arrived: the usual case, it came with the head."""
        return self._content.is_eof()

    async def whole(self, budget: Budget | None = None) -> bytes:
        """All of it, held within ``budget`` while it comes. Raises `Refusal`."""
        if self.is_here:
            return self._counted(self._content.read_nowait())
        pieces: list[bytes] = []
        taken = 0
        try:
            while piece := await self.piece():
                pieces.append(piece)
                if budget is not None:
                    budget.take(len(piece))
                    taken += len(piece)
            return b"".join(pieces)
        finally:
            if budget is not None:
                budget.give_back(taken)

    async def piece(self) -> bytes:
        """The next bytes, empty at the end; a cancelled call loses none. Raises `Refusal`."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PAUSE):
                piece = await self._content.readany()
        except TimeoutError as error:
            raise TooSlow(f"no byte of the body for {PAUSE:g} s") from error
        except web.RequestPayloadError as error:
            raise BadHttp("the body is not valid HTTP") from error
        self._waited += time.monotonic() - began  # only here: who makes the client wait does not time it
        self._counted(piece)
        if self._waited > PAUSE + self._size / RATE:
            raise TooSlow(f"the body comes at less than {RATE} bytes a second")
        return piece

    def _counted(self, piece: bytes) -> bytes:
        self._size += len(piece)
        if self._size > self._most:
            raise self._too_large()
        return piece

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over the limit of {self._most} bytes")
