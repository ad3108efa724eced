"""What authors write: the official package's fields and defaults, and nonsense named at construction."""

import contextlib
import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyworker import BenchmarkConfig, ConfigError, HandlerConfig, LogActionConfig, WorkerConfig
from pyworker.handler import handlers_of

# Fields, in order, with their defaults, of vastai 1.9.1's configuration classes.
OFFICIAL: dict[type, dict[str, Any]] = {
    LogActionConfig: {"on_load": [], "on_error": [], "on_info": []},
    BenchmarkConfig: {"dataset": None, "generator": None, "runs": 8, "concurrency": 10, "do_warmup": True},
    HandlerConfig: {
        "route": inspect.Parameter.empty, "healthcheck": None, "allow_parallel_requests": False, "max_queue_time": 30.0,
        "benchmark_config": None, "handler_class": None, "payload_class": None, "request_parser": None,
        "response_generator": None, "workload_calculator": None, "is_remote_dispatch": False, "remote_function": None,
    },
    WorkerConfig: {
        "model_server_url": None, "model_server_port": None, "model_log_file": None, "benchmark_data": [], "handlers": [],
        "model_healthcheck_url": None, "benchmark_route": None, "log_action_config": LogActionConfig(),
        "max_sessions": 10, "lifecycle": None,
    },
}  # fmt: skip


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


@pytest.mark.parametrize("cls", OFFICIAL, ids=lambda cls: cls.__name__)
def test_fields_and_defaults_are_the_official_ones(cls: Any) -> None:
    fields = {field.name: _default(field) for field in dataclasses.fields(cls)}

    assert list(fields.items())[: len(OFFICIAL[cls])] == list(OFFICIAL[cls].items())


def handler(**fields: Any) -> HandlerConfig:
    return HandlerConfig(**{"route": "/x", **fields})


async def remote(**_: Any) -> str:
    return "done"


