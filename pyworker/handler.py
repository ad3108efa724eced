"""A handler at work: a `HandlerConfig` with its author's functions fenced.

Whatever an author's function does, it costs its own request alone: what it raises becomes a refusal, what it returns
is checked, and a route that misprices is named once in the log.
"""

import hashlib
import inspect
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from pyworker.config import DEFAULT_WORKLOAD, BenchmarkConfig, ConfigError, HandlerConfig, WorkerConfig
from pyworker.core.clocks import Clocks
from pyworker.core.errors import HandlerFailed, InvalidRequest, JsonDataException, UnsupportedBody
from pyworker.core.ledger import MAX_LOAD
from pyworker.core.wire import decode_payload, encode, encode_payload
from pyworker.fence import Fence, as_json, where

log = logging.getLogger(__name__)

JSON_TYPE: Final = "application/json"
DEFAULT_CONCURRENCY: Final = 10
SLOW: Final = 0.05
"""Seconds a synchronous function of an author's may hold up the event loop before it is moved to a thread."""


@dataclass(slots=True)
class Work:
    """A request priced and ready for the model server: ``body``, form fields to send as multipart, or what is ``unread``."""

    load: float
    body: bytes = b""
    form: Mapping[str, Any] | None = None
    unread: bool = False
    """The body is the client's own, which nobody has looked at: it is sent on as it comes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How the handler that carries the benchmark is measured; ``auto`` looks for the concurrency that suits it."""

    runs: int
    concurrency: int
    do_warmup: bool
    auto: bool = False


