"""The official configuration classes are as lenient as files written for them expect; the rest is strict."""

import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pyworker import ConfigError
from pyworker.official.backend import Backend
from pyworker.official.data_types import ApiPayload, EndpointHandler, LogAction
from pyworker.official.worker import HandlerConfig, WorkerConfig, pinned
from pyworker.settings import Settings


@pytest.mark.parametrize(
    ("given", "kept"),
    [("", None), (None, None), ("health", "/health"), ("/health", "/health"), ("http://x/h", "http://x/h")],
)
def test_a_health_path_may_be_empty_or_lack_its_slash(given: Any, kept: str | None) -> None:
    assert WorkerConfig(model_healthcheck_url=given).model_healthcheck_url == kept
    assert HandlerConfig("/x", healthcheck=given).healthcheck == kept


@pytest.mark.parametrize(("given", "kept"), [("8000", 8000), (8001, 8001), ("", None), (None, None)])
def test_a_port_may_be_text(given: Any, kept: int | None) -> None:
    assert WorkerConfig(model_server_port=given).model_server_port == kept


def test_other_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="model_server_port='eighty': must be 1 to 65535"):
        WorkerConfig(model_server_port="eighty")  # type: ignore[arg-type] # as a file without types may


@pytest.mark.parametrize(("line", "perf"), [("12.5", 12.5), ("0", None), ("nan", None), ("soon", None)])
def test_a_file_pins_perf_if_it_names_one(
    line: str,
    perf: float | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".has_benchmark").write_text(line)
    with caplog.at_level(logging.WARNING):
        found = pinned(Settings.from_env({}))

    assert found.benchmark_perf == perf
    assert (f"its first line is '{line}'" in caplog.text) is (perf is None)
    assert pinned(Settings.from_env({"BENCHMARK_PERF": "3"})).benchmark_perf == 3


class Text(ApiPayload):
    @classmethod
    def for_test(cls) -> "Text":
        return cls()

    def generate_payload_json(self) -> dict[str, Any]:
        return {"benchmark": True}

    def count_workload(self) -> float:
        return 5.0

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> "Text":
        raise NotImplementedError


class Simple(EndpointHandler[Text]):
    endpoint = "/simple"
    healthcheck_endpoint = None

    @classmethod
    def payload_cls(cls) -> type[Text]:
        return Text

    def make_benchmark_payload(self) -> Text:
        return Text()

    async def generate_client_response(self, client_request: Any, model_response: Any) -> web.Response:
        raise NotImplementedError


class Other(Simple):
    endpoint = "/other"


def backend(benchmark: EndpointHandler[Any], **fields: Any) -> Backend:
    actions = [(LogAction.ModelLoaded, "up"), (LogAction.ModelError, "bad"), (LogAction.Info, "note")]
    return Backend("http://127.0.0.1:9", "m.log", benchmark, actions, **fields)


def test_a_benchmark_of_no_route_is_run_where_no_client_may_ask() -> None:
    made = backend(Other())
    worker = made.worker([web.route("*", "/s", made.create_handler(Simple()))])
    served, unrouted = worker.handlers

    assert served.benchmark is None
    assert {"GET", "POST"} <= served.methods
    assert (unrouted.route, unrouted.model_path) == ("/pyworker/benchmark/other", "/other")
    assert unrouted.methods == {"HEAD"}
    assert unrouted.sample().load == 5.0


def test_what_the_older_backend_says_holds_for_all_its_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = backend(
        Simple(benchmark_runs=3),
        unsecured=True,
        mtoken="t",
        report_addr="http://a/,http://b",
        allow_parallel_requests=True,
        max_wait_time=7.0,
        max_sessions=0,
    )
    worker = made.worker(
        [
            web.post("/s", made.create_handler(Simple(max_queue_time=1.0))),
            web.post("/o", made.create_handler(Other())),
        ]
    )
    simple, other = worker.handlers

    assert simple.benchmark is not None
    assert (simple.benchmark.runs, other.benchmark) == (3, None)
    assert (simple.max_queue_time, other.max_queue_time) == (1.0, 7.0)
    assert simple.parallel
    assert other.parallel
    assert worker.settings.unsecured
    assert worker.settings.master_token == "t"
    assert worker.settings.report_addrs == ("http://a", "http://b")
    assert worker.config.max_sessions == 0
    assert worker.config.log_action_config.on_load == ["up"]


@pytest.mark.parametrize(
    ("route", "why"),
    [(web.static("/s", "/"), "only routes such as web.post"), (web.view("/v", web.View), "a view class")],
    ids=["static", "view"],
)
def test_routes_that_cannot_be_served_are_named(route: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        backend(Simple()).worker([route])
