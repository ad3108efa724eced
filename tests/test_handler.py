"""A handler at work: hooks fenced, bytes untouched."""

import asyncio
import contextlib
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


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_ends_a_process_costs_one_request(error: BaseException) -> None:
    def fails(*_: Any) -> Any:
        raise error

    for fields, message in (
        ({"request_parser": fails}, "the request_parser of /x raised "),
        ({"payload_class": type("P", (), {"from_json_msg": fails})}, "the payload class of /x raised "),
    ):
        with pytest.raises(HandlerFailed, match=message + type(error).__name__):
            handler(**fields).prepare(b"{}")
    with pytest.raises(HandlerFailed, match="the benchmark generator of /x raised "):
        handler(benchmark_config=BenchmarkConfig(generator=fails)).sample()
    assert handler(workload_calculator=fails).prepare(b"{}").load == 100.0


def test_a_payload_class_makes_the_benchmark_s_payloads_whatever_the_dataset() -> None:
    made = type(
        "Made", (), {"count_workload": lambda _: 3.0, "generate_payload_json": lambda _: {"made": True}}
    )
    kind = type("P", (), {"for_test": classmethod(lambda _: made())})
    one = handler(payload_class=kind, benchmark_config=BenchmarkConfig(dataset=[{"raw": True}]))

    assert (one.sample().load, one.sample().body) == (3.0, b'{"made":true}')


def test_a_calculator_can_refuse_too() -> None:
    def load(_: dict[str, Any]) -> float:
        raise JsonDataException("too long")

    with pytest.raises(InvalidRequest) as caught:
        handler(workload_calculator=load).prepare(b"{}")

    assert caught.value.body() == {"payload": "too long"}


@pytest.mark.parametrize("message", [object(), float("nan"), {"x": b"x"}, {1: {2}}])
def test_a_refusal_that_is_no_json_is_one_all_the_same(message: Any) -> None:
    def parse(_: dict[str, Any]) -> dict[str, Any]:
        raise JsonDataException(message)

    with pytest.raises(InvalidRequest) as caught:
        handler(request_parser=parse).prepare(b"{}")

    assert json.dumps(caught.value.body(), allow_nan=False)


def test_what_an_author_s_code_says_of_a_request_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    one = handler(request_parser=lambda payload: int(payload["prompt"]))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(HandlerFailed):
                one.prepare(b'{"prompt": "very private"}')

    assert "very private" not in caplog.text
    assert ["request_parser of /x raised ValueError: test_handler.py:"] == [
        message[:56] for message in caplog.messages
    ]


PARSERS: list[Any] = [lambda payload: {**payload, "more": 1}]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"n": 1e400}',
        b'{"n": NaN}',
        b'{"n": -Infinity}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"n": ' * 990 + b"1" + b"}" * 990,
        b'{"n": "\xff"}',
        b"{",
        b'{"a": 1} x',
    ],
    ids=["inf", "nan", "minus_inf", "digits", "deep", "nearly_too_deep", "utf8", "half", "more"],
)
@pytest.mark.parametrize("payload_class", [False, True])
def test_a_payload_that_cannot_be_read_is_not_its_author_s_fault(raw: bytes, payload_class: bool) -> None:
    class Echo:
        def __init__(self, payload: dict[str, Any]) -> None:
            self._payload = payload

        @classmethod
        def from_json_msg(cls, payload: dict[str, Any]) -> Self:
            return cls(payload)

        def count_workload(self) -> float:
            return 1.0

        def generate_payload_json(self) -> dict[str, Any]:
            return {**self._payload, "more": 1}

    one = handler(payload_class=Echo) if payload_class else handler(request_parser=PARSERS[0])
    if raw.startswith(b'{"n": {"n"'):  # just about readable: then it must be writable, or refused
        with contextlib.suppress(InvalidRequest):
            assert one.prepare(raw).body
        return
    with pytest.raises(InvalidRequest):
        one.prepare(raw)


def test_half_a_surrogate_pair_goes_on_as_it_came() -> None:
    work = handler(request_parser=PARSERS[0]).prepare(b'{"t": "\\ud800"}')

    assert work.body == b'{"t":"\\ud800","more":1}'


class Nothing:
    @classmethod
    def from_json_msg(cls, _: dict[str, Any]) -> Any:
        return None


class NoDict(Nothing):
    @classmethod
    def from_json_msg(cls, _: dict[str, Any]) -> Any:
        return cls()

    def count_workload(self) -> float:
        return 1.0

    def generate_payload_json(self) -> Any:
        return None


class OddForm(NoDict):
    def generate_payload_multipart(self) -> Any:
        return [1]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Nothing, "the payload class of /x raised AttributeError"),
        (NoDict, "generate_payload_json of /x must return a dict, not None"),
        (OddForm, "generate_payload_multipart of /x must return a dict, not list"),
    ],
)
def test_a_payload_class_s_nonsense_is_named(kind: Any, message: str) -> None:
    with pytest.raises(HandlerFailed, match=message):
        handler(payload_class=kind).prepare(b"{}")


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


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError(), KeyError("x")])
async def test_a_remote_function_ends_its_own_request_alone(error: BaseException) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(HandlerFailed, match=f"the remote_function of /x raised {type(error).__name__}"):
        await handler(remote_function=fails).answer(b"{}")


async def test_a_remote_function_s_nonsense_is_named() -> None:
    with pytest.raises(HandlerFailed, match="the remote_function of /x must return JSON, not object"):
        await handler(remote_function=object).answer(b"{}")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"b": 1}', "missing a required argument: 'a'"),
        (b'{"a": 1, "c": 1}', "got an unexpected keyword argument 'c'"),
        (b'{"a": NaN}', "invalid JSON"),
    ],
)
async def test_what_a_remote_function_does_not_take_is_422(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await handler(remote_function=lambda a, b=1: a + b).answer(raw)

    assert caught.value.body() == {"payload": why}


async def test_a_function_that_cannot_be_looked_into_is_called_all_the_same() -> None:
    assert await handler(remote_function=dict).answer(b'{"a": 1}') == b'{"result":{"a":1}}'


async def test_a_result_with_half_a_surrogate_pair_is_json_all_the_same() -> None:
    answer = await handler(remote_function=lambda t: t).answer(b'{"t": "\\ud800"}')

    assert json.loads(answer) == {"result": "\ud800"}