class Handler:
    """One route: how its requests are read, priced, queued and answered."""

    def __init__(self, config: HandlerConfig) -> None:
        self.route = config.route
        self.model_path = config.route
        self.parallel = config.allow_parallel_requests
        self.concurrency = config.concurrency
        self.methods = frozenset(config.methods)
        self.clocks = Clocks(
            config.connect_timeout, config.first_byte_timeout, config.idle_timeout, config.total_timeout
        )
        self.max_queue_time = config.max_queue_time
        self.healthcheck = config.healthcheck
        self.error_statuses = frozenset(config.error_statuses)
        self.stall_timeout = config.stall_timeout
        self.benchmark: Benchmark | None = None
        self.respond: Callable[[Any, Any], Awaitable[Any]] | None = config.response_generator
        self.call: Callable[..., Awaitable[Any]] | None = config.remote_function
        self._payload_class: Any = config.payload_class
        self._raw_types = frozenset(config.raw_types)
        self._parser = config.request_parser
        self._calculator = config.workload_calculator
        self._sampler: Callable[[], Any] | None = None
        self.sample_source = ""
        """Where the benchmark's payloads come from, in words that change when they do."""
        self._fence = Fence(config.route)
        self._warned = False
        self.slow = False
        """Its functions have taken longer than `SLOW`: they belong in a thread."""
        if config.handler_class is not None:
            self._take_over(config.handler_class())
        if config.benchmark_config is not None:
            self._carry(config.benchmark_config)
        self._signature = _signature(self.call)
        self._plain = self._payload_class is None and self._parser is None and self._calculator is None

    def _take_over(self, custom: Any) -> None:
        """Be what an object in the style of the official ``EndpointHandler`` says, found by its attributes alone."""
        self.model_path = custom.endpoint
        self.parallel = bool(getattr(custom, "allow_parallel_requests", False))
        self.max_queue_time = getattr(custom, "max_queue_time", None)
        self.healthcheck = getattr(custom, "healthcheck_endpoint", None)
        self._payload_class = custom.payload_cls()
        self.respond = custom.generate_client_response
        if getattr(custom, "remote_function", None) is not None:
            self.call = _by_params(custom.call_remote_dispatch_function)
        if getattr(custom, "has_benchmark", True):
            self._sampler = custom.make_benchmark_payload
            self.sample_source = f"{type(custom).__module__}.{type(custom).__qualname__}"
            self.benchmark = Benchmark(
                runs=getattr(custom, "benchmark_runs", 8),
                concurrency=getattr(custom, "concurrency", None) or DEFAULT_CONCURRENCY,
                do_warmup=getattr(custom, "do_warmup_benchmark", True),
            )

    def _carry(self, config: BenchmarkConfig) -> None:
        auto = config.concurrency == "auto"
        wanted = config.concurrency if isinstance(config.concurrency, int) else None
        self.benchmark = Benchmark(config.runs, wanted or DEFAULT_CONCURRENCY, config.do_warmup, auto=auto)
        if hasattr(self._payload_class, "for_test"):
            self._sampler = self._payload_class.for_test
            self.sample_source = f"{self._payload_class.__module__}.{self._payload_class.__qualname__}"
        elif config.dataset:
            self.draw_from(config.dataset)
        elif config.generator is not None:
            self._sampler = config.generator
            self.sample_source = getattr(
                config.generator, "__qualname__", type(config.generator).__qualname__
            )

    def draw_from(self, dataset: list[dict[str, Any]]) -> None:
        """Take the benchmark's payloads from ``dataset``, at random."""
        self._sampler = lambda: dict(random.choice(dataset))  # noqa: S311 - a draw, not a secret
        self.sample_source = hashlib.sha256(json.dumps(dataset, default=str).encode()).hexdigest()
        self.benchmark = self.benchmark or Benchmark(8, DEFAULT_CONCURRENCY, do_warmup=True)

    @property
    def can_sample(self) -> bool:
        return self._sampler is not None

    # A client's request...

    @property
    def needs_task(self) -> bool:
        """Whether something of its author's may take its time."""
        return (
            self.slow or self._payload_class is not None or self.respond is not None or self.call is not None
        )

    @property
    def one_at_a_time(self) -> bool:
        """Whether its requests wait for each other, and for those of all handlers like it."""
        return not self.parallel and self.concurrency is None

    def passes(self, content_type: str) -> bool:
        """Whether a body of this type is sent on unread: so is all that no function of the author's wants to see.

        ``content_type`` is in lower case, without parameters; empty counts as JSON.
        Raises `UnsupportedBody` for a body that they want to see and cannot.
        """
        if self.call is None and self._payload_class is None and self._parser is None:
            return self._calculator is None or not _is_json(content_type)
        if _is_json(content_type):
            return False
        if content_type not in self._raw_types:
            raise UnsupportedBody(f"{self.route} takes a body of {JSON_TYPE}, not {content_type[:100]!r}")
        return True

    def unread(self, cost: float) -> Work:
        """Work of a body that is sent on unread, or of none; ``cost`` is what its grant names."""
        priced = self._calculator is not None or self._payload_class is not None
        return Work(cost if priced else DEFAULT_WORKLOAD, unread=True)

    def prepare(self, raw: bytes) -> Work:
        """Read and price the payload ``raw``. The bytes go on as they came unless the author's code changed them.

        Raises `InvalidRequest` for a bad payload, `HandlerFailed` when the author's code raises.
        """
        if self._plain:  # nothing of its author's runs
            return Work(DEFAULT_WORKLOAD, _object(raw))
        began = time.perf_counter()
        try:
            return self._read(raw)
        finally:
            if not self.slow and time.perf_counter() - began > SLOW:
                self.slow = True
                log.warning(
                    "functions of %s took over %g ms: they run in a thread from now on",
                    self.route,
                    SLOW * 1000,
                )

    def _read(self, raw: bytes) -> Work:
        _object(raw)
        if self._payload_class is not None:
            payload = decode_payload(raw)
            with self._fence.around("payload class"):
                made = self._payload_class.from_json_msg(payload)
            return self._from_object(made, raw)
        if self._parser is None:
            return Work(self._price_raw(raw), raw)
        payload = decode_payload(raw)
        before = _spelled(payload)
        with self._fence.around("request_parser"):
            parsed: Any = self._parser(payload)
        if not isinstance(parsed, dict):
            raise HandlerFailed(
                f"request_parser of {self.route} must return a dict, not {type(parsed).__name__}"
            )
        load = self._price(self._calculator, parsed)
        unchanged = bool(before) and _spelled(parsed) == before
        return Work(load, raw if unchanged else self._encode(parsed, raw))

    def _price_raw(self, raw: bytes) -> float:
        if self._calculator is None:
            return DEFAULT_WORKLOAD
        return self._price(self._calculator, decode_payload(raw))

    def _price(self, calculate: Callable[..., Any] | None, *arguments: Any) -> float:
        """The load the author's function gives, or the default with one warning for the route. Raises `InvalidRequest`."""
        if calculate is None:
            return DEFAULT_WORKLOAD
        try:
            found = calculate(*arguments)
        except JsonDataException as error:
            raise InvalidRequest({"payload": as_json(error.message)}) from error
        except BaseException as error:  # noqa: BLE001 - whatever an author's function raises
            return self._mispriced(f"raised {type(error).__name__}: {where(error)}")
        try:
            load = float(found)
        except (TypeError, ValueError, OverflowError):
            return self._mispriced(f"returned a {type(found).__name__}")
        if not 0 <= load <= MAX_LOAD:  # also false for NaN
            return self._mispriced(f"returned {load:g}")
        return load

    def _mispriced(self, what: str) -> float:
        if not self._warned:
            self._warned = True
            log.warning(
                "workload_calculator %s: route=%s, its load is taken as %g (said once)",
                what,
                self.route,
                DEFAULT_WORKLOAD,
            )
        return DEFAULT_WORKLOAD

    def _encode(self, payload: Any, raw: bytes | None = None) -> bytes:
        """JSON of ``payload``, made from the client's ``raw`` one: what that could not be said in is not the author's doing."""
        try:
            return encode_payload(payload)
        except (TypeError, ValueError, RecursionError) as error:
            if raw is not None and not _can_be_said(raw):
                raise InvalidRequest(
                    {"payload": "has a number that is too large, or is nested too deeply"}
                ) from error
            raise HandlerFailed(
                f"the payload made by {self.route}'s handler is no JSON ({type(error).__name__})"
            ) from error

    def _from_object(self, payload: Any, raw: bytes | None = None) -> Work:
        """Work of an object in the style of the official ``ApiPayload``."""
        load = self._price(lambda: payload.count_workload())  # noqa: PLW0108 - it may have none
        with self._fence.around("payload class"):
            multipart = getattr(payload, "generate_payload_multipart", None)
            form = multipart() if multipart is not None else None
            content = payload.generate_payload_json() if form is None else None
        for made, name in ((form, "generate_payload_multipart"), (content, "generate_payload_json")):
            if made is not None and not isinstance(made, Mapping):
                raise HandlerFailed(f"{name} of {self.route} must return a dict, not {type(made).__name__}")
        if form is not None:
            return Work(load, form=form)
        if content is None:
            raise HandlerFailed(f"generate_payload_json of {self.route} must return a dict, not None")
        return Work(load, self._encode(content, raw))

    # The benchmark's requests...

    def sample(self) -> Work:
        """One benchmark request. Raises `HandlerFailed` when the author's generator raises or returns no payload."""
        assert self._sampler is not None
        try:
            payload = self._sampler()
        except BaseException as error:
            raise HandlerFailed(
                f"the benchmark generator of {self.route} raised {type(error).__name__}: {error}"
            ) from error
        if hasattr(payload, "count_workload"):
            return self._from_object(payload)
        if not isinstance(payload, dict):
            raise HandlerFailed(
                f"the benchmark generator of {self.route} must return a dict, not {type(payload).__name__}"
            )
        return Work(self._price(self._calculator, payload), self._encode(payload))

    # What an author's function answers...

    async def answer(self, body: bytes) -> bytes:
        """What the remote function says to the payload ``body``: ``{"result": …}``. Raises `Refusal`."""
        params = decode_payload(body)
        result = await self._fence.run("remote_function", self._call(params))
        try:
            return _result(result)
        except (TypeError, ValueError, RecursionError) as error:
            raise HandlerFailed(
                f"the remote_function of {self.route} must return JSON, not {type(result).__name__} ({error})"
            ) from error

    async def _call(self, params: dict[str, Any]) -> Any:
        assert self.call is not None
        if self._signature is not None:
            try:
                self._signature.bind(**params)
            except TypeError as error:
                raise InvalidRequest({"payload": str(error)}) from error
        outcome: Any = self.call(**params)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def respond_to(self, request: web.Request, response: object) -> web.StreamResponse:
        """The author's answer, sent. Raises `Refusal`: part of it may have been sent by then."""
        return await self._fence.run("response_generator", self._respond(request, response))

    async def _respond(self, request: web.Request, response: object) -> web.StreamResponse:
        assert self.respond is not None
        made = await self.respond(request, response)
        if not isinstance(made, web.StreamResponse):
            raise HandlerFailed(
                f"the response_generator of {self.route} must return an aiohttp response, not {type(made).__name__}"
            )
        await made.prepare(request)
        await made.write_eof()
        return made