WRONG: list[tuple[str, Callable[[], object], str]] = [
    ("route", lambda: handler(route="x"), "HandlerConfig.route='x': must be a path that starts with /"),
    ("healthcheck", lambda: handler(healthcheck="h"), "HandlerConfig('/x').healthcheck='h': must be a path"),
    ("parallel", lambda: handler(allow_parallel_requests=1), ".allow_parallel_requests=1: must be True or False"),
    ("wait_text", lambda: handler(max_queue_time="5"), ".max_queue_time='5': must be seconds, 0 or more, or None"),
    ("wait_nan", lambda: handler(max_queue_time=float("nan")), ".max_queue_time=nan: must be seconds"),
    ("wait_negative", lambda: handler(max_queue_time=-1), ".max_queue_time=-1: must be seconds"),
    ("benchmark", lambda: handler(benchmark_config={}), ".benchmark_config={}: must be a BenchmarkConfig or None"),
    ("parser", lambda: handler(request_parser="f"), ".request_parser='f': must be a function or None"),
    ("class", lambda: handler(handler_class=5), ".handler_class=5: must be a class or None"),
    ("statuses", lambda: handler(error_statuses=["4xx"]), ".error_statuses=['4xx']: must be a list of HTTP statuses"),
    ("dispatch", lambda: handler(is_remote_dispatch=True), "is_remote_dispatch=True: needs a remote_function"),
    ("dataset", lambda: BenchmarkConfig(dataset=[1]), "BenchmarkConfig.dataset=[1]: must be a list of payload dicts"),  # type: ignore[list-item]
    ("generator", lambda: BenchmarkConfig(generator=5), "BenchmarkConfig.generator=5: must be a function"),  # type: ignore[arg-type]
    ("runs", lambda: BenchmarkConfig(runs=0), "BenchmarkConfig.runs=0: must be a whole number, 1 or more"),
    ("concurrency", lambda: BenchmarkConfig(concurrency=-1), "BenchmarkConfig.concurrency=-1: must be"),
    ("concurrency_word", lambda: BenchmarkConfig(concurrency="all"), "BenchmarkConfig.concurrency='all': must be a whole number, 1 or more, \"auto\", or None"),  # type: ignore[arg-type]
    ("stall", lambda: handler(stall_timeout=0), ".stall_timeout=0: must be seconds, more than 0, or None for SERVE_STALL_TIMEOUT"),
    ("size", lambda: WorkerConfig(model_size_gb=0), "WorkerConfig.model_size_gb=0: must be more than 0, or None"),
    ("warmup", lambda: BenchmarkConfig(do_warmup=None), "BenchmarkConfig.do_warmup=None: must be True or False"),  # type: ignore[arg-type]
    ("patterns", lambda: LogActionConfig(on_load="x"), "LogActionConfig.on_load='x': must be a list of strings"),  # type: ignore[arg-type]
    ("regex", lambda: LogActionConfig(on_error=["re:("]), "LogActionConfig.on_error: log pattern 're:('"),
    ("url", lambda: WorkerConfig(model_server_url="127.0.0.1"), "WorkerConfig.model_server_url='127.0.0.1': must be"),
    ("port", lambda: WorkerConfig(model_server_port=0), "WorkerConfig.model_server_port=0: must be 1 to 65535"),
    ("log", lambda: WorkerConfig(model_log_file=5), "WorkerConfig.model_log_file=5: must be a path or None"),  # type: ignore[arg-type]
    ("health", lambda: WorkerConfig(model_healthcheck_url="x"), "WorkerConfig.model_healthcheck_url='x': must be"),
    ("sessions", lambda: WorkerConfig(max_sessions=-1), "WorkerConfig.max_sessions=-1: must be a whole number"),
    ("actions", lambda: WorkerConfig(log_action_config=None), "WorkerConfig.log_action_config=None: must be"),  # type: ignore[arg-type]
    ("lifecycle", lambda: WorkerConfig(lifecycle=5), "WorkerConfig.lifecycle=5: must be an async context manager"),  # type: ignore[arg-type]
    ("handlers", lambda: WorkerConfig(handlers=[1]), "WorkerConfig.handlers=[1]: must be a list of HandlerConfig"),  # type: ignore[list-item]
    ("twice", lambda: WorkerConfig(handlers=[handler(), handler()]), "['/x']: must be one HandlerConfig a route"),
    ("data", lambda: WorkerConfig(benchmark_data=[1]), "WorkerConfig.benchmark_data=[1]: must be a list of payload"),  # type: ignore[list-item]
    ("named", lambda: WorkerConfig(handlers=[handler()], benchmark_route="/y"), "benchmark_route='/y': must be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_nonsense_is_named_with_field_value_and_what_is_allowed(
    make: Callable[[], object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make()

    assert message in str(caught.value)


def test_the_concurrency_of_a_benchmark_may_be_left_to_it() -> None:
    config = WorkerConfig(
        handlers=[handler(benchmark_config=BenchmarkConfig(dataset=[{}], concurrency="auto"))]
    )
    [carrier] = handlers_of(config, perf_is_known=False)

    assert carrier.benchmark is not None
    assert carrier.benchmark.auto


def test_two_benchmarks_are_an_error_that_names_both() -> None:
    two = [handler(route=route, benchmark_config=BenchmarkConfig(dataset=[{}])) for route in ("/a", "/b")]

    with pytest.raises(ConfigError, match="only one handler can carry the benchmark, but /a and /b do"):
        WorkerConfig(handlers=two)
    with pytest.raises(ConfigError, match="/a and /b"):
        WorkerConfig(handlers=[two[0], handler(route="/b")], benchmark_route="/b")


def test_no_benchmark_is_an_error_unless_perf_is_known() -> None:
    config = WorkerConfig(handlers=[handler()])

    with pytest.raises(ConfigError, match="no handler carries a benchmark"):
        handlers_of(config, perf_is_known=False)
    assert [one.route for one in handlers_of(config, perf_is_known=True)] == ["/x"]


def test_without_handlers_there_is_one_for_the_root() -> None:
    [one] = handlers_of(WorkerConfig(benchmark_data=[{"a": 1}]), perf_is_known=False)

    assert one.route == "/"
    assert one.sample().body == b'{"a":1}'


def test_benchmark_data_goes_to_the_benchmark_route() -> None:
    config = WorkerConfig(
        handlers=[handler(route="/a"), handler(route="/b")], benchmark_data=[{"n": 1}], benchmark_route="/b"
    )
    a, b = handlers_of(config, perf_is_known=False)

    assert a.benchmark is None
    assert b.benchmark is not None
    assert b.sample().body == b'{"n":1}'


def test_benchmark_data_fills_a_benchmark_config_without_payloads() -> None:
    config = WorkerConfig(
        handlers=[handler(benchmark_config=BenchmarkConfig(runs=3))], benchmark_data=[{"n": 1}]
    )
    [one] = handlers_of(config, perf_is_known=False)

    assert one.benchmark is not None
    assert one.benchmark.runs == 3
    assert one.sample().body == b'{"n":1}'


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            WorkerConfig(handlers=[handler(benchmark_config=BenchmarkConfig())]),
            "the benchmark of /x has no payloads",
        ),
        (WorkerConfig(handlers=[handler()], benchmark_route="/x"), "benchmark_route='/x' has no payloads"),
        (
            WorkerConfig(handlers=[handler(route="/a"), handler(route="/b")], benchmark_data=[{}]),
            "benchmark_data is given, but not the benchmark_route it is for",
        ),
    ],
    ids=["no_payloads", "route_without_data", "data_without_route"],
)
def test_a_benchmark_that_cannot_run_is_an_error(config: WorkerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        handlers_of(config, perf_is_known=False)


@contextlib.asynccontextmanager
async def lifecycle() -> AsyncIterator[None]:
    yield


def test_what_is_right_is_taken() -> None:
    config = WorkerConfig(
        model_server_url="https://example.com",
        handlers=[
            handler(remote_function=remote, is_remote_dispatch=True, max_queue_time=0.0, healthcheck="/h")
        ],
        lifecycle=lifecycle(),
        max_sessions=None,
    )

    assert config.handlers[0].max_queue_time == 0.0
