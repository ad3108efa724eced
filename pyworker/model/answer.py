"""An answer of the model server for whoever reads it by itself: its head now, its body with `ModelAnswer.read`."""

import asyncio
from typing import Final

from pyworker.core.errors import AnswerBroken, AnswerTimeout, ModelTimeout, ModelUnreachable, Refusal
from pyworker.core.heads import Head, Header
from pyworker.model.connection import Asked, Connection

MAX_BUFFERED: Final = 256 * 1024
"""Bytes of an answer held before anyone reads it; past it the model server waits."""


class ModelAnswer:
    """The answer to ``asked``. `ask` gives the head; then `read` the body, or `close` to leave it."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._connection: Connection | None = None
        self._changed = asyncio.Event()
        self._head: Head | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._reading = False
        self._ended = False
        self._error: AnswerBroken | Refusal | None = None

    async def ask(self, connection: Connection) -> None:
        """Send the request; returns when the head is here. Raises `AnswerBroken` when none comes."""
        self._connection = connection
        self._ended, self._error = False, None
        connection.send(self._asked, self)
        try:
            while self._head is None and not self._ended:
                await self._change()
        except asyncio.CancelledError:
            self.close()
            raise
        if self._head is None:
            assert self._error is not None
            raise self._error

    @property
    def status(self) -> int:
        assert self._head is not None
        return self._head.status

    @property
    def reason(self) -> bytes:
        assert self._head is not None
        return self._head.reason

    @property
    def headers(self) -> list[Header]:
        assert self._head is not None
        return list(self._head.headers)

    async def read(self) -> bytes:
        """The whole body. Raises `AnswerBroken` when it does not arrive whole."""
        self._reading = True
        if self._connection is not None and not self._ended:
            self._connection.resume()
        while not self._ended:
            await self._change()
        if self._error is not None:
            raise self._error
        return b"".join(self._pieces)

    def close(self) -> None:
        """Leave the answer. If it has not ended its connection is cut, so that the model server stops working on it."""
        if not self._ended and self._connection is not None:
            self._ended = True
            self._connection.leave()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    # What the connection says...

    def answered(self, head: Head, *, bodiless: bool) -> bool:  # noqa: ARG002 - `ended` follows at once
        self._head = head
        self._changed.set()
        return False

    def received(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > MAX_BUFFERED and not self._reading and self._connection is not None:
            self._connection.pause()

    def ended(self, error: AnswerBroken | Refusal | None) -> None:
        self._ended = True
        self._error = error
        self._changed.set()


def as_refusal(error: AnswerBroken | Refusal) -> Refusal:
    """What a client is told when there was no answer, or not enough of it to begin one."""
    if isinstance(error, AnswerTimeout):
        return ModelTimeout(str(error))
    if isinstance(error, AnswerBroken):
        return ModelUnreachable(f"{error} before it answered")
    return error
