"""The public port: routes, refusals as JSON, TLS. It is open from the first second."""

import asyncio
import errno
import json
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from aiohttp import web

from pyworker.core.errors import AnswerBroken, NoSuchRoute, Refusal, WrongMethod
from pyworker.handler import Handler
from pyworker.server.ports import PortTaken, holder
from pyworker.server.proxy import Proxy
from pyworker.server.relay import Relayed

log = logging.getLogger(__name__)

KEEP_ALIVE: Final = 75.0
"""Seconds an idle client connection stays open, as nginx has it."""

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class App:
    """What answers on the public port: handlers' routes, and ``extra`` ones by (method, path)."""

    def __init__(
        self, proxy: Proxy, handlers: Sequence[Handler], extra: Mapping[tuple[str, str], Serve] | None = None
    ) -> None:
        self._proxy = proxy
        self._handlers = {handler.route: handler for handler in handlers}
        self._extra = dict(extra or {})

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Whatever happens there is an answer: the model server's, the author's, a refusal, or a cut connection."""
        assert isinstance(request, web.Request)
        try:
            return await self._route(request)
        except Refusal as refusal:
            return refused(refusal)
        except AnswerBroken as error:
            log.warning("answer broke off: path=%s why=%s", request.path, error)
            if request.transport is not None:
                request.transport.close()
            return Relayed(502, keep_alive=False)
        except Exception:
            log.exception("bug: path=%s", request.path)
            return refused(Refusal("internal error; the worker's log has more"))

    async def _route(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if "%" in path or not path.startswith("/"):
            path = request.path
        handler = self._handlers.get(path)
        if handler is not None:
            if request.method != "POST":
                raise WrongMethod(f"{request.method} {path}: use POST", headers={"Allow": "POST"})
            _let_continue(request)
            return await self._proxy.serve(request, handler)
        extra = self._extra.get((request.method, path))
        if extra is None:
            raise NoSuchRoute(
                f"no such route: {path[:200]}; this worker serves {', '.join(sorted(self._handlers))}"
            )
        _let_continue(request)
        return await extra(request)


def _let_continue(request: web.BaseRequest) -> None:
    """A client that asked first (``Expect: 100-continue``) may send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def refused(refusal: Refusal) -> web.Response:
    """A refusal as the client sees it. The connection closes when the body may not have been read."""
    headers = dict(refusal.headers)
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    response = web.Response(
        text=json.dumps(refusal.body()),
        status=refusal.status,
        headers=headers,
        content_type="application/json",
    )
    if refusal.status in {401, 408, 413, 415, 500}:
        response.force_close()
    return response


class _Connection(web.RequestHandler):
    """A client's connection. What is no HTTP is answered in JSON and leaves no trace: anyone can send it, any number."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - aiohttp's signature
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002 - it quotes the request, which may hold secrets
    ) -> web.StreamResponse:
        response = web.Response(
            text=json.dumps({"error": "the request is not valid HTTP"}),
            status=status,
            content_type="application/json",
        )
        response.force_close()
        return response


class _Server(web.Server):
    """aiohttp's server, with our connections."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Listener:
    """One listening port and the server behind it."""

    def __init__(
        self, answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], *, max_body_size: int
    ) -> None:
        self._max_body_size = max_body_size
        self._server = _Server(
            answer,
            request_factory=self._request,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=KEEP_ALIVE,
            auto_decompress=False,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1.0)
        self._site: web.TCPSite | None = None
        self.port = 0

    def _request(self, message, payload, protocol, writer, task):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202 - aiohttp's private types
        return web.Request(
            message,
            payload,
            protocol,
            writer,
            task,
            asyncio.get_running_loop(),
            client_max_size=self._max_body_size,
        )

    async def open(self, host: str | None, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen. Raises `PortTaken`, which says who listens there already."""
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, host, port, ssl_context=tls, backlog=1024)
        try:
            await self._site.start()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise PortTaken(f"port {port} is taken{await asyncio.to_thread(holder, port)}") from error
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Cut what is left."""
        await self._runner.cleanup()


def tls_context(cert: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this pair. Raises OSError (missing) or ssl.SSLError (mismatched), named for what it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context
