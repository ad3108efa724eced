"""The usual request: whole when it is looked at, signed as others before, its turn at once. It needs no task.

Every step is one that `Proxy` takes too; what is unusual in any way is left to it. A head that has come before is not
even parsed again.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from aiohttp.http import HttpVersion11, RawRequestMessage

from pyworker.core.errors import QueueFull, Refusal
from pyworker.core.heads import Header
from pyworker.core.known_heads import KnownHeads
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.outcome import Outcome
from pyworker.core.wire import GRANT_HEADER, GoodEnvelope, good_envelope
from pyworker.handler import Handler
from pyworker.model.connection import Asked
from pyworker.model.pool import ModelServer
from pyworker.server.client import ClientConnection
from pyworker.server.door import Door
from pyworker.server.exchange import Exchange
from pyworker.server.headers import PASSED_ON_ONCE, passed_on
from pyworker.server.places import Place, Places, log_broken, outcome_of
from pyworker.server.relay import Relay

_UNUSUAL: Final = (GRANT_HEADER, "Content-Encoding", "Expect", "Upgrade")

_JSON: Final[Header] = (b"Content-Type", b"application/json")


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of usual requests: whom it asks, and the head that asks the model server, but for the body's length."""

    handler: Handler
    asking: bytes
    http11: bool
    keep_alive: bool


class Direct:
    """Serves the usual requests of one worker."""

    def __init__(self, *, door: Door, places: Places, lifecycle: Lifecycle, model: ModelServer) -> None:
        self._door = door
        self._places = places
        self._lifecycle = lifecycle
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._heads = KnownHeads[_Head]()
        self._served: dict[Relay, tuple[ClientConnection, Place]] = {}

    def take_known(self, client: ClientConnection, data: bytes) -> bool:
        """Serve the request that ``data`` is, if it is whole and its head has come before; else say False."""
        found = self._heads.find(data)
        if found is None:
            return False
        head, start, length = found
        return len(data) - start == length and self._take(client, head, data[start:])

    def take(
        self, client: ClientConnection, message: RawRequestMessage, raw: bytes, body: bytes, handler: Handler
    ) -> bool:
        """Serve a request to ``handler``, or say that it is not a usual one: then nothing has been counted.

        ``raw`` is what ``message`` was read from, empty where that is not known.
        """
        if any(name in message.headers for name in _UNUSUAL):
            return False
        head = self._read(message, handler)
        if not self._take(client, head, body):
            return False
        if raw and not any(name in message.headers for name in PASSED_ON_ONCE):
            self._heads.learn(raw, head)
        return True

    def _read(self, message: RawRequestMessage, handler: Handler) -> _Head:
        asking = self._model.head("POST", handler.model_path, [_JSON, *passed_on(message.headers)])
        return _Head(
            handler,
            asking + b"Content-Length: ",
            http11=message.version >= HttpVersion11,
            keep_alive=not message.should_close,
        )

    def _take(self, client: ClientConnection, head: _Head, body: bytes) -> bool:
        handler = head.handler
        envelope = self._usual(body, handler)
        if envelope is None:
            return False
        index = envelope.auth_data.request_idx
        try:
            work = handler.prepare(bytes(envelope.payload))
        except Refusal as refusal:
            self._door.refuse(refusal, index, envelope.auth_data.good_cost() or 0.0, handler)
            client.refuse(refusal)
            return True
        try:
            place = self._places.take(handler, index, work.load)
        except QueueFull as refusal:
            client.refuse(refusal)
        else:
            self._serve(client, head, work.body, place)
        return True

    def _usual(self, body: bytes, handler: Handler) -> GoodEnvelope | None:
        """The envelope of a usual request: nobody has to be waited for, and nobody to be told off."""
        if (
            self._lifecycle.state is not State.READY
            or handler.needs_task
            or not self._places.has_room(handler)
        ):
            return None
        if len(body) > self._door.max_body_size:
            return None
        envelope = good_envelope(body)
        if envelope is None or envelope.auth_data.good_cost() is None:
            return None
        return envelope if self._door.knows(envelope.auth_data.url, envelope.auth_data.signature) else None

    def _serve(self, client: ClientConnection, head: _Head, body: bytes, place: Place) -> None:
        assert client.transport is not None
        exchange = Exchange(
            client.transport,
            model=self._model,
            asked=Asked(head.asking + b"%d\r\n\r\n" % len(body), body, head.handler.clocks),
            loop=self._loop,
            http11=head.http11,
            keep_alive=head.keep_alive,
            on_end=self._ended,
        )
        self._served[exchange] = client, place
        client.begin(exchange)
        exchange.begin()

    def _ended(self, exchange: Relay) -> None:
        client, place = self._served.pop(exchange)
        place.entry.answered_at = exchange.first_byte_at
        if exchange.client_left:
            self._places.give_back(place, self._places.outcome_of_leaving)
        elif exchange.refusal is not None:
            self._places.give_back(place, Outcome.FAILED)
            client.refuse(exchange.refusal)
        elif exchange.broken is not None:
            log_broken(place.handler.route, exchange.broken)
            self._places.give_back(place, Outcome.FAILED)
            client.served(keep_alive=False)
        else:
            self._places.give_back(place, outcome_of(exchange.status, place.handler, exchange.error_inside))
            client.served(keep_alive=exchange.keep_alive)

    def cut(self) -> None:
        """End what is under way, for the model server and for the client."""
        for exchange, (client, _) in tuple(self._served.items()):
            exchange.leave()
            client.force_close()
