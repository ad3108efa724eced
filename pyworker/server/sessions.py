"""Sessions on the wire: open, ask, end, and end by themselves when their time is over.

On close the requests inside are cut, then ``on_close_route`` is told, best effort. It must be a path on the model server,
or a URL whose origin the instance's owner has allowed: nobody else can make the worker POST anywhere.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
from aiohttp import web

from pyworker.core.errors import (
    AnswerBroken,
    InvalidRequest,
    InvalidSession,
    NoSuchSession,
    NotReady,
    Refusal,
    TooManySessions,
)
from pyworker.core.ledger import Ledger
from pyworker.core.sessions import Session, Sessions, authorize
from pyworker.core.signature import Origin
from pyworker.core.wire import (
    SessionCall,
    on_close_body,
    parse_session_call,
    parse_session_request,
    session_ended,
    session_opened,
    session_told,
)
from pyworker.model.pool import ModelServer
from pyworker.server.door import Door
from pyworker.server.proxy import Proxy

log = logging.getLogger(__name__)

ID_BYTES: Final = 16
"""128 random bits: the id is what keeps other clients of this worker out."""

_IN_ONE_LINE: Final = re.compile("[!-~]+")
"""A path or URL that can stand in the first line of a request, and is only that."""

CALLBACK_TIMEOUT: Final = 10.0
COLLECT_EVERY: Final = 0.25


class SessionRoutes:
    """What answers under ``/session/``."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        door: Door,
        proxy: Proxy,
        ledger: Ledger,
        model: ModelServer | None,
        origins: Sequence[str],
        client: aiohttp.ClientSession,
        unix_offset: float,
    ) -> None:
        self._sessions = sessions
        self._door = door
        self._proxy = proxy
        self._ledger = ledger
        self._model = model
        self._any_origin = "*" in origins
        self._origins = {Origin.of(origin) for origin in origins if origin != "*"}
        self._client = client
        self._unix_offset = unix_offset
        self._group: asyncio.TaskGroup | None = None
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._callback_timeout = CALLBACK_TIMEOUT
        self._limits: set[asyncio.Timeout] = set()

    async def create(self, request: web.Request) -> web.Response:
        """``POST /session/create``: a signed envelope."""
        envelope = await self._door.read(request, "/session/create")
        try:
            grant = envelope.grant(signed=self._door.signed)
            assert envelope.payload is not None
            wanted = parse_session_request(envelope.payload)
            self._check_callback(wanted.on_close_route)
            self._door.require_ready()
            self._sessions.require_room()
        except (InvalidRequest, NotReady, TooManySessions):
            self._ledger.reject(
                envelope.request_idx(), envelope.cost(), time.monotonic(), route="/session/create"
            )
            raise
        now = time.monotonic()
        session = Session(
            id=secrets.token_hex(ID_BYTES),
            auth_data=envelope.auth_data(),
            request=wanted,
            created_at=now,
            expires_at=now + wanted.lifetime,
            entry=self._ledger.open_session(grant.request_idx, grant.cost, now),
        )
        self._sessions.add(session)
        return _json(session_opened(session.id, session.expires_at + self._unix_offset), 201)

    def _check_callback(self, route: str | None) -> None:
        if route is None or (_IN_ONE_LINE.fullmatch(route) and self._may_be_told(route)):
            return
        raise InvalidRequest(
            {
                "payload": {
                    "on_close_route": "must be a path on the model server, or at an origin of SESSION_CALLBACK_ORIGINS"
                }
            }
        )

    def _may_be_told(self, route: str) -> bool:
        if route.startswith("/") and not route.startswith("//"):
            return self._model is not None
        try:
            return Origin.of(route) in self._origins or self._any_origin
        except ValueError:
            return False

    async def get(self, request: web.Request) -> web.Response:
        """``POST /session/get``."""
        session = self._authorized(await self._call(request))
        told = session_told(
            session.id,
            session.auth_data,
            session.request,
            expiration=session.expires_at + self._unix_offset,
            created_at=session.created_at + self._unix_offset,
        )
        return _json(told)

    async def health(self, request: web.Request) -> web.Response:
        """``POST /session/health``."""
        try:
            self._authorized(await self._call(request))
        except NoSuchSession:
            return _json({"ok": False})
        return _json({"ok": True})

    async def end(self, request: web.Request) -> web.Response:
        """``POST /session/end``, on the public port and in plain HTTP on the loopback one."""
        call = await self._call(request)
        if self._sessions.is_closing(call.session_id):
            raise InvalidSession
        session = self._authorized(call)
        self._begin_close(session)
        await asyncio.shield(self._closing[session.id])  # it goes on even if who asked for it does not wait
        return _json(session_ended(session.id))

    async def _call(self, request: web.Request) -> SessionCall:
        return parse_session_call(await self._door.body(request))

    def _authorized(self, call: SessionCall) -> Session:
        session = self._sessions.find(call.session_id)
        if session is None:
            raise NoSuchSession("unknown session")
        authorize(session, call.session_auth)
        return session

    # Ending...

    async def collect(self) -> None:
        """Close sessions whose time is over, until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                for session in self._sessions.expired(time.monotonic()):
                    self._begin_close(session)
                await asyncio.sleep(COLLECT_EVERY)

    async def close_all(self, cut: asyncio.Event) -> None:
        """Close every session: the worker is draining. From ``cut`` on no callback is waited for."""
        for session in self._sessions.all_open():
            self._begin_close(session)
        async with asyncio.TaskGroup() as group:
            hurrying = group.create_task(self._hurry(cut))
            if self._closing:
                await asyncio.wait(self._closing.values())
            hurrying.cancel()

    async def _hurry(self, cut: asyncio.Event) -> None:
        await cut.wait()
        self._callback_timeout = 0.0
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    def _begin_close(self, session: Session) -> None:
        """From now on nobody can use it; the rest takes its time, at most `CALLBACK_TIMEOUT`."""
        assert self._group is not None
        self._sessions.begin_close(session)
        self._closing[session.id] = self._group.create_task(self._close(session))

    async def _close(self, session: Session) -> None:
        await self._proxy.cut_session(session)
        self._ledger.close_session(session.entry, time.monotonic())
        try:
            await self._tell(session)
        finally:
            self._sessions.remove(session)
            del self._closing[session.id]

    async def _tell(self, session: Session) -> None:
        route = session.request.on_close_route
        if route is None:
            return
        body = on_close_body(session.id, session.request.on_close_payload)
        limit = asyncio.timeout(self._callback_timeout)
        self._limits.add(limit)
        try:
            async with limit:
                status = await self._post(route, body)
        except (Refusal, AnswerBroken, aiohttp.ClientError, OSError, ValueError) as error:
            log.warning("a session's on_close_route failed: why=%s", str(error) or type(error).__name__)
        else:
            log.info("a session's on_close_route was told: status=%d", status)
        finally:
            self._limits.discard(limit)

    async def _post(self, route: str, body: bytes) -> int:
        if not route.startswith("/"):
            headers = {"Content-Type": "application/json"}
            async with self._client.post(
                route, data=body, headers=headers, allow_redirects=False
            ) as response:
                return response.status
        assert self._model is not None
        answer = await self._model.ask("POST", route, [(b"Content-Type", b"application/json")], body)
        answer.close()
        return answer.status


def _json(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json")