def _object(raw: bytes) -> bytes:
    """``raw``, if it is a JSON object. Raises `InvalidRequest`."""
    if not raw.startswith(b"{") and not raw.lstrip(b" \t\r\n").startswith(b"{"):
        raise InvalidRequest({"payload": "must be a JSON object"})
    return raw


def _result(result: Any) -> bytes:
    try:
        return encode({"result": result})
    except UnicodeEncodeError:  # half a surrogate pair: JSON can say it, UTF-8 cannot
        return json.dumps({"result": result}).encode()


def _signature(call: Callable[..., Any] | None) -> inspect.Signature | None:
    """What a remote function may be called with, where that can be found out."""
    try:
        return inspect.signature(call) if call is not None else None
    except (TypeError, ValueError):
        return None


def _spelled(payload: Any) -> str:
    """The payload as text, to see whether it has changed; empty for what cannot be written."""
    try:
        return json.dumps(payload)
    except (TypeError, ValueError, RecursionError):
        return ""


def _can_be_said(raw: bytes) -> bool:
    """Whether the client's payload, decoded, could be written again."""
    try:
        encode_payload(decode_payload(raw))
    except (ValueError, RecursionError):
        return False
    return True


def _is_json(content_type: str) -> bool:
    return not content_type or content_type == JSON_TYPE or content_type.endswith("+json")


