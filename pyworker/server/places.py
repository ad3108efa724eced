"""Who is being worked on, and who waits: what a request takes on its way in is given back here, once.

A request's place is its ticket in the handler's lane and its entry in the ledger.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pyworker.core.admission import Lane, Ticket
from pyworker.core.errors import AnswerBroken, QueueFull
from pyworker.core.ledger import Entry, Ledger
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.core.sessions import Session
from pyworker.handler import Handler

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Place:
    """What a request holds while it is in flight."""

    handler: Handler
    lane: Lane
    ticket: Ticket
    entry: Entry

    @property
    def settled(self) -> bool:
        """The books are closed on it, whatever its code still does."""
        return self.entry.ended_at is not None


class Places:
    """One lane for all handlers of one request at a time, one for the unbounded ones, one each for those with a width.

    ``longest`` is how many requests may wait in one.
    """

    def __init__(
        self, handlers: Sequence[Handler], *, longest: int, ledger: Ledger, lifecycle: Lifecycle
    ) -> None:
        self._ledger = ledger
        self._lifecycle = lifecycle
        self._serial = Lane(1, longest=longest)
        self._parallel = Lane(None)
        self._own = {
            one.route: Lane(one.concurrency, longest=longest)
            for one in handlers
            if one.concurrency is not None
        }
        self._lanes = {one: self._lane_of(one) for one in handlers}
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._ended = asyncio.Event()
        self.cutting = False
        """From now on a request that is cancelled was cut by us: it ends as an error, not as the client's doing."""

    def _lane_of(self, handler: Handler) -> Lane:
        if handler.concurrency is not None:
            return self._own[handler.route]
        return self._parallel if handler.parallel else self._serial

    def has_room(self, handler: Handler) -> bool:
        """Whether a request would run at once."""
        return self._lanes[handler].has_room

    def take(self, handler: Handler, index: int, load: float, session: Session | None = None) -> Place:
        """A place for a request of ``load``, known to the engine as ``index``. Raises `QueueFull`: it has been counted."""
        lane = self._lanes[handler]
        now = time.monotonic()
        try:
            ticket = lane.enter(
                load,
                perf=self._lifecycle.perf,
                in_flight=self._ledger.load_outside_sessions,
                max_wait=handler.max_queue_time,
            )
        except QueueFull:
            self._ledger.reject(index if session is None else None, load, now, route=handler.route)
            raise
        inside = session.entry if session is not None else None
        entry = self._ledger.enter(index, load, now, route=handler.route, session=inside)
        if ticket.running:
            self._ledger.start(entry, now)
        return Place(handler, lane, ticket, entry)

    async def turn(self, place: Place) -> None:
        """Wait until it is this one's turn. Raises `QueueFull` when that takes longer than its route allows."""
        if place.ticket.running:
            return
        max_wait = place.handler.max_queue_time
        turn = asyncio.get_running_loop().create_future()
        self._turns[place.ticket] = turn
        try:
            async with asyncio.timeout(max_wait):
                await turn
        except TimeoutError as error:
            raise QueueFull(
                f"waited longer than this route's max_queue_time of {max_wait:g} s", retry_after=1.0
            ) from error
        finally:
            del self._turns[place.ticket]
        self._ledger.start(place.entry, time.monotonic())

    def give_back(self, place: Place, outcome: Outcome) -> None:
        """The request has ended: it is settled, and the next in line has its turn."""
        if not place.settled:
            self.settle(place, outcome)
        following = place.lane.leave(place.ticket)
        # Its waiter may be leaving at this very moment: then its own leaving passes the turn on again.
        turn = self._turns.get(following) if following is not None else None
        if turn is not None and not turn.done():
            turn.set_result(None)

    def settle(self, place: Place, outcome: Outcome) -> None:
        """For the engine the request has ended. Its turn is given back only when its code has."""
        self._ledger.settle(place.entry, outcome, time.monotonic())
        self._ended.set()

    @property
    def outcome_of_leaving(self) -> Outcome:
        """What becomes of a request whose client is gone."""
        return Outcome.FAILED if self.cutting else Outcome.CANCELLED

    async def emptied(self) -> None:
        """Return when no request is in flight."""
        while self._ledger.requests_in_flight:
            await self.next_end()

    async def next_end(self) -> None:
        """Return when a request has ended."""
        self._ended.clear()
        await self._ended.wait()

    def status(self) -> dict[str, dict[str, Any]]:
        """Each lane by its name: requests running and waiting, and how many may run at once."""
        named = {"serial": self._serial, "parallel": self._parallel, **self._own}
        return {
            name: {"running": lane.running, "waiting": lane.waiting, "width": lane.width}
            for name, lane in named.items()
        }


def outcome_of(status: int, handler: Handler, error_inside: str = "") -> Outcome:
    """A model server's 4xx is a success, as it did its work, unless the handler says otherwise.

    A stream that ends with an error is none, whatever its status was.
    """
    if error_inside:
        log.warning("answer tells of an error: route=%s why=%s", handler.route, error_inside)
        return Outcome.FAILED
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in handler.error_statuses
    return Outcome.FAILED if failed else Outcome.SERVED


def log_broken(route: str, error: AnswerBroken) -> None:
    """Say that an answer could not be brought to its end."""
    log.warning("answer broke off: route=%s why=%s", route, error)
