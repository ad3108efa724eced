"""Builds every part of a worker once, runs them in one TaskGroup, drains when told to."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp

from pyworker.config import WorkerConfig
from pyworker.console.admin import Admin
from pyworker.console.events import Feed
from pyworker.console.scrape import Scrape
from pyworker.console.status import Parts, status
from pyworker.core.ledger import Ledger
from pyworker.core.lifecycle import Event, Lifecycle
from pyworker.core.log_lines import LineScanner
from pyworker.core.sessions import Sessions
from pyworker.core.signature import Verifier
from pyworker.engine.client import EngineClient
from pyworker.engine.keys import EngineKey
from pyworker.engine.reporter import HomeLoop, Identity, Reporter
from pyworker.engine.reporter_thread import ReporterThread
from pyworker.exit import Exit
from pyworker.handler import Handler
from pyworker.loop_watch import LoopWatch
from pyworker.model.gauges import InstanceGauges
from pyworker.model.loading import Loading
from pyworker.model.pool import ModelServer
from pyworker.model.whereabouts import health_route_of, model_server_of
from pyworker.server.app import App, Listener, Serve, raise_file_limit
from pyworker.server.door import Door
from pyworker.server.guard import LocalOnly, WithToken
from pyworker.server.places import Places
from pyworker.server.ports import PortTaken
from pyworker.server.proxy import Proxy
from pyworker.server.refusals import RefusalLog
from pyworker.server.sessions import SessionRoutes
from pyworker.server.tls import Certificate
from pyworker.settings import Settings

log = logging.getLogger(__name__)

FLUSH_TIMEOUT: Final = 5.0
"""Seconds the last report and the last ends may take to reach the engine: docker stop allows ten for everything."""

HURRIED_FLUSH: Final = 2.0
"""The same after a second signal."""

MAX_LOCAL_BODY: Final = 2**20
"""Bytes of a body on the ports of this machine alone."""


class Running:
    """The parts of one worker at work."""

    listened: ClassVar[bool] = False
    """Whether one has served in this process: an end after that is a crash to restart from, not a start that failed."""

    def __init__(
        self,
        config: WorkerConfig,
        settings: Settings,
        handlers: Sequence[Handler],
        *,
        session: aiohttp.ClientSession,
        client: EngineClient,
        ledger: Ledger,
        unix_offset: float,
        leaving: Exit | None,
        plain_routes: Mapping[tuple[str, str], Serve],
    ) -> None:
        now = time.monotonic()
        self._leaving = leaving
        self._settings = settings
        self._left = False
        self._port_is_open = asyncio.Event()
        self._plain_routes = plain_routes
        self.lifecycle = Lifecycle(now)
        self.ledger = ledger
        self.verifier = Verifier(own_url=settings.public_url, allowed_urls=settings.allowed_urls)
        self.key = EngineKey(client=client, verifier=self.verifier, folder=settings.workspace)
        self.reporter = Reporter(
            identity=Identity(settings.container_id, settings.master_token, settings.public_url),
            client=EngineClient(settings.report_addrs),
            home=HomeLoop(asyncio.get_running_loop()),
            ledger=self.ledger,
            lifecycle=self.lifecycle,
            unix_offset=unix_offset,
        )
        self.watch = LoopWatch()
        self.reporting = ReporterThread(self.reporter, [self.watch.run])
        self.certificate = (
            Certificate(settings.ssl_cert_file, settings.ssl_key_file) if settings.use_ssl else None
        )
        self.model = model_server_of(config, handlers)
        self._sessions = Sessions(most=config.max_sessions, longest=settings.session_max_lifetime)
        self.door = Door(
            verifier=self.verifier,
            renewed=self.key.renewed,
            unsecured=settings.unsecured,
            lifecycle=self.lifecycle,
            ledger=self.ledger,
            sessions=self._sessions,
            max_body_size=settings.max_body_size,
        )
        self.places = Places(
            handlers, longest=settings.max_queue_length, ledger=self.ledger, lifecycle=self.lifecycle
        )
        self.proxy = Proxy(door=self.door, places=self.places, lifecycle=self.lifecycle, model=self.model)
        self._gauges = InstanceGauges([Path("/"), settings.workspace])
        self.health = health_route_of(config, settings, handlers, self.model)
        self.loading = self._loading(config, handlers, self.health)
        self.door.why_not_ready = self.loading.line
        self.sessions = SessionRoutes(
            sessions=self._sessions,
            door=self.door,
            proxy=self.proxy,
            ledger=self.ledger,
            model=self.model,
            origins=settings.session_callback_origins,
            client=session,
            unix_offset=unix_offset,
        )
        self.public, self.plain, self.admin = self._listeners(handlers)

    def _listeners(self, handlers: Sequence[Handler]) -> tuple[Listener, Listener, Listener]:
        """The public port, the plain one for `/session/end`, and the admin port."""
        settings = self._settings
        parts = self._parts(handlers)
        pages = Admin(
            partial(status, parts),
            events=lambda: Feed(parts).stream(),
            metrics=Scrape(parts, self._gauges).scrape,
            update_file=settings.force_update_file,
        )
        refusals = RefusalLog()
        app = App(
            self.proxy,
            handlers,
            refusals,
            extra=self._routes(),
            owner=WithToken(pages.answer, settings.master_token).answer,
        )
        public = Listener(
            app.answer,
            refusals=refusals,
            shortcut=app,
            max_body_size=settings.max_body_size,
            max_connections=settings.max_connections or raise_file_limit(),
        )
        end = App(self.proxy, (), refusals, extra={("POST", "/session/end"): self.sessions.end})
        plain = Listener(
            LocalOnly(end.answer, refusals).answer, refusals=refusals, max_body_size=MAX_LOCAL_BODY
        )
        admin = Listener(
            LocalOnly(pages.answer, refusals).answer, refusals=refusals, max_body_size=MAX_LOCAL_BODY
        )
        return public, plain, admin

    def _parts(self, handlers: Sequence[Handler]) -> Parts:
        """What status and metrics are read from."""
        return Parts(
            settings=self._settings,
            lifecycle=self.lifecycle,
            ledger=self.ledger,
            places=self.places,
            loading=self.loading,
            reporter=self.reporter,
            watch=self.watch,
            handlers=handlers,
            verifier=self.verifier,
            certificate=self.certificate,
            model_url=self.model.url if self.model else "none: remote functions",
            model=self.model,
            sessions=self._sessions,
            clients=lambda: self.public.open_connections,
        )

    def _routes(self) -> dict[tuple[str, str], Serve]:
        return {
            **self._plain_routes,
            ("POST", "/session/create"): self.sessions.create,
            ("POST", "/session/get"): self.sessions.get,
            ("POST", "/session/health"): self.sessions.health,
            ("POST", "/session/end"): self.sessions.end,
        }

    def _loading(
        self, config: WorkerConfig, handlers: Sequence[Handler], health: tuple[ModelServer, str] | None
    ) -> Loading:
        settings, actions = self._settings, config.log_action_config
        loaded = _first(settings.load_patterns, actions.on_load)
        size = settings.model_size_gb or config.model_size_gb
        return Loading(
            settings=settings,
            lifecycle=self.lifecycle,
            ledger=self.ledger,
            announce=self.reporter.announce,
            handlers=handlers,
            model=self.model,
            health=health,
            log_path=_log_path(config, settings),
            scanner=LineScanner(
                loaded=loaded,
                failed=_first(settings.error_patterns, actions.on_error),
                info=_first(settings.info_patterns, actions.on_info),
            ),
            loaded_patterns=loaded,
            context=config.lifecycle,
            key_is_here=self.key.here,
            port_is_open=self._port_is_open,
            key_missing=lambda: self.key.missing,
            gauges=self._gauges,
            model_size=size * 1e9 if size else None,
        )

    # The life of a worker, in order...

    async def run(self, stop: asyncio.Event, cut: asyncio.Event) -> None:
        """Open the ports, bring the model up, serve until ``stop``, drain, leave. Raises `PortTaken`."""
        if self._settings.unsecured:
            log.warning("UNSECURED=true: anyone who reaches the port reaches the model server")
        taken: PortTaken | None = None
        try:
            await self._serve(stop, cut)
        except* PortTaken as group:
            taken = PortTaken(str(_first_of(group)), admin_port=self._settings.admin_port)
        finally:
            await self._farewell(cut)
        if taken is not None:
            raise taken

    async def _serve(self, stop: asyncio.Event, cut: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            background = [group.create_task(part) for part in self._background()]
            async with self._listening(stop):
                await stop.wait()
                await self._drain(cut)
            await self._farewell(cut)
            for task in background:
                task.cancel()

    def _background(self) -> list[Any]:
        parts = [self.reporting.run(), self.sessions.collect(), *self.loading.parts()]
        if self._settings.unsecured:
            self.key.need_none()
        else:
            parts.append(self.key.run())
        if self.certificate is not None:
            parts.append(self.certificate.watch())
        return parts

    @contextlib.asynccontextmanager
    async def _listening(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """All ports open. The admin port is the first, so that status can say what the others wait for."""
        settings = self._settings
        try:
            await self.admin.open("127.0.0.1", settings.admin_port)
            await self.plain.open("127.0.0.1", settings.http_port)
            tls = await self._tls(stop)
            if not stop.is_set():
                await self.public.open(None, settings.worker_port, tls)
                Running.listened = True
                self._port_is_open.set()
                admin = f"http://127.0.0.1:{self.admin.port}"
                log.info(
                    "listening: port=%d admin=%s public=%s", self.public.port, admin, settings.public_url
                )
            yield
        finally:
            for listener in (self.public, self.plain, self.admin):
                await listener.close()
            await self.proxy.close()
            if self.model is not None:
                self.model.close()
            if self.health is not None:
                self.health[0].close()

    async def _tls(self, stop: asyncio.Event) -> ssl.SSLContext | None:
        """The certificate, waited for while it is not there: meanwhile the engine is told what is missing."""
        if self.certificate is None:
            return None
        startup = self.loading.startup
        if await self.certificate.until_there(stop, lambda why: startup.block(f"TLS: {why}")):
            startup.unblock()
            return self.certificate.context()
        return None

    async def _drain(self, cut: asyncio.Event) -> None:
        self.lifecycle.handle(Event.STOP, time.monotonic())
        self.reporter.announce()
        log.info(
            "draining: in_flight=%d limit=%g s", len(self.ledger.in_flight), self._settings.drain_timeout
        )
        async with asyncio.TaskGroup() as group:
            ends = {group.create_task(self.places.emptied()), group.create_task(_set(cut))}
            await asyncio.wait(
                ends, timeout=self._settings.drain_timeout, return_when=asyncio.FIRST_COMPLETED
            )
            for task in ends:
                task.cancel()
        if left := self.ledger.requests_in_flight:
            log.warning("cutting requests that are still running: count=%d", left)
        await self.proxy.cut()
        await self.sessions.close_all(cut)

    async def _farewell(self, cut: asyncio.Event) -> None:
        """Have the engine know everything, once nothing more can happen."""
        if self._left:
            return
        self._left = True
        async with asyncio.TaskGroup() as group:
            hurrying = group.create_task(self._hurry(cut))
            delivered = await self.reporting.finish(FLUSH_TIMEOUT)
            hurrying.cancel()
        if self._leaving is not None:
            self._leaving.begin(hurried=cut.is_set())
        if delivered:
            log.info("left: everything is reported")
        else:
            log.warning("left without the engine knowing: unreported_ends=%d", self.ledger.unreported_ends)

    async def _hurry(self, cut: asyncio.Event) -> None:
        await cut.wait()
        self.reporting.hurry(HURRIED_FLUSH)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _first_of(group: ExceptionGroup[PortTaken]) -> PortTaken:
    found = group.exceptions[0]
    return _first_of(found) if isinstance(found, ExceptionGroup) else found


def _first(wins: Sequence[str] | None, otherwise: Sequence[str]) -> Sequence[str]:
    return otherwise if wins is None else wins


def _log_path(config: WorkerConfig, settings: Settings) -> Path | None:
    """The model server's log, unless an author's ``lifecycle`` stands in its place."""
    name = settings.model_log or config.model_log_file
    return Path(name) if name and config.lifecycle is None else None
