"""A request at the model server and its answer on the way to the client, on whatever connection it takes."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiohttp import web
from aiohttp.http import HttpVersion11

from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.model.connection import Asked
from pyworker.model.pool import ModelServer
from pyworker.model.upload import Upload
from pyworker.server.client import ClientConnection
from pyworker.server.relay import Relay


class Exchange(Relay):
    """``asked`` of ``model``, relayed. A pooled connection found dead is tried once more on a fresh one."""

    __slots__ = ("_asked", "_connecting", "_model")

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        model: ModelServer,
        asked: Asked,
        loop: asyncio.AbstractEventLoop,
        http11: bool,
        keep_alive: bool,
        on_end: Callable[[Relay], None],
        on_switch: Callable[[Relay], None] | None = None,
    ) -> None:
        super().__init__(
            transport, loop=loop, http11=http11, keep_alive=keep_alive, on_end=on_end, on_switch=on_switch
        )
        self._model = model
        self._asked = asked
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Ask. From here on the end is sure to come."""
        connection = self._model.pooled()
        if connection is None:
            self._connecting = self._loop.create_task(self._connect())
        else:
            self.connection = connection
            connection.send(self._asked, self)

    async def _connect(self) -> None:
        try:
            connection = await self._model.connect(self._asked.clocks)
        except Refusal as refusal:
            self._connecting = None
            self.ended(refusal)
        else:
            self._connecting = None
            self.connection = connection
            connection.send(self._asked, self)

    def ended(self, error: AnswerBroken | Refusal | None) -> None:
        if error is not None and self.connection is not None and self._may_try_again(error):
            self.connection = None
            self._connecting = self._loop.create_task(self._connect())
        else:
            super().ended(error)

    def _may_try_again(self, error: AnswerBroken | Refusal) -> bool:
        assert self.connection is not None
        if not isinstance(error, AnswerBroken) or not self.connection.found_dead:
            return False
        body = self._asked.body
        return not isinstance(body, Upload) or body.rewind()

    def leave(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        super().leave()


class Sent(web.StreamResponse):
    """An answer that is on the wire already: aiohttp has only to go on with the next request, or close."""

    def __init__(
        self,
        status: int,
        *,
        keep_alive: bool,
        error_inside: str = "",
        first_byte_at: float | None = None,
    ) -> None:
        super().__init__(status=status)
        self.error_inside = error_inside
        self._stays = keep_alive
        self.first_byte_at = first_byte_at
        """As `Relay` has it."""

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to prepare."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing left to write."""


async def relayed(request: web.BaseRequest, model: ModelServer, asked: Asked) -> Sent:
    """Ask ``model`` and relay its answer, from a task.

    Raises the `Refusal` that the client is to be told, or `AnswerBroken` when it has been cut off in the middle.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        raise asyncio.CancelledError  # the client is gone; aiohttp is about to say so
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    client = cast("ClientConnection", request.protocol)
    exchange = Exchange(
        transport,
        model=model,
        asked=asked,
        loop=loop,
        http11=request.version >= HttpVersion11,
        keep_alive=bool(request.keep_alive),
        on_end=partial(_set, done),
        on_switch=partial(_join, client),
    )
    client.watch(exchange)
    exchange.begin()
    try:
        await done
    except asyncio.CancelledError:
        exchange.leave()
        task = asyncio.current_task()
        # A client ends a WebSocket by leaving, and one that we have cut off did not leave: these are no cancellations.
        ended = exchange.broken is not None or (exchange.switched and transport.is_closing())
        if not ended or task is None or task.uncancel():
            raise
    finally:
        client.watch(None)
    if exchange.refusal is not None:
        raise exchange.refusal
    if exchange.broken is not None:
        raise exchange.broken
    if client.writing_paused:  # a client that asks on and on without reading
        await request.writer.drain()
    return Sent(
        exchange.status,
        keep_alive=exchange.keep_alive,
        error_inside=exchange.error_inside,
        first_byte_at=exchange.first_byte_at,
    )


def _set(done: "asyncio.Future[None]", _: Relay) -> None:
    if not done.done():
        done.set_result(None)


def _join(client: ClientConnection, relay: Relay) -> None:
    """From now on the client's bytes go to the model server as they are."""
    client.set_parser(cast("Any", _Upstream(client, relay)))


class _Upstream:
    """What aiohttp hands a client's bytes to after the switch: they go to the model server, as fast as it takes them."""

    def __init__(self, client: ClientConnection, relay: Relay) -> None:
        self._client = client
        self._relay = relay
        self._paused = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        if not self._relay.upstream(data, self._room) and not self._paused:
            self._paused = True
            self._client.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        """The client is gone; its request is being cancelled."""

    def _room(self) -> None:
        if self._paused:
            self._paused = False
            self._client.resume_reading()