def _by_params(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def answer(**params: Any) -> Any:
        return await call(params=params)

    return answer


def handlers_of(config: WorkerConfig, *, perf_is_known: bool) -> list[Handler]:
    """The handlers of a worker, one of them carrying the benchmark (none needed when perf is known already).

    Raises `ConfigError`.
    """
    handlers = [Handler(one) for one in config.handlers or [HandlerConfig(route="/")]]
    _place_benchmark_data(config, handlers)
    carriers = [one for one in handlers if one.benchmark is not None]
    if len(carriers) > 1:
        routes = " and ".join(one.route for one in carriers)
        raise ConfigError(f"only one handler can carry the benchmark, but {routes} do")
    for one in carriers:
        if not one.can_sample:
            raise ConfigError(
                f"the benchmark of {one.route} has no payloads: give its BenchmarkConfig a dataset or a generator"
            )
    if not carriers and not perf_is_known:
        raise ConfigError(
            "no handler carries a benchmark: give one a benchmark_config, or set BENCHMARK_PERF to pin perf"
        )
    return handlers


def _place_benchmark_data(config: WorkerConfig, handlers: list[Handler]) -> None:
    """`WorkerConfig.benchmark_data` serves the handler at ``benchmark_route``, else the carrier, else the only one."""
    named = [one for one in handlers if one.route == config.benchmark_route]
    carriers = [one for one in handlers if one.benchmark is not None]
    target = (named or carriers or (handlers if len(handlers) == 1 else []))[:1]
    if config.benchmark_data and not target:
        raise ConfigError("benchmark_data is given, but not the benchmark_route it is for")
    for one in target:
        if config.benchmark_data and not one.can_sample:
            one.draw_from(config.benchmark_data)
        if one in named and not one.can_sample:
            raise ConfigError(
                f"benchmark_route={one.route!r} has no payloads: give benchmark_data or a BenchmarkConfig"
            )
