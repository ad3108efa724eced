"""Life of a request: read, verified, priced, queued, forwarded, relayed, settled.

Nothing but size and time limits runs before the signature holds, and nothing is counted: whoever cannot sign cannot
move a figure. From then on a request ends exactly once in the ledger, whatever becomes of it.
"""

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import StreamReader, web

from pyworker.core.admission import Lane, Ticket
from pyworker.core.errors import (
    AnswerBroken,
    HandlerFailed,
    InvalidRequest,
    InvalidSession,
    NotReady,
    QueueFull,
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
from pyworker.model.connection import Header, ModelServer
from pyworker.model.form import encode_form
from pyworker.server.relay import relay

log = logging.getLogger(__name__)

BODY_PAUSE: Final = 30.0
"""Seconds a client may take between two pieces of its body."""

BODY_RATE: Final = 1024
"""Bytes a second that a body must come at, on the whole."""

RETRY_NOT_READY: Final = 5.0
RETRY_DRAINING: Final = 1.0
PASSED_ON: Final = ("Accept", "Accept-Encoding", "X-Request-Id", "traceparent")
"""Headers of the client that the model server gets (protocol.md section 1); nothing else of its head goes on."""


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
        self.serial = Lane(1)
        self.parallel = Lane(None)
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._cutting = False
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

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer ``request``. Raises `Refusal` for what is turned away, `AnswerBroken` after a broken answer."""
        envelope = await self.read(request)
        session = self._session_of(envelope)
        work, index = await self._admissible(envelope, handler, session)
        return await self._work(request, handler, work, index=index, session=session)

    # Reading and verifying: nothing is counted yet...

    async def read(self, request: web.Request) -> Envelope:
        """The envelope of a request whose signature holds. Raises `Refusal`."""
        header = request.headers.get(GRANT_HEADER)
        if header is not None:
            envelope = parse_grant_header(header, request.headers.get(SESSION_HEADER), signed=self.signed)
            self._verify(envelope)
            envelope.payload = await self.body(request)
            return envelope
        envelope = parse_envelope(await self.body(request), signed=self.signed)
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
        if (request.content_length or 0) > self._max_body_size:
            raise self._too_large()
        if not request.content.is_eof():
            return await self._piece_by_piece(request.content)
        body = request.content.read_nowait()  # the usual case: the whole body came with the head
        if len(body) > self._max_body_size:
            raise self._too_large()
        return body

    async def _piece_by_piece(self, content: StreamReader) -> bytes:
        pieces: list[bytes] = []
        size, began = 0, time.monotonic()
        while not content.at_eof():
            try:
                async with asyncio.timeout(BODY_PAUSE):
                    piece = await content.readany()
            except TimeoutError as error:
                raise TooSlow(f"no byte of the body for {BODY_PAUSE:g} s") from error
            pieces.append(piece)
            size += len(piece)
            if size > self._max_body_size:
                raise self._too_large()
            if time.monotonic() - began > BODY_PAUSE + size / BODY_RATE:
                raise TooSlow(f"the body comes at less than {BODY_RATE} bytes a second")
        return b"".join(pieces)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is over the limit of {self._max_body_size} bytes")

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
        self, envelope: Envelope, handler: Handler, session: Session | None
    ) -> tuple[Work, int]:
        """The priced request and the index the engine knows it by."""
        load, index = envelope.cost(), envelope.request_idx()
        try:
            index = envelope.grant(signed=self.signed).request_idx
            assert envelope.payload is not None
            if handler.slow:
                work = await asyncio.to_thread(handler.prepare, envelope.payload)
            else:
                work = handler.prepare(envelope.payload)
            load = work.load
            self.require_ready()
        except HandlerFailed:
            self._failed_at_the_door(index, handler, session)
            raise
        except (InvalidRequest, NotReady):
            self._reject(index, handler, load, session)
            raise
        return work, index

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
        why = f": {self._lifecycle.error}" if self._lifecycle.error else ""
        raise NotReady(f"the model is not ready ({state.value}{why})", retry_after=RETRY_NOT_READY)

    # Queueing and working: what is taken here is given back here...

    async def _work(
        self, request: web.Request, handler: Handler, work: Work, *, index: int, session: Session | None
    ) -> web.StreamResponse:
        """Take a place in the handler's lane and in the ledger, until the request has ended one way or another."""
        if session is not None and session.closing:  # it ended while a slow hook was pricing this request
            raise InvalidSession
        lane = self.parallel if handler.parallel else self.serial
        ticket = self._ticket(lane, handler, work, index, session)
        inside = session.entry if session is not None else None
        entry = self._ledger.enter(index, work.load, time.monotonic(), route=handler.route, session=inside)
        self._note(session)
        outcome = Outcome.FAILED
        try:
            if not ticket.running:
                await self._turn(ticket, handler.max_queue_time)
            self._ledger.start(entry, time.monotonic())
            response = await self._forward(request, handler, work, entry)
            outcome = entry.outcome or Outcome.SERVED
        except QueueFull:
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

    def _ticket(
        self, lane: Lane, handler: Handler, work: Work, index: int, session: Session | None
    ) -> Ticket:
        try:
            return lane.enter(
                work.load,
                perf=self._lifecycle.perf,
                in_flight=self._ledger.load_in_flight,
                max_wait=handler.max_queue_time,
            )
        except QueueFull:
            self._reject(index, handler, work.load, session)
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

    async def _forward(
        self, request: web.Request, handler: Handler, work: Work, entry: Entry
    ) -> web.StreamResponse:
        if handler.call is not None:
            return web.Response(body=await handler.answer(work.body), content_type=JSON_TYPE)
        assert self._model is not None
        assert self._hooks is not None
        content_type, body = (JSON_TYPE, work.body) if work.form is None else await encode_form(work.form)
        headers = _headers(request, content_type)
        if handler.respond is not None:
            async with self._hooks.post(handler.model_path, headers, body) as response:
                entry.outcome = _outcome(response.status, handler)
                return await self._hooked(request, handler, response)
        answer = await self._model.ask("POST", handler.model_path, headers, body)
        try:
            relayed = await relay(request, answer)
        finally:
            answer.close()
        entry.outcome = _outcome(answer.status, handler)
        return relayed

    async def _hooked(self, request: web.Request, handler: Handler, response: object) -> web.StreamResponse:
        """The author's answer. It may be half sent when the author's code raises: then the connection is cut."""
        assert handler.respond is not None
        try:
            made = await handler.respond(request, response)
        except Exception as error:
            log.exception("response_generator failed: route=%s", handler.route)
            if request.writer.output_size > 0:
                raise AnswerBroken(f"the response_generator of {handler.route} raised") from error
            raise HandlerFailed(
                f"the response_generator of {handler.route} raised {type(error).__name__}"
            ) from error
        if not isinstance(made, web.StreamResponse):
            raise HandlerFailed(
                f"the response_generator of {handler.route} must return an aiohttp response, not {type(made).__name__}"
            )
        return made


def _headers(request: web.Request, content_type: str) -> list[Header]:
    headers = [(b"Content-Type", content_type.encode("latin-1"))]
    for name in PASSED_ON:
        headers += [
            (name.encode(), value.encode("utf-8", "surrogateescape"))
            for value in request.headers.getall(name, ())
        ]
    return headers


def _outcome(status: int, handler: Handler) -> Outcome:
    """A model server's 4xx is a success, as it did its work, unless the handler says otherwise."""
    failed = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in handler.error_statuses
    return Outcome.FAILED if failed else Outcome.SERVED
