"""The usual request: whole when it is looked at, signed as others before, its turn at once. It needs no task.

Every step is one that `Proxy` takes too; what is unusual in any way is left to it.
"""

import asyncio
from typing import Final

from aiohttp.http import HttpVersion11, RawRequestMessage

from pyworker.core.errors import QueueFull, Refusal
from pyworker.core.heads import Header
from pyworker.core.ledger import Outcome
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.wire import GRANT_HEADER, Envelope, parse_envelope
from pyworker.handler import Handler
from pyworker.model.pool import ModelServer
from pyworker.server.client import ClientConnection
from pyworker.server.door import Door
from pyworker.server.exchange import Exchange
from pyworker.server.headers import passed_on
from pyworker.server.places import Place, Places, log_broken, outcome_of
from pyworker.server.relay import Relay

_UNUSUAL: Final = (GRANT_HEADER, "Content-Encoding", "Expect")

_JSON: Final[Header] = (b"Content-Type", b"application/json")


class Direct:
    """Serves the usual requests of one worker."""

    def __init__(self, *, door: Door, places: Places, lifecycle: Lifecycle, model: ModelServer) -> None:
        self._door = door
        self._places = places
        self._lifecycle = lifecycle
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._served: dict[Relay, tuple[ClientConnection, Place]] = {}

    def take(
        self, client: ClientConnection, message: RawRequestMessage, body: bytes, handler: Handler
    ) -> bool:
        """Serve a request to ``handler``, or say that it is not a usual one: then nothing has been counted."""
        envelope = self._usual(message, body, handler)
        if envelope is None:
            return False
        assert envelope.payload is not None
        index = envelope.request_idx()
        try:
            work = handler.prepare(envelope.payload)
        except Refusal as refusal:
            self._door.refuse(refusal, index, envelope.cost(), handler)
            client.refuse(refusal)
            return True
        assert index is not None
        try:
            place = self._places.take(handler, index, work.load)
        except QueueFull as refusal:
            client.refuse(refusal)
        else:
            self._serve(client, message, work.body, place)
        return True

    def _usual(self, message: RawRequestMessage, body: bytes, handler: Handler) -> Envelope | None:
        """The envelope of a usual request: nobody has to be waited for, and nobody to be told off."""
        if self._lifecycle.state is not State.READY or handler.needs_task:
            return None
        if len(body) > self._door.max_body_size or any(name in message.headers for name in _UNUSUAL):
            return None
        try:
            envelope = parse_envelope(body, signed=self._door.signed)
            envelope.grant(signed=self._door.signed)
        except Refusal:
            return None
        usual = envelope.session_id is None and self._door.knows(envelope) and self._places.has_room(handler)
        return envelope if usual else None

    def _serve(self, client: ClientConnection, message: RawRequestMessage, body: bytes, place: Place) -> None:
        handler = place.handler
        assert client.transport is not None
        exchange = Exchange(
            client.transport,
            model=self._model,
            asked=self._model.asked(
                "POST",
                handler.model_path,
                [_JSON, *passed_on(message.headers)],
                body,
                clocks=handler.clocks,
            ),
            loop=self._loop,
            http11=message.version >= HttpVersion11,
            keep_alive=not message.should_close,
            on_end=self._ended,
        )
        self._served[exchange] = client, place
        client.begin(exchange)
        self._places.start(place)
        exchange.begin()

    def _ended(self, exchange: Relay) -> None:
        client, place = self._served.pop(exchange)
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
            self._places.give_back(place, outcome_of(exchange.status, place.handler))
            client.served(keep_alive=exchange.keep_alive)

    def cut(self) -> None:
        """End what is under way, for the model server and for the client."""
        for exchange, (client, _) in tuple(self._served.items()):
            exchange.leave()
            client.force_close()
