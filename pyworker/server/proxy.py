"""Life of a request: read, verified, priced, queued, forwarded, relayed, settled.

Nothing but size and time limits runs before the signature holds, and nothing is counted: whoever cannot sign cannot
move a figure. From then on a request ends exactly once in the ledger, whatever becomes of it.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote_plus

from aiohttp import web

from pyworker.core.admission import Lane, Ticket
from pyworker.core.errors import (
    AnswerBroken,
    BadBody,
    HandlerFailed,
    InvalidRequest,
    InvalidSession,
    ModelTimeout,
    NotReady,
    QueueFull,
    Refusal,
    TooLarge,
    TooSlow,
    UnsupportedBody,
)
from pyworker.core.ledger import Entry, Ledger, Outcome
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.sessions import Session, Sessions
from pyworker.core.signature import Verifier
from pyworker.core.wire import GRANT_HEADER, SESSION_HEADER, Envelope, parse_envelope, parse_grant_header
from pyworker.handler import JSON_TYPE, Handler, Work
from pyworker.model.client import HookClient
from pyworker.model.connection import Header, Upload
from pyworker.model.form import encode_form
from pyworker.model.pool import ModelServer
from pyworker.server.body import ClientBody
from pyworker.server.lanes import Lanes
from pyworker.server.relay import end_to_end, relay

log = logging.getLogger(__name__)

RETRY_NOT_READY: Final = 5.0
RETRY_DRAINING: Final = 1.0
PASSED_ON: Final = ("Accept", "Accept-Encoding", "X-Request-Id", "traceparent")
"""Headers that go on from a client with its grant in the envelope (protocol.md section 1), and nothing else of its head."""

_KEPT_BACK: Final = frozenset({
    b"authorization", b"cookie", b"x-auth-data", b"x-session-id", b"host", b"content-length", b"expect",
})  # fmt: skip
"""End-to-end headers that do not go on from a client with its grant in a header."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A request that may be worked on: what, for which handler, and the index the engine knows it by."""

    handler: Handler
    work: Work
    index: int
    session: Session | None
    path: str
    """What the model server is asked for."""
    by_header: bool
    """The grant came in a header: the rest of the request is meant for the model server as it is."""


