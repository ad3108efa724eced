"""Who is let in: a request read, verified, checked and priced.

Nothing but size and time limits runs before the signature holds, and nothing is counted: whoever cannot sign cannot
move a figure. From then on whatever is refused is told to the engine.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiohttp import web

from pyworker.core.errors import (
    HandlerFailed,
    InvalidRequest,
    InvalidSession,
    NotByThisKey,
    NotReady,
    Refusal,
    UnsupportedBody,
)
from pyworker.core.ledger import Ledger
from pyworker.core.lifecycle import Lifecycle, State
from pyworker.core.outcome import Outcome
from pyworker.core.sessions import Session, Sessions
from pyworker.core.signature import Verifier
from pyworker.core.wire import GRANT_HEADER, SESSION_HEADER, Envelope, parse_envelope, parse_grant_header
from pyworker.fence import in_thread
from pyworker.handler import Handler, Work
from pyworker.server.body import Budget, ClientBody

RETRY_NOT_READY: Final = 5.0
RETRY_DRAINING: Final = 1.0

AWAITED: Final = 2**30
"""Bytes of bodies held together while their rest is awaited, or four times the largest body."""


@dataclass(slots=True)
class Job:
    """A request that may be worked on: what, for which handler, and the index the engine knows it by."""

    handler: Handler
    work: Work
    index: int
    path: str
    """What the model server is asked for."""
    session: Session | None = None
    by_header: bool = False
    """The grant came in a header: the rest of the request is meant for the model server as it is."""


class Door:
    """The way in of one worker."""

    def __init__(
        self,
        *,
        verifier: Verifier,
        renewed: Callable[[], Awaitable[None]],
        unsecured: bool,
        lifecycle: Lifecycle,
        ledger: Ledger,
        sessions: Sessions,
        max_body_size: int,
    ) -> None:
        self._verifier = verifier
        self._renewed = renewed
        self.signed = not unsecured
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._sessions = sessions
        self.max_body_size = max_body_size
        self._awaited = Budget(max(4 * max_body_size, AWAITED))
        self.why_not_ready: Callable[[], str] = lambda: ""
        """One line: what the worker waits for."""

    # Reading and verifying: nothing is counted yet...

    async def read(self, request: web.Request, route: str) -> Envelope:
        """The envelope of a request to ``route`` whose signature holds, with its payload. Raises `Refusal`."""
        header = request.headers.get(GRANT_HEADER)
        if header is None:
            return await self._envelope(request)
        envelope = await self._granted(request, header)
        try:
            envelope.payload = await self.body(request)
        except Refusal:
            self._ledger.reject(envelope.request_idx(), envelope.cost(), time.monotonic(), route=route)
            raise
        except asyncio.CancelledError:
            self._left(envelope.request_idx(), envelope.cost(), route)
            raise
        return envelope

    async def _envelope(self, request: web.Request) -> Envelope:
        envelope = parse_envelope(await self.body(request), signed=self.signed)
        await self._verify(envelope)
        return envelope

    async def _granted(self, request: web.Request, header: str) -> Envelope:
        """The envelope of a request with its grant in a header: the body has not been looked at."""
        envelope = parse_grant_header(header, request.headers.get(SESSION_HEADER), signed=self.signed)
        await self._verify(envelope)
        return envelope

    async def _verify(self, envelope: Envelope) -> None:
        if not self.signed:
            return
        if not self._verifier.has_key:  # nobody can be told apart yet: a 401 would not be tried again
            raise NotReady("the engine's public key is not here yet", retry_after=RETRY_NOT_READY)
        try:
            self._verifier.check(envelope.url, envelope.signature)
        except NotByThisKey:  # the engine may have a new key, and the official client does not retry a 401
            await self._renewed()
            self._verifier.check(envelope.url, envelope.signature)

    def knows(self, url: str, signature: str) -> bool:
        """Whether this signature of ``url`` has been verified before."""
        return not self.signed or self._verifier.remembers(url, signature)

    async def body(self, request: web.Request) -> bytes:
        """The whole body, within the limits of size and time. Raises `Refusal`."""
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedBody("a compressed body is not supported: send it without Content-Encoding")
        return await ClientBody(request, self.max_body_size).whole(self._awaited)

    # Checking and pricing: whatever is refused from here on is told to the engine...

    async def job(self, request: web.Request, handler: Handler, path: str) -> Job:
        """What ``request`` asks ``handler`` for. Raises `Refusal`: it has been counted, if the signature holds."""
        header = request.headers.get(GRANT_HEADER)
        if header is None:
            envelope = await self._envelope(request)
        else:
            envelope = await self._granted(request, header)
        session = self._session_of(envelope)
        load, index = envelope.cost(), envelope.request_idx()
        try:
            index = envelope.grant(signed=self.signed).request_idx
            if header is None:
                assert envelope.payload is not None
                work = await self._priced(handler, envelope.payload)
            else:
                work = await self._priced_by_header(request, handler, load)
            load = work.load
            self.require_ready()
        except Refusal as refusal:
            self.refuse(refusal, index, load, handler, session)
            raise
        except asyncio.CancelledError:
            if session is None:
                self._left(index, load, handler.route)
            raise
        return Job(handler, work, index, path, session, by_header=header is not None)

    def _session_of(self, envelope: Envelope) -> Session | None:
        """The session a request is inside of; using it keeps it alive. Raises `InvalidSession`, `BadSignature`."""
        if not isinstance(envelope.session_id, str):  # what is neither that nor null is told off later
            return None
        now = time.monotonic()
        try:
            return self._sessions.use(envelope.session_id, envelope.auth_data(), now)
        except (InvalidSession, InvalidRequest):
            self._ledger.reject(envelope.request_idx(), 0.0, now)
            raise

    @staticmethod
    async def _priced(handler: Handler, payload: bytes) -> Work:
        if handler.slow:
            return await in_thread(partial(handler.prepare, payload))
        return handler.prepare(payload)

    async def _priced_by_header(self, request: web.Request, handler: Handler, cost: float) -> Work:
        """The body is read here only if a function of the author's wants to see it."""
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not request.body_exists or handler.passes(content_type):
            return handler.unread(cost)
        return await self._priced(handler, await self.body(request))

    def refuse(
        self,
        refusal: Refusal,
        index: int | None,
        load: float,
        handler: Handler,
        session: Session | None = None,
    ) -> None:
        """Count a request turned away. Inside of a session its index is the session's, which has not ended.

        Where the author's code raised there is no price: that ends as an error of no load.
        """
        now = time.monotonic()
        if not isinstance(refusal, HandlerFailed):
            self._ledger.reject(index if session is None else None, load, now, route=handler.route)
        elif session is None and index is not None:
            self._ledger.settle(self._ledger.enter(index, 0.0, now, route=handler.route), Outcome.FAILED, now)

    def _left(self, index: int | None, load: float, route: str) -> None:
        """Count a request whose client left before it could be worked on."""
        if index is not None:
            now = time.monotonic()
            self._ledger.settle(self._ledger.enter(index, load, now, route=route), Outcome.CANCELLED, now)

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
