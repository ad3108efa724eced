"""The model server's answer → the client's connection, byte for byte.

Short answers are read whole first, so that one that breaks off is still a 502. Longer ones and streams go on as they
come, each piece written to the client's transport by the model server's connection itself: no task wakes for it.
"""

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from pyworker.core.answers import error_inside
from pyworker.core.errors import AnswerBroken, AnswerTimeout, ModelTimeout, ModelUnreachable, Refusal
from pyworker.core.heads import Head
from pyworker.model.answer import as_refusal
from pyworker.model.connection import Connection
from pyworker.server.headers import head_for_client

READ_WHOLE: Final = 64 * 1024
"""An answer whose Content-Length is at most this is read before its head goes out (protocol.md section 1: the
official client retries an answer that breaks off in mid-body at once and for ever, but backs off from a 502)."""

LOOKED_AT: Final = 8 * 1024
"""Bytes at the end of a stream in which an error is looked for."""

READ_PAUSE: Final = 300.0
"""Seconds a client may go without reading while the model server waits for it: then it counts as gone."""


class Relay:
    """One answer on its way to one client; ``on_end`` is called once, when it is over one way or another.

    ``http11`` and ``keep_alive`` are the client's. After the end `refusal` says what the client is to be told as nothing
    has reached it yet, `broken` why its connection has been cut.
    """

    __slots__ = (
        "_before_last", "_head_bytes", "_held", "_http11", "_last", "_last_chunk", "_loop", "_on_end", "_on_switch",
        "_reading", "_transport",
        "broken", "client_left", "connection", "first_byte_at", "keep_alive", "over", "refusal", "status", "switched",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        loop: asyncio.AbstractEventLoop,
        http11: bool,
        keep_alive: bool,
        on_end: Callable[["Relay"], None],
        on_switch: Callable[["Relay"], None] | None = None,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._http11 = http11
        self.keep_alive = keep_alive
        """Whether the client's connection serves its next request."""
        self._on_end = on_end
        self._on_switch = on_switch
        self.connection: Connection | None = None
        """The model server's, while its answer is awaited or under way."""
        self.status = 0
        self.first_byte_at: float | None = None
        """Monotonic second in which the first byte of the body went to the client."""
        self.switched = False
        """The two sides speak another protocol now (WebSocket)."""
        self.over = False
        self.client_left = False
        self.refusal: Refusal | None = None
        self.broken: AnswerBroken | None = None
        self._held: list[bytes] | None = None
        self._head_bytes = b""
        self._last_chunk = False
        self._before_last = self._last = b""
        self._reading: asyncio.TimerHandle | None = None

    # What the model server's connection says...

    def answered(self, head: Head, *, bodiless: bool) -> bool:
        self.status = head.status
        if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
            self.switched = True
            self.keep_alive = False
            if self._on_switch is not None:
                self._on_switch(self)
        elif bodiless or (head.length is not None and head.length <= READ_WHOLE):
            self._held = []
        else:
            self._last_chunk = head.length is None and self._http11
            self.keep_alive = self.keep_alive and (self._last_chunk or head.length is not None)
        self._head_bytes = head_for_client(
            head, chunked=self._last_chunk, http11=self._http11, keep_alive=self.keep_alive
        )
        return self._last_chunk

    def received(self, data: bytes) -> None:
        if self._held is not None:
            self._held.append(data)
            return
        self._before_last, self._last = self._last, data
        if self.first_byte_at is None and data:
            self.first_byte_at = time.monotonic()
        if self._head_bytes:  # the head travels with the first piece, in one packet
            data, self._head_bytes = self._head_bytes + data, b""
        self._transport.write(data)

    def ended(self, error: AnswerBroken | Refusal | None) -> None:
        if error is None:
            self._complete()
        elif self.status == 0:
            self.refusal = as_refusal(error)
        elif self._held is not None:
            kind = ModelTimeout if isinstance(error, AnswerTimeout) else ModelUnreachable
            self.refusal = kind(f"{error} in the middle of its answer")
        else:
            self._cut(error)
        self._end()

    def _complete(self) -> None:
        if self._held is not None:
            self._transport.write(self._head_bytes + b"".join(self._held))
            self.first_byte_at = time.monotonic()
        elif self._last_chunk:  # the head is still here where no chunk came before it
            self._transport.write(self._head_bytes + b"0\r\n\r\n")

    def _cut(self, error: AnswerBroken | Refusal) -> None:
        """End the client's connection without the end of the answer; by reset where a plain close would look like one."""
        self.broken = error if isinstance(error, AnswerBroken) else AnswerBroken(str(error))
        self.keep_alive = False
        if self._last_chunk:
            self._transport.close()
        else:
            self._transport.abort()

    @property
    def error_inside(self) -> str:
        """What the end of a stream tells of an error, though its status was 200; empty where it tells of none.

        The last two pieces are looked at: some servers send a mark of the end after the error.
        """
        if self.status != HTTPStatus.OK or not self._last_chunk:
            return ""
        return error_inside((self._before_last + self._last)[-LOOKED_AT:])

    # What the client's connection says...

    def pause(self) -> None:
        """The client is too slow: the model server has to wait."""
        if self.connection is not None:
            self.connection.pause()
            self._reading = self._loop.call_later(READ_PAUSE, self._transport.abort)

    def resume(self) -> None:
        self._stop_timer()
        if self.connection is not None:
            self.connection.resume()

    def leave(self) -> None:
        """The client is gone, or we cut it off: the model server is to stop working for it."""
        if self.over:
            return
        self.client_left = True
        if self.connection is not None:
            self.connection.leave()
        self._end()

    def upstream(self, data: bytes, on_room: Callable[[], None]) -> bool:
        """Bytes of the other protocol, for the model server. False: no more until ``on_room`` is called."""
        return self.connection is None or self.connection.write(data, on_room)

    # The end...

    def _end(self) -> None:
        self.over = True
        self.connection = None
        self._stop_timer()
        self._on_end(self)

    def _stop_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None
