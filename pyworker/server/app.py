"""The public port: routes, refusals as JSON, TLS. It is open from the first second."""

import asyncio
import contextlib
import errno
import logging
import resource
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage

from pyworker.core.errors import AnswerBroken, BadHttp, NoSuchRoute, Refusal, WrongMethod
from pyworker.handler import Handler
from pyworker.server.client import KEEP_ALIVE, ClientConnection, Shortcut
from pyworker.server.exchange import Sent
from pyworker.server.places import log_broken
from pyworker.server.ports import PortTaken, holder
from pyworker.server.proxy import Proxy
from pyworker.server.refusals import Answer, RefusalLog
from pyworker.server.routes import Routes
from pyworker.server.tls_port import TlsPort

log = logging.getLogger(__name__)

READ_AHEAD: Final = 256 * 1024
"""Bytes of a body that are taken from a client before anyone asks for them; it may be twice as much."""

MOST_CONNECTIONS: Final = 10_000
LOOKED_AT: Final = 1000
"""Connections that are looked at for one to close when there are too many: the oldest."""

SPARE_FILES: Final = 200
"""Open files left for all that is no client: logs, the journal, the engine, the model server's idle connections."""

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]

VERSIONS: Final = frozenset({HttpVersion10, HttpVersion11})
"""What is spoken; aiohttp takes more for HTTP."""

OWNER_PATHS: Final = "/pyworker/"


class App:
    """What answers on the public port: handlers' routes, and ``extra`` ones by (method, path).

    What is under ``/pyworker/`` is the ``owner``'s, whatever the handlers' routes are.
    """

    def __init__(
        self,
        proxy: Proxy,
        handlers: Sequence[Handler],
        refusals: RefusalLog,
        *,
        extra: Mapping[tuple[str, str], Serve] | None = None,
        owner: Answer | None = None,
    ) -> None:
        self._proxy = proxy
        self._refusals = refusals
        self._owner = owner
        self._routes = Routes(handlers)
        self._extra = dict(extra or {})

    def take_known(self, client: ClientConnection, data: bytes) -> bool:
        """Serve a usual request by its head, which has come before, or say that it is none."""
        return self._proxy.direct is not None and self._proxy.direct.take_known(client, data)

    def take(self, client: ClientConnection, message: RawRequestMessage, raw: bytes, body: bytes) -> bool:
        """Serve a usual request without a task, or say that it is none."""
        if self._proxy.direct is None or message.method != "POST" or message.upgrade:
            return False
        if message.version not in VERSIONS:
            return False
        handler = self._routes.exact(message.path.partition("?")[0])
        if handler is None or "POST" not in handler.methods:
            return False
        return self._proxy.direct.take(client, message, raw, body, handler)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Whatever happens there is an answer: the model server's, the author's, a refusal, or a cut connection."""
        assert isinstance(request, web.Request)
        client = cast("ClientConnection", request.protocol)
        if client.refusal is not None:
            refusal, client.refusal = client.refusal, None
            return self._refusals.answer(refusal, request)
        try:
            return await self._route(request)
        except Refusal as refusal:
            return self._refusals.answer(refusal, request)
        except AnswerBroken as error:
            log_broken(request.path, error)
            if request.transport is not None:
                request.transport.close()
            return Sent(502, keep_alive=False)
        except Exception:
            log.exception("bug: path=%s", ascii(request.path))
            return self._refusals.answer(Refusal("internal error; the worker's log has more"), request)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        if request.version not in VERSIONS:
            raise BadHttp("only HTTP/1.1 and HTTP/1.0 are spoken here")
        path = request.raw_path.partition("?")[0]
        if not path.startswith("/"):  # the absolute form, as a client sends it that takes us for a proxy
            path = request.rel_url.raw_path
        if self._owner is not None and path.startswith(OWNER_PATHS):
            return await self._owner(request)
        handler, model_path = self._routes.find(path)
        if handler is not None:
            if request.method not in handler.methods:
                allowed = ", ".join(sorted(handler.methods))
                raise WrongMethod(
                    f"{request.method} {handler.route}: use {allowed}", headers={"Allow": allowed}
                )
            return await self._proxy.serve(request, handler, model_path)
        extra = self._extra.get((request.method, path))
        if extra is None:
            raise NoSuchRoute(
                f"no such route: {path[:200]}; this worker serves {', '.join(self._routes.names)}"
            )
        return await extra(request)


class _Server(web.Server):
    """aiohttp's server, with our connections, at most ``most`` of them."""

    def __init__(
        self, handler: Answer, *, refusals: RefusalLog, shortcut: Shortcut | None, most: int, **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self._refusals = refusals
        self._shortcut = shortcut
        self._most = most

    def __call__(self) -> web.RequestHandler:
        full = len(self._connections) >= self._most and not self._make_room()
        return ClientConnection(
            self,
            refusals=self._refusals,
            shortcut=self._shortcut,
            full=full,
            loop=self._loop,
            **self._kwargs,
        )

    def _make_room(self) -> bool:
        """Close the oldest connection that waits for nothing: whoever only holds connections keeps nobody out."""
        for client in islice(self._connections, LOOKED_AT):
            if isinstance(client, ClientConnection) and client.may_go:
                client.force_close()
                return True
        return False


class Listener:
    """One listening port and the server behind it, for at most ``max_connections`` at once."""

    def __init__(
        self,
        answer: Answer,
        *,
        max_body_size: int,
        refusals: RefusalLog,
        max_connections: int = 256,
        shortcut: Shortcut | None = None,
    ) -> None:
        self._max_body_size = max_body_size
        self._loop = asyncio.get_running_loop()
        self._server = _Server(
            answer,
            refusals=refusals,
            shortcut=shortcut,
            most=max_connections,
            request_factory=self._request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE,
            auto_decompress=False,
            read_bufsize=READ_AHEAD,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1.0)
        self._refusals = refusals
        self._tls: TlsPort | None = None
        self.port = 0

    def _request(self, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - aiohttp's private types
        return web.Request(
            message,
            payload,
            protocol,
            writer,
            task,
            self._loop,
            client_max_size=self._max_body_size,
        )

    @property
    def open_connections(self) -> int:
        return len(self._server.connections)

    async def open(self, host: str | None, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen; under TLS on all addresses. Raises `PortTaken`, which says who listens there already."""
        await self._runner.setup()
        try:
            if tls is None:
                await web.TCPSite(self._runner, host, port, backlog=1024).start()
                self.port = self._runner.addresses[0][1]
            else:
                self._tls = TlsPort(port, made=self._server, context=tls, refusals=self._refusals)
                self.port = self._tls.port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(f"port {port} is taken{await asyncio.to_thread(holder, port)}") from error

    async def close(self) -> None:
        """Cut what is left."""
        if self._tls is not None:
            self._tls.close()
        await self._runner.cleanup()


def raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many connections of clients that is good for.

    Each takes two: its own, and one to the model server.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # some systems say no limit and mean another
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    usable = (soft - SPARE_FILES) // 2 if soft != resource.RLIM_INFINITY else MOST_CONNECTIONS
    return max(1, min(usable, MOST_CONNECTIONS))
