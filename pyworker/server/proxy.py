"""Life of a request: read, verified, priced, queued, forwarded, relayed, settled.

`Proxy.serve` is the whole of it; `Direct` is the same for the usual request, without a task.
"""

import asyncio
import logging
import sys
from typing import Any, Final, cast

from aiohttp import web

from pyworker.core.errors import (
    AnswerBroken,
    BadHttp,
    InvalidRequest,
    InvalidSession,
    ModelTimeout,
    QueueFull,
    Refusal,
    TooLarge,
    TooSlow,
)
from pyworker.core.heads import Header
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.core.sessions import Session
from pyworker.fence import left_behind
from pyworker.handler import JSON_TYPE, Handler
from pyworker.model.client import HookClient
from pyworker.model.form import encode_form
from pyworker.model.pool import ModelServer
from pyworker.model.upload import Upload
from pyworker.server.body import ClientBody
from pyworker.server.direct import Direct
from pyworker.server.door import Door, Job
from pyworker.server.exchange import relayed
from pyworker.server.headers import own_headers, own_query, passed_on, wants_switch
from pyworker.server.places import Place, Places, outcome_of

log = logging.getLogger(__name__)

_ASKS_FOR_SWITCH: Final = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


class Proxy:
    """The data plane of one worker: `serve` answers every request to a handler's route."""

    def __init__(
        self, *, door: Door, places: Places, lifecycle: Lifecycle, model: ModelServer | None
    ) -> None:
        self._door = door
        self.places = places
        self._model = model
        self._hooks = HookClient(model) if model is not None else None
        self.direct: Direct | None = None
        if model is not None:
            self.direct = Direct(door=door, places=places, lifecycle=lifecycle, model=model)
        self._working: dict[asyncio.Task[Any], Place] = {}
        self._inside: dict[Session, set[asyncio.Task[Any]]] = {}

    async def cut(self) -> None:
        """End what is still running: as an error of ours, not as the clients' doing. Returns when all is settled."""
        self.places.cutting = True
        if self.direct is not None:
            self.direct.cut()
        await self._end(set(self._working))

    async def close(self) -> None:
        if self._hooks is not None:
            await self._hooks.close()

    async def serve(self, request: web.Request, handler: Handler, path: str) -> web.StreamResponse:
        """Answer ``request``. Raises `Refusal` for what is turned away, `AnswerBroken` after a broken answer."""
        return await self._work(request, await self._door.job(request, handler, path))

    # Queueing and working...

    async def _work(self, request: web.Request, job: Job) -> web.StreamResponse:
        """Take a place, until the request has ended one way or another."""
        session = job.session
        if session is not None and session.closing:  # it ended while a slow hook was pricing this request
            raise InvalidSession
        place = self.places.take(job.handler, job.index, job.work.load, session)
        self._note(place, session)
        outcome = Outcome.FAILED
        try:
            await self.places.turn(place)
            response = await self._forward(request, job, place)
            outcome = place.entry.outcome or Outcome.SERVED
        except (QueueFull, TooLarge, TooSlow, BadHttp, InvalidRequest):
            outcome = Outcome.REJECTED
            raise
        except asyncio.CancelledError:
            outcome = self.places.outcome_of_leaving
            raise
        finally:
            self._forget(session)
            self._give_back(place, outcome, left_behind(sys.exception()))
        return response

    def _give_back(self, place: Place, outcome: Outcome, left: "asyncio.Task[Any] | None") -> None:
        """The request has ended; where its author's code has not, the next in line waits for it all the same."""
        if left is None:
            self.places.give_back(place, outcome)
            return
        if not place.settled:
            self.places.settle(place, outcome)
        left.add_done_callback(lambda _: self.places.give_back(place, outcome))

    def _note(self, place: Place, session: Session | None) -> None:
        """Remember whose task this is, so that it can be cut."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._working[task] = place
        if session is not None:
            self._inside.setdefault(session, set()).add(task)

    def _forget(self, session: Session | None) -> None:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        del self._working[task]
        if session is not None and (tasks := self._inside.get(session)) is not None:
            tasks.discard(task)
            if not tasks:
                del self._inside[session]

    async def cut_session(self, session: Session) -> None:
        """Cut the requests inside of a session that has ended; returns when they are settled."""
        await self._end(self._inside.get(session, set()).copy())

    async def _end(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Cancel them; returns when their requests are settled: the fence around an author's code sees to it that they are."""
        for task in tasks:
            task.cancel()
        while not tasks.isdisjoint(self._working):
            await self.places.next_end()

    # Forwarding...

    async def _forward(self, request: web.Request, job: Job, place: Place) -> web.StreamResponse:
        handler = job.handler
        if handler.call is not None:
            return await self._called(handler, job.work.body)
        assert self._model is not None
        assert self._hooks is not None
        headers, body = await self._asked(request, job)
        path = job.path + own_query(request) if job.by_header else job.path
        if handler.respond is not None:
            asking = self._hooks.ask(request.method, path, headers, body, clocks=handler.clocks)
            async with asking as response:
                place.entry.outcome = outcome_of(response.status, handler)
                return await self._hooked(request, handler, response)
        switches = job.by_header and wants_switch(request)
        asked = self._model.asked(
            request.method,
            path,
            headers + _ASKS_FOR_SWITCH if switches else headers,
            body,
            clocks=handler.clocks,
            may_switch=switches,
        )
        sent = await relayed(request, self._model, asked)
        place.entry.outcome = outcome_of(sent.status, handler, sent.error_inside)
        place.entry.answered_at = sent.first_byte_at
        return sent

    async def _asked(self, request: web.Request, job: Job) -> tuple[list[Header], bytes | Upload]:
        """Headers and body for the model server."""
        if job.work.unread:
            body = ClientBody(request, self._door.max_body_size)
            whole = await body.whole() if body.is_here else Upload(body, body.length)
            return own_headers(request), whole
        handler = job.handler
        content_type, encoded = (
            (JSON_TYPE, job.work.body)
            if job.work.form is None
            else await encode_form(job.work.form, route=handler.route)
        )
        typed = (b"Content-Type", content_type.encode("latin-1"))
        if job.by_header:
            own = [one for one in own_headers(request) if one[0].lower() != b"content-type"]
            return [typed, *own], encoded
        return [typed, *passed_on(request.headers)], encoded

    @staticmethod
    async def _called(handler: Handler, body: bytes) -> web.Response:
        limit = handler.clocks.total
        try:
            async with asyncio.timeout(limit):
                return web.Response(body=await handler.answer(body), content_type=JSON_TYPE)
        except TimeoutError as error:
            raise ModelTimeout(
                f"the remote_function of {handler.route} was not done within total_timeout={limit:g} s"
            ) from error

    @staticmethod
    async def _hooked(request: web.Request, handler: Handler, response: object) -> web.StreamResponse:
        """The author's answer. It may be half sent when the author's code raises: then the connection is cut."""
        try:
            return await handler.respond_to(request, response)
        except Refusal as refusal:
            if request.transport is None or request.transport.is_closing():
                raise asyncio.CancelledError from refusal  # nobody is there any more to be answered
            if request.writer.output_size > 0:
                raise AnswerBroken(refusal.reason) from refusal
            if isinstance(refusal.__cause__, TimeoutError):
                raise ModelTimeout(
                    f"the model server's answer to {handler.route} did not come within total_timeout={handler.clocks.total} s"
                ) from refusal
            raise