class Proxy:
    """The data plane of one worker: `serve` answers every request to a handler's route."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        unsecured: bool,
        lifecycle: Lifecycle,
        ledger: Ledger,
        model: ModelServer | None,
        max_body_size: int,
        sessions: Sessions,
        lanes: Lanes,
    ) -> None:
        self._verifier = verifier
        self.signed = not unsecured
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._model = model
        self._hooks = HookClient(model.url) if model is not None else None
        self._max_body_size = max_body_size
        self._sessions = sessions
        self._inside: dict[Session, set[asyncio.Task[Any]]] = {}
        self.lanes = lanes
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._cutting = False
        self.why_not_ready: Callable[[], str] = lambda: ""
        """One line: what the worker waits for."""
        self._emptied = asyncio.Event()

    async def emptied(self) -> None:
        """Return when no request is in flight."""
        while self._ledger.requests_in_flight:
            self._emptied.clear()
            await self._emptied.wait()

    def cut(self) -> None:
        """From now on a request that is cancelled was cut by us: it ends as an error, not as the client's doing."""
        self._cutting = True

    async def close(self) -> None:
        if self._hooks is not None:
            await self._hooks.close()

    async def serve(self, request: web.Request, handler: Handler, path: str) -> web.StreamResponse:
        """Answer ``request``. Raises `Refusal` for what is turned away, `AnswerBroken` after a broken answer."""
        header = request.headers.get(GRANT_HEADER)
        if header is None:
            envelope = await self._envelope(request)
        else:
            envelope = self._granted(request, header)
        session = self._session_of(envelope)
        if header is None:
            job = await self._admissible(envelope, handler, session, path)
        else:
            job = await self._admissible_by_header(request, envelope, handler, session, path)
        return await self._work(request, job)

    # Reading and verifying: nothing is counted yet...

    async def read(self, request: web.Request) -> Envelope:
        """The envelope of a request whose signature holds, with its payload. Raises `Refusal`."""
        header = request.headers.get(GRANT_HEADER)
        if header is None:
            return await self._envelope(request)
        envelope = self._granted(request, header)
        envelope.payload = await self.body(request)
        return envelope

    async def _envelope(self, request: web.Request) -> Envelope:
        envelope = parse_envelope(await self.body(request), signed=self.signed)
        self._verify(envelope)
        return envelope

    def _granted(self, request: web.Request, header: str) -> Envelope:
        """The envelope of a request with its grant in a header: the body has not been looked at."""
        envelope = parse_grant_header(header, request.headers.get(SESSION_HEADER), signed=self.signed)
        self._verify(envelope)
        return envelope

    def _verify(self, envelope: Envelope) -> None:
        if not self.signed:
            return
        if not self._verifier.has_key:  # nobody can be told apart yet: a 401 would not be tried again
            raise NotReady("the engine's public key is not here yet", retry_after=RETRY_NOT_READY)
        self._verifier.check(envelope.url, envelope.signature)

    async def body(self, request: web.Request) -> bytes:
        """The whole body, within the limits of size and time. Raises `Refusal`."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedBody("a compressed body is not supported: send it without Content-Encoding")
        return await ClientBody(request, self._max_body_size).whole()

    # Checking and pricing: whatever is refused from here on is told to the engine...

    def _session_of(self, envelope: Envelope) -> Session | None:
        """The session a request is inside of; using it keeps it alive. Raises `InvalidSession`, `BadSignature`."""
        if envelope.session_id is None:
            return None
        now = time.monotonic()
        try:
            return self._sessions.use(str(envelope.session_id), envelope.auth_data(), now)
        except InvalidSession:
            self._ledger.reject(envelope.request_idx(), 0.0, now)
            raise

    async def _admissible(
        self, envelope: Envelope, handler: Handler, session: Session | None, path: str
    ) -> _Job:
        load, index = envelope.cost(), envelope.request_idx()
        try:
            index = envelope.grant(signed=self.signed).request_idx
            assert envelope.payload is not None
            work = await self._priced(handler, envelope.payload)
            load = work.load
            self.require_ready()
        except HandlerFailed:
            self._failed_at_the_door(index, handler, session)
            raise
        except (InvalidRequest, NotReady):
            self._reject(index, handler, load, session)
            raise
        return _Job(handler, work, index, session, path, by_header=False)

    async def _admissible_by_header(
        self, request: web.Request, envelope: Envelope, handler: Handler, session: Session | None, path: str
    ) -> _Job:
        """The same where the body is still to come: it is read here only if a function of the author's wants to see it."""
        load, index = envelope.cost(), envelope.request_idx()
        try:
            index = envelope.grant(signed=self.signed).request_idx
            content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if not request.body_exists or handler.passes(content_type):
                work = handler.unread(load)
            else:
                work = await self._priced(handler, await self.body(request))
            load = work.load
            self.require_ready()
        except HandlerFailed:
            self._failed_at_the_door(index, handler, session)
            raise
        except Refusal:
            self._reject(index, handler, load, session)
            raise
        return _Job(handler, work, index, session, path, by_header=True)

    @staticmethod
    async def _priced(handler: Handler, payload: bytes) -> Work:
        if handler.slow:
            return await asyncio.to_thread(handler.prepare, payload)
        return handler.prepare(payload)

    def _failed_at_the_door(self, index: int | None, handler: Handler, session: Session | None) -> None:
        """The author's code raised before there was a price: it ends as an error of no load."""
        if session is None and index is not None:
            now = time.monotonic()
            self._ledger.settle(self._ledger.enter(index, 0.0, now, route=handler.route), Outcome.FAILED, now)

    def _reject(self, index: int | None, handler: Handler, load: float, session: Session | None) -> None:
        """Count a request turned away. Inside of a session its index is the session's, which has not ended."""
        self._ledger.reject(index if session is None else None, load, time.monotonic(), route=handler.route)

    def require_ready(self) -> None:
        """Raises `NotReady`, with the reason, unless the worker is ready."""
        state = self._lifecycle.state
        if state is State.READY:
            return
        if state is State.DRAINING:
            raise NotReady("this worker is draining: ask the engine for another", retry_after=RETRY_DRAINING)
        line = self.why_not_ready() or self._lifecycle.error
        why = f": {line}" if line else ""
        raise NotReady(f"the model is not ready ({state.value}{why})", retry_after=RETRY_NOT_READY)

    # Queueing and working: what is taken here is given back here...

    async def _work(self, request: web.Request, job: _Job) -> web.StreamResponse:
        """Take a place in the handler's lane and in the ledger, until the request has ended one way or another."""
        session = job.session
        if session is not None and session.closing:  # it ended while a slow hook was pricing this request
            raise InvalidSession
        lane = self.lanes.of(job.handler)
        ticket = self._ticket(lane, job)
        inside = session.entry if session is not None else None
        entry = self._ledger.enter(
            job.index, job.work.load, time.monotonic(), route=job.handler.route, session=inside
        )
        self._note(session)
        outcome = Outcome.FAILED
        try:
            if not ticket.running:
                await self._turn(ticket, job.handler.max_queue_time)
            self._ledger.start(entry, time.monotonic())
            response = await self._forward(request, job, entry)
            outcome = entry.outcome or Outcome.SERVED
        except (QueueFull, TooLarge, TooSlow, BadBody):
            outcome = Outcome.REJECTED
            raise
        except asyncio.CancelledError:
            outcome = Outcome.FAILED if self._cutting else Outcome.CANCELLED
            raise
        finally:
            self._ledger.settle(entry, outcome, time.monotonic())
            self._pass_on(lane.leave(ticket))
            self._forget(session)
            self._emptied.set()
        return response

    def _ticket(self, lane: Lane, job: _Job) -> Ticket:
        try:
            return lane.enter(
                job.work.load,
                perf=self._lifecycle.perf,
                in_flight=self._ledger.load_outside_sessions,
                max_wait=job.handler.max_queue_time,
            )
        except QueueFull:
            self._reject(job.index, job.handler, job.work.load, job.session)
            raise

    def _note(self, session: Session | None) -> None:
        """Remember whose task this is, so that `cut_session` finds it."""
        task = asyncio.current_task()
        if session is not None and task is not None:
            self._inside.setdefault(session, set()).add(task)

    def _forget(self, session: Session | None) -> None:
        if session is not None and (tasks := self._inside.get(session)) is not None:
            tasks.discard(cast("asyncio.Task[Any]", asyncio.current_task()))
            if not tasks:
                del self._inside[session]

    async def cut_session(self, session: Session) -> None:
        """Cut the requests inside of a session that has ended; returns when they are settled."""
        tasks = self._inside.get(session, set()).copy()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _turn(self, ticket: Ticket, max_wait: float | None) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._turns[ticket] = turn
        try:
            async with asyncio.timeout(max_wait):
                await turn
        except TimeoutError as error:
            raise QueueFull(
                f"waited longer than this route's max_queue_time of {max_wait:g} s", retry_after=1.0
            ) from error
        finally:
            del self._turns[ticket]

    def _pass_on(self, following: Ticket | None) -> None:
        """It is ``following``'s turn. Its waiter may be leaving at this very moment: then `leave` passes it on again."""
        turn = self._turns.get(following) if following is not None else None
        if turn is not None and not turn.done():
            turn.set_result(None)

    # Forwarding...

    async def _forward(self, request: web.Request, job: _Job, entry: Entry) -> web.StreamResponse:
        handler = job.handler
        if handler.call is not None:
            return await self._called(handler, job.work.body)
        assert self._model is not None
        assert self._hooks is not None
        headers, body = await self._asked(request, job)
        path = job.path + _query(request) if job.by_header else job.path
        if handler.respond is not None:
            asking = self._hooks.ask(request.method, path, headers, body, clocks=handler.clocks)
            async with asking as response:
                entry.outcome = _outcome(response.status, handler)
                return await self._hooked(request, handler, response)
        switches = job.by_header and _wants_switch(request)
        if switches:
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        answer = await self._model.ask(
            request.method, path, headers, body, clocks=handler.clocks, may_switch=switches
        )
        try:
            relayed = await relay(request, answer)
        finally:
            answer.close()
        entry.outcome = _outcome(answer.status, handler)
        return relayed

    async def _asked(self, request: web.Request, job: _Job) -> tuple[list[Header], bytes | Upload]:
        """Headers and body for the model server."""
        if job.work.unread:
            body = ClientBody(request, self._max_body_size)
            whole = await body.whole() if body.is_here else Upload(body, body.length)
            return _own_headers(request), whole
        content_type, encoded = (
            (JSON_TYPE, job.work.body) if job.work.form is None else await encode_form(job.work.form)
        )
        typed = (b"Content-Type", content_type.encode("latin-1"))
        if job.by_header:
            own = [one for one in _own_headers(request) if one[0].lower() != b"content-type"]
            return [typed, *own], encoded
        return [typed, *_passed_on(request)], encoded

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
        assert handler.respond is not None
        try:
            made = await handler.respond(request, response)
        except Exception as error:
            log.exception("response_generator failed: route=%s", handler.route)
            if request.writer.output_size > 0:
                raise AnswerBroken(f"the response_generator of {handler.route} raised") from error
            if isinstance(error, TimeoutError):
                raise ModelTimeout(
                    f"the model server's answer to {handler.route} did not come within total_timeout={handler.clocks.total} s"
                ) from error
            raise HandlerFailed(
                f"the response_generator of {handler.route} raised {type(error).__name__}"
            ) from error
        if not isinstance(made, web.StreamResponse):
            raise HandlerFailed(
                f"the response_generator of {handler.route} must return an aiohttp response, not {type(made).__name__}"
            )
        return made


def _passed_on(request: web.Request) -> list[Header]:
    """What goes on of the head of a request with its grant in the envelope."""
    return [
        (name.encode(), value.encode("utf-8", "surrogateescape"))
        for name in PASSED_ON
        for value in request.headers.getall(name, ())
    ]


def _own_headers(request: web.Request) -> list[Header]:
    """All end-to-end headers of a request with its grant in a header, but for what is the worker's business alone."""
    return [header for header in end_to_end(list(request.raw_headers)) if header[0].lower() not in _KEPT_BACK]


def _query(request: web.Request) -> str:
    """The query, with its question mark, without the client's API key."""
    pairs = request.raw_path.partition("?")[2].split("&")
    kept = [pair for pair in pairs if pair and unquote_plus(pair.partition("=")[0]) != "api_key"]
    return "?" + "&".join(kept) if kept else ""


def _wants_switch(request: web.Request) -> bool:
    return request.method == "GET" and request.headers.get("Upgrade", "").lower() == "websocket"


def _outcome(status: int, handler: Handler) -> Outcome:
    """A model server's 4xx is a success, as it did its work, unless the handler says otherwise."""
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in handler.error_statuses
    return Outcome.FAILED if failed else Outcome.SERVED
