"""``vastai.serverless.server.lib.backend``: the older way of saying what `WorkerConfig` says now."""

import copy
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from pyworker.config import METHODS, ConfigError, HandlerConfig, LogActionConfig
from pyworker.config import WorkerConfig as StrictConfig
from pyworker.core.errors import HandlerFailed
from pyworker.fence import Fence
from pyworker.official.data_types import (
    ApiPayload_T,
    AuthData,
    EndpointHandler,
    JsonDataException,
    LogAction,
)
from pyworker.official.worker import WorkerConfig, pinned
from pyworker.settings import Settings
from pyworker.worker import Worker

__all__ = [
    "VERSION",
    "ApiPayload_T",
    "AuthData",
    "Backend",
    "EndpointHandler",
    "JsonDataException",
    "LogAction",
]

VERSION: Final = "1.1.0"
"""Of the protocol."""

UNROUTED: Final = "/pyworker/benchmark"
"""The route of a benchmark whose endpoint no client may ask for: what is under ``/pyworker/`` reaches no handler."""

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Own:
    """A route that the file answers itself; its trouble is its own."""

    def __init__(self, route: web.RouteDef) -> None:
        if isinstance(route.handler, type):
            raise ConfigError(f"start_server: {route.path}: a view class cannot be served: only functions")
        self._path = route.path
        self._fence = Fence(route.path)
        self._serve: Any = route.handler

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        return await self._fence.run("function", self._answer(request))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        made = await self._serve(request)
        if not isinstance(made, web.StreamResponse):
            raise HandlerFailed(
                f"the function of {self._path} must return an aiohttp response, not {type(made).__name__}"
            )
        return made


class Forwarded:
    """What `Backend.create_handler` returns: stands in a route for the requests that the worker forwards."""

    def __init__(self, handler: EndpointHandler[Any]) -> None:
        self.handler = handler

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        raise ConfigError(
            f"{request.path}: what create_handler returns must stand in a route itself: it cannot be called"
        )


class Backend:
    """A model server, its benchmark, and what its log lines mean. `server.start_server` makes a worker of it."""

    version = VERSION

    def __init__(
        self,
        model_server_url: str,
        model_log_file: str | None,
        benchmark_handler: EndpointHandler[Any],
        log_actions: Iterable[tuple[LogAction, str]],
        *,
        unsecured: bool | None = None,
        report_addr: str | None = None,
        mtoken: str | None = None,
        healthcheck_url: str | None = None,
        max_sessions: int | None = None,
        lifecycle: AbstractAsyncContextManager[Any] | None = None,
        allow_parallel_requests: bool | None = None,
        max_wait_time: float | None = None,
    ) -> None:
        self.model_server_url = model_server_url
        self.model_log_file = model_log_file
        self.benchmark_handler = benchmark_handler
        self.log_actions = list(log_actions)
        self.healthcheck_url = healthcheck_url
        self.max_sessions = max_sessions
        self.lifecycle = lifecycle
        self.allow_parallel_requests = allow_parallel_requests
        self.max_wait_time = max_wait_time
        self._settings = {"unsecured": unsecured, "master_token": mtoken, "report_addrs": _urls(report_addr)}

    def create_handler(self, handler: EndpointHandler[Any]) -> Forwarded:
        return Forwarded(handler)

    def worker(self, routes: Iterable[Any]) -> Worker:
        """The worker that serves ``routes`` (aiohttp's). Raises `ConfigError` and `SettingsError`."""
        forwarded: list[tuple[web.RouteDef, EndpointHandler[Any]]] = []
        plain: dict[tuple[str, str], Serve] = {}
        for route in routes:
            if not isinstance(route, web.RouteDef):
                raise ConfigError(f"start_server: {route!r} cannot be served: only routes such as web.post")
            if isinstance(route.handler, Forwarded):
                forwarded.append((route, route.handler.handler))
            else:
                plain.update({(method, route.path): Own(route) for method in _methods(route)})
        given = {name: value for name, value in self._settings.items() if value is not None}
        settings = replace(pinned(Settings.from_env()), **given)  # type: ignore[arg-type] # by name
        return Worker(self._config(forwarded), settings=settings, plain_routes=plain)

    def _config(self, forwarded: list[tuple[web.RouteDef, EndpointHandler[Any]]]) -> StrictConfig:
        carrier = self._carrier([handler for _, handler in forwarded])
        handlers = [
            self._handler(route.path, _methods(route), handler, carries=handler is carrier)
            for route, handler in forwarded
        ]
        if carrier is None:
            handlers.append(
                self._handler(
                    UNROUTED + self.benchmark_handler.endpoint, ["HEAD"], self.benchmark_handler, carries=True
                )
            )
        patterns: dict[LogAction, list[str]] = {action: [] for action in LogAction}
        for action, pattern in self.log_actions:
            patterns[action].append(pattern)
        made = WorkerConfig(
            model_server_url=self.model_server_url,
            model_log_file=self.model_log_file,
            handlers=handlers,
            model_healthcheck_url=self.healthcheck_url,
            log_action_config=LogActionConfig(
                patterns[LogAction.ModelLoaded], patterns[LogAction.ModelError], patterns[LogAction.Info]
            ),
            lifecycle=self.lifecycle,
        )
        if self.max_sessions is not None and self.max_sessions >= 0:
            made.max_sessions = self.max_sessions
        return made

    def _carrier(self, handlers: list[EndpointHandler[Any]]) -> EndpointHandler[Any] | None:
        """The handler among those of the routes that the benchmark is one of: itself, or another like it."""
        wanted = self.benchmark_handler
        if any(one is wanted for one in handlers):
            return wanted
        like = (one for one in handlers if type(one) is type(wanted) and one.endpoint == wanted.endpoint)
        return next(like, None)

    def _handler(
        self, path: str, methods: list[str], handler: EndpointHandler[Any], *, carries: bool
    ) -> HandlerConfig:
        """``handler`` at ``path``, with the benchmark of `benchmark_handler`, or with none."""
        served: Any = copy.copy(handler)
        served.has_benchmark = carries
        if carries:
            for name in ("make_benchmark_payload", "benchmark_runs", "concurrency", "do_warmup_benchmark"):
                setattr(served, name, getattr(self.benchmark_handler, name))
        if self.allow_parallel_requests is not None:
            served.allow_parallel_requests = self.allow_parallel_requests
        if self.max_wait_time is not None and served.max_queue_time is None:
            served.max_queue_time = self.max_wait_time
        return HandlerConfig(route=path, methods=methods, handler_class=_class_of(served))


def _class_of(handler: Any) -> type[Any]:
    """A class whose only instance is ``handler``: a configuration wants one."""

    def make(_: type[Any]) -> Any:
        return handler

    kind = type(handler)
    return type(kind.__name__, (), {"__new__": make, "__module__": kind.__module__})


def _methods(route: web.RouteDef) -> list[str]:
    return sorted(METHODS) if route.method == "*" else [route.method]


def _urls(text: str | None) -> tuple[str, ...] | None:
    return tuple(one.strip().rstrip("/") for one in text.split(",")) if text else None
