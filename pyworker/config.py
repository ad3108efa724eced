"""What a handler author writes: `WorkerConfig`, `HandlerConfig`, `BenchmarkConfig`, `LogActionConfig`.

The fields, their order and their defaults are the official package's. Nonsense fails here, at construction, with the
field, its value and what is allowed.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final, Literal

from pyworker.core.clocks import CONNECT, FIRST_BYTE, IDLE
from pyworker.core.log_lines import LineScanner

DEFAULT_WORKLOAD: Final = 100.0
"""Load of a request whose handler does not say otherwise."""

METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})

_PARAMETER: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")

RequestParser = Callable[[dict[str, Any]], dict[str, Any]]
WorkloadCalculator = Callable[[dict[str, Any]], float]
ResponseGenerator = Callable[[Any, Any], Awaitable[Any]]


class ConfigError(ValueError):
    """A handler's configuration is wrong; the message names the field, the value and what is allowed."""


def _require(ok: object, field_name: str, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"{field_name}={value!r}: must be {wanted}")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_list_of(value: Any, kind: type) -> bool:
    """Say so of what an author wrote, who may not run a type checker."""
    return isinstance(value, list | tuple) and all(isinstance(item, kind) for item in value)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _is_path_or_url(value: object) -> bool:
    return _is_path(value) or (isinstance(value, str) and value.startswith(("http://", "https://")))


@dataclass
class LogActionConfig:
    """What lines of the model server's log mean: substrings, or regular expressions after ``re:``."""

    on_load: list[str] = field(default_factory=list)
    on_error: list[str] = field(default_factory=list)
    on_info: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("on_load", "on_error", "on_info"):
            patterns = getattr(self, name)
            good = _is_list_of(patterns, str)
            _require(good, f"LogActionConfig.{name}", patterns, "a list of strings")
            try:
                LineScanner(info=patterns)
            except ValueError as error:
                raise ConfigError(f"LogActionConfig.{name}: {error}") from error


@dataclass
class BenchmarkConfig:
    """How perf is measured: ``runs`` rounds of ``concurrency`` requests (1 where requests are not parallel).

    ``concurrency="auto"`` doubles the requests at once until throughput stops growing, and takes the knee.
    Payloads come from ``dataset`` (drawn at random) or from ``generator``.
    """

    dataset: list[dict[str, Any]] | None = None
    generator: Callable[[], dict[str, Any]] | None = None
    runs: int = 8
    concurrency: int | Literal["auto"] | None = 10
    do_warmup: bool = True

    def __post_init__(self) -> None:
        name = "BenchmarkConfig"
        good = self.dataset is None or _is_list_of(self.dataset, dict)
        _require(good, f"{name}.dataset", self.dataset, "a list of payload dicts or None")
        _require(
            self.generator is None or callable(self.generator),
            f"{name}.generator",
            self.generator,
            "a function or None",
        )
        _require(_is_whole(self.runs, 1), f"{name}.runs", self.runs, "a whole number, 1 or more")
        good = self.concurrency in {None, "auto"} or _is_whole(self.concurrency, 0)
        _require(
            good, f"{name}.concurrency", self.concurrency, 'a whole number, 1 or more, "auto", or None for 10'
        )
        _require(isinstance(self.do_warmup, bool), f"{name}.do_warmup", self.do_warmup, "True or False")


