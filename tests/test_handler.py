"""A handler at work: hooks fenced, bytes untouched."""

import json
import logging
from typing import Any, Self

import pytest

from pyworker import BenchmarkConfig, HandlerConfig, JsonDataException
from pyworker.core.errors import HandlerFailed, InvalidRequest
from pyworker.handler import Handler


def handler(**fields: Any) -> Handler:
    return Handler(HandlerConfig(**{"route": "/x", **fields}))


def raises(_: dict[str, Any]) -> Any:
    raise RuntimeError("secret detail")


def test_without_hooks_the_payload_is_never_decoded() -> None:
    work = handler().prepare(b'{"n": 1e400, "n": 2}')

    assert (work.load, work.body) == (100.0, b'{"n": 1e400, "n": 2}')


@pytest.mark.parametrize("raw", [b"[]", b"5", b"null", b'"x"', b""])
def test_a_payload_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        handler().prepare(raw)

    assert caught.value.body() == {"payload": "must be a JSON object"}


def test_the_workload_is_the_calculator_s() -> None:
    assert handler(workload_calculator=lambda payload: payload["n"] * 2).prepare(b'{"n": 21}').load == 42.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, -1, "x", None])
def test_a_calculator_s_nonsense_costs_the_default_and_one_warning(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one = handler(workload_calculator=lambda _: value)
    with caplog.at_level(logging.WARNING):
        loads = [one.prepare(b"{}").load for _ in range(3)]

    assert loads == [100.0] * 3
    assert [record.getMessage().count("route=/x") for record in caplog.records] == [1]


def test_a_calculator_that_raises_costs_the_default() -> None:
    assert handler(workload_calculator=raises).prepare(b"{}").load == 100.0


def test_bytes_stay_when_the_parser_changes_nothing() -> None:
    raw = b'{"n": 100000000000000000000001, "f": 1e400, "t": "\xc3\xb8"}'

    assert handler(request_parser=lambda payload: payload).prepare(raw).body == raw


def test_a_parser_s_change_is_what_the_model_server_gets_and_what_is_priced() -> None:
    one = handler(
        request_parser=lambda payload: {**payload, "n": True},
        workload_calculator=lambda payload: 7 if payload["n"] is True else 1,
    )
    work = one.prepare(b'{"n": 1}')

    assert json.loads(work.body) == {"n": True}
    assert work.load == 7.0


def test_a_parser_can_refuse() -> None:
    def parse(_: dict[str, Any]) -> dict[str, Any]:
        raise JsonDataException({"prompt": "missing parameter"})

    with pytest.raises(InvalidRequest) as caught:
        handler(request_parser=parse).prepare(b"{}")

    assert caught.value.body() == {"payload": {"prompt": "missing parameter"}}


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (raises, "the request_parser of /x raised RuntimeError"),
        (lambda _: None, "request_parser of /x must return a dict, not NoneType"),
        (lambda _: {"x": object()}, "the payload made by /x's handler is no JSON"),
        (lambda _: {"x": float("nan")}, "the payload made by /x's handler is no JSON"),
    ],
    ids=["raises", "none", "no_json", "nan"],
)
def test_a_broken_parser_is_a_500_that_names_the_route(parse: Any, message: str) -> None:
    with pytest.raises(HandlerFailed, match=message) as caught:
        handler(request_parser=parse).prepare(b"{}")

    assert caught.value.status == 500
    assert "secret detail" not in caught.value.reason


def test_samples_come_from_the_dataset_before_the_generator() -> None:
    config = BenchmarkConfig(dataset=[{"a": 1}], generator=lambda: {"b": 2}, concurrency=None)
    one = handler(benchmark_config=config, workload_calculator=lambda payload: payload["a"])

    assert (one.sample().load, one.sample().body) == (1.0, b'{"a":1}')
    assert one.benchmark is not None
    assert one.benchmark.concurrency == 10


@pytest.mark.parametrize(
    ("generator", "message"),
    [(lambda: 5, "must return a dict, not int"), (lambda: 1 / 0, "raised ZeroDivisionError")],
    ids=["int", "raises"],
)
def test_a_broken_generator_is_named(generator: Any, message: str) -> None:
    with pytest.raises(HandlerFailed, match=message):
        handler(benchmark_config=BenchmarkConfig(generator=generator)).sample()


class Payload:
    """In the style of the official ApiPayload, by attributes alone."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def for_test(cls) -> Self:
        return cls(3)

    @classmethod
    def from_json_msg(cls, message: dict[str, Any]) -> Self:
        if "n" not in message:
            raise JsonDataException({"n": "missing parameter"})
        return cls(message["n"])

    def count_workload(self) -> float:
        return self.n * 10.0

    def generate_payload_json(self) -> dict[str, Any]:
        return {"number": 1 / self.n}


class Form(Payload):
    def generate_payload_multipart(self) -> dict[str, Any]:
        return {"file": ("a.txt", b"x", "text/plain")}


def test_a_payload_class() -> None:
    one = handler(payload_class=Payload, benchmark_config=BenchmarkConfig())
    work = one.prepare(b'{"n": 2}')

    assert (work.load, work.body) == (20.0, b'{"number":0.5}')
    assert one.sample().load == 30.0
    with pytest.raises(InvalidRequest):
        one.prepare(b"{}")
    with pytest.raises(HandlerFailed, match="payload class of /x raised ZeroDivisionError"):
        one.prepare(b'{"n": 0}')


def test_a_payload_class_with_a_form() -> None:
    work = handler(payload_class=Form).prepare(b'{"n": 2}')

    assert work.form == {"file": ("a.txt", b"x", "text/plain")}


class Custom:
    """In the style of the official EndpointHandler, by attributes alone."""

    endpoint = "/other"
    healthcheck_endpoint = "/h"
    has_benchmark = True
    concurrency = 4
    benchmark_runs = 2
    allow_parallel_requests = True
    max_queue_time = 5.0
    remote_function: bool | None = None

    @classmethod
    def payload_cls(cls) -> type[Payload]:
        return Payload

    def make_benchmark_payload(self) -> Payload:
        return Payload(1)

    async def generate_client_response(self, _request: Any, _response: Any) -> Any:
        return None

    async def call_remote_dispatch_function(self, params: dict[str, Any]) -> Any:
        return params


class Remote(Custom):
    remote_function = True
    has_benchmark = False


def test_a_handler_class() -> None:
    one = handler(handler_class=Custom)

    assert (one.route, one.model_path, one.healthcheck, one.parallel, one.max_queue_time) == (
        "/x",
        "/other",
        "/h",
        True,
        5.0,
    )
    assert one.benchmark is not None
    assert (one.benchmark.runs, one.benchmark.concurrency) == (2, 4)
    assert one.sample().load == 10.0
    assert one.respond is not None


async def test_a_handler_class_with_a_remote_function() -> None:
    one = handler(handler_class=Remote)

    assert one.benchmark is None
    assert json.loads(await one.answer(b'{"a": 1}')) == {"result": {"a": 1}}


async def test_a_remote_function_answers_with_its_result() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    assert await handler(remote_function=add).answer(b'{"a": 1, "b": 2}') == b'{"result":3}'


async def test_a_remote_function_that_raises_is_a_500() -> None:
    async def fails() -> None:
        raise RuntimeError("secret detail")

    with pytest.raises(HandlerFailed, match="the remote_function of /x raised RuntimeError"):
        await handler(remote_function=fails).answer(b"{}")