@dataclass
class HandlerConfig:
    """One route of the worker and what becomes of a request there.

    ``max_queue_time`` is in seconds, None for no limit, 0 for no waiting. ``request_parser`` turns the client's payload
    into the model server's; ``workload_calculator`` says the load of the result; ``response_generator`` makes the answer
    from the aiohttp request and the model server's aiohttp response; ``remote_function`` answers in place of a model server.
    ``healthcheck`` is the model server's health path where `WorkerConfig` has none. Answers of the model server of 500 and
    above end a request as an error, all others as a success; ``error_statuses`` are further ones that end it as an error.

    ``route`` may have parameters, each one segment of the path: ``/v1/videos/{id}``. ``methods`` other than POST want the
    grant in a header; GET lets WebSockets in. ``concurrency=N`` gives the handler a queue of its own, N requests wide.
    A body that is no JSON (which also wants the grant in a header) passes by the functions above, at the load its grant
    names; one with a ``request_parser`` or ``payload_class`` lets only ``raw_types`` pass by them (``multipart/form-data``).
    The clocks, in seconds, None for no limit: ``connect_timeout`` to the model server, ``first_byte_timeout`` from the end of
    the request to the answer, ``idle_timeout`` between two pieces of it, ``total_timeout`` for all.
    """

    route: str
    healthcheck: str | None = None
    allow_parallel_requests: bool = False
    max_queue_time: float | None = 30.0
    benchmark_config: BenchmarkConfig | None = None
    handler_class: type[Any] | None = None
    payload_class: type[Any] | None = None
    request_parser: RequestParser | None = None
    response_generator: ResponseGenerator | None = None
    workload_calculator: WorkloadCalculator | None = None
    is_remote_dispatch: bool = False
    remote_function: Callable[..., Awaitable[Any]] | None = None
    # Ours, beyond the official package:
    error_statuses: Sequence[int] = ()
    methods: Sequence[str] = ("POST",)
    concurrency: int | None = None
    raw_types: Sequence[str] = ()
    connect_timeout: float | None = CONNECT
    first_byte_timeout: float | None = FIRST_BYTE
    idle_timeout: float | None = IDLE
    total_timeout: float | None = None
    stall_timeout: float | None = None

    def __post_init__(self) -> None:
        _require(_is_path(self.route), "HandlerConfig.route", self.route, "a path that starts with /")
        where = f"HandlerConfig({self.route!r})"
        good = self.healthcheck is None or _is_path_or_url(self.healthcheck)
        _require(good, f"{where}.healthcheck", self.healthcheck, "a path that starts with /, a URL or None")
        self._check_flags(where)
        self._check_functions(where)
        self._check_ours(where)
        wait = self.max_queue_time
        number = isinstance(wait, int | float) and not isinstance(wait, bool) and isfinite(wait) and wait >= 0
        _require(
            wait is None or number,
            f"{where}.max_queue_time",
            wait,
            "seconds, 0 or more, or None for no limit",
        )
        good = self.benchmark_config is None or isinstance(self.benchmark_config, BenchmarkConfig)
        _require(good, f"{where}.benchmark_config", self.benchmark_config, "a BenchmarkConfig or None")
        if self.is_remote_dispatch and self.remote_function is None:
            raise ConfigError(f"{where}.is_remote_dispatch=True: needs a remote_function to call")

    def _check_ours(self, where: str) -> None:
        good = _is_list_of(self.error_statuses, int)
        _require(good, f"{where}.error_statuses", self.error_statuses, "a list of HTTP statuses")
        good = _is_list_of(self.methods, str) and set(self.methods) <= METHODS
        _require(
            self.methods and good, f"{where}.methods", self.methods, f"some of {', '.join(sorted(METHODS))}"
        )
        good = self.concurrency is None or _is_whole(self.concurrency, 1)
        _require(good, f"{where}.concurrency", self.concurrency, "a whole number, 1 or more, or None")
        good = _is_list_of(self.raw_types, str)
        _require(good, f"{where}.raw_types", self.raw_types, "a list of content types")
        rest = _PARAMETER.sub("", self.route)
        _require(
            not set(rest) & set("{}"), f"{where}.route", self.route, "a path whose parameters are like {name}"
        )
        for name in (
            "connect_timeout",
            "first_byte_timeout",
            "idle_timeout",
            "total_timeout",
            "stall_timeout",
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
            good = value is None or (number and value > 0)
            none = "SERVE_STALL_TIMEOUT" if name == "stall_timeout" else "no limit"
            _require(good, f"{where}.{name}", value, f"seconds, more than 0, or None for {none}")

    def _check_flags(self, where: str) -> None:
        for name in ("allow_parallel_requests", "is_remote_dispatch"):
            value = getattr(self, name)
            _require(isinstance(value, bool), f"{where}.{name}", value, "True or False")

    def _check_functions(self, where: str) -> None:
        for name in ("request_parser", "response_generator", "workload_calculator", "remote_function"):
            value = getattr(self, name)
            _require(value is None or callable(value), f"{where}.{name}", value, "a function or None")
        for name in ("handler_class", "payload_class"):
            value = getattr(self, name)
            _require(value is None or isinstance(value, type), f"{where}.{name}", value, "a class or None")


@dataclass
class WorkerConfig:
    """A worker: the model server it stands beside and the routes it serves.

    ``model_log_file`` is tailed with ``log_action_config``; ``model_healthcheck_url`` is a path on the model server (or a
    URL); ``lifecycle`` is an async context manager that is entered instead of waiting for a log line. ``benchmark_data``
    are payloads for the benchmark where the handler has none, ``benchmark_route`` the route they are sent to.
    ``max_sessions`` of None or 0 means no cap. ``model_size_gb`` (10**9 bytes) is what loading the model downloads, for
    percent and time left.
    """

    model_server_url: str | None = None
    model_server_port: int | None = None
    model_log_file: str | None = None
    benchmark_data: list[dict[str, Any]] = field(default_factory=list)
    handlers: list[HandlerConfig] = field(default_factory=list)
    model_healthcheck_url: str | None = None
    benchmark_route: str | None = None
    log_action_config: LogActionConfig = field(default_factory=LogActionConfig)
    max_sessions: int | None = 10
    lifecycle: AbstractAsyncContextManager[Any] | None = None
    # Ours, beyond the official package:
    model_size_gb: float | None = None

    def __post_init__(self) -> None:
        name = "WorkerConfig"
        url, port = self.model_server_url, self.model_server_port
        good = url is None or str(url).startswith(("http://", "https://"))
        _require(good, f"{name}.model_server_url", url, "a URL that starts with http:// or https://, or None")
        _require(
            port is None or (_is_whole(port, 1) and port < 2**16),
            f"{name}.model_server_port",
            port,
            "1 to 65535 or None",
        )
        log = self.model_log_file
        _require(log is None or isinstance(log, str), f"{name}.model_log_file", log, "a path or None")
        health = self.model_healthcheck_url
        _require(
            health is None or _is_path_or_url(health),
            f"{name}.model_healthcheck_url",
            health,
            "a path that starts with /, a URL or None",
        )
        good = isinstance(self.log_action_config, LogActionConfig)
        _require(good, f"{name}.log_action_config", self.log_action_config, "a LogActionConfig")
        sessions = self.max_sessions
        _require(
            sessions is None or _is_whole(sessions, 0),
            f"{name}.max_sessions",
            sessions,
            "a whole number, 0 or more, or None",
        )
        good = self.lifecycle is None or isinstance(self.lifecycle, AbstractAsyncContextManager)
        _require(good, f"{name}.lifecycle", self.lifecycle, "an async context manager or None")
        size = self.model_size_gb
        number = isinstance(size, int | float) and not isinstance(size, bool) and isfinite(size)
        _require(size is None or (number and size > 0), f"{name}.model_size_gb", size, "more than 0, or None")
        self._check_handlers()
        self._check_benchmark()

    def _check_handlers(self) -> None:
        good = _is_list_of(self.handlers, HandlerConfig)
        _require(good, "WorkerConfig.handlers", self.handlers, "a list of HandlerConfig")
        routes = [one.route for one in self.handlers]
        twice = sorted({route for route in routes if routes.count(route) > 1})
        _require(not twice, "WorkerConfig.handlers", twice, "one HandlerConfig a route")

    def _check_benchmark(self) -> None:
        data = self.benchmark_data
        good = _is_list_of(data, dict)
        _require(good, "WorkerConfig.benchmark_data", data, "a list of payload dicts")
        routes = [one.route for one in self.handlers] or ["/"]
        named = self.benchmark_route
        _require(
            named is None or named in routes,
            "WorkerConfig.benchmark_route",
            named,
            f"one of {routes} or None",
        )
        carriers = {one.route for one in self.handlers if one.benchmark_config} | (
            {named} if named else set()
        )
        if len(carriers) > 1:
            raise ConfigError(
                f"only one handler can carry the benchmark, but {' and '.join(sorted(carriers))} do"
            )
