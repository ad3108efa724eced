"""What Prometheus scrapes of a real worker."""

import asyncio
import shutil
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families

from tests.system import Model, Start, System, config_for, handler

OPEN = "application/openmetrics-text; version=1.0.0"


async def scrape(system: System, accept: str = "") -> tuple[str, str]:
    """Text and content type."""
    url = f"http://127.0.0.1:{system.settings.admin_port}/metrics"
    async with system.session.get(url, headers={"Accept": accept}) as answer:
        assert answer.status == 200
        return await answer.text(), answer.headers["Content-Type"]


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


async def test_requests_by_route_and_outcome(start: Start, model: Model) -> None:
    system = await start(config_for(model, handler(workload_calculator=lambda _: 40.0)))
    assert [await system.client.status() for _ in range(3)] == [200] * 3
    model.respond = _fails
    assert await system.client.status() == 500
    assert await system.client.status(body=system.client.envelope() | {"payload": []}) == 422
    found = samples((await scrape(system))[0])

    def of(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert of("pyworker_requests_total", route="/x", outcome="served") == 3
    assert of("pyworker_load_total", route="/x", outcome="served") == 120
    assert of("pyworker_requests_total", route="/x", outcome="failed") == 1
    assert of("pyworker_requests_total", route="/x", outcome="rejected") == 1
    assert of("pyworker_requests_total", route="/x", outcome="cancelled") == 0
    assert of("pyworker_request_duration_seconds_count", route="/x") == 4
    assert of("pyworker_request_duration_seconds_bucket", route="/x", le="+Inf") == 4
    assert of("pyworker_request_queue_seconds_count", route="/x") == 4
    assert of("pyworker_request_first_byte_seconds_count", route="/x") == 4
    assert 0 < of("pyworker_request_first_byte_seconds_sum", route="/x") < 4
    assert of("pyworker_requests_in_flight") == 0
    assert of("pyworker_perf") == 1000
    assert of("pyworker_unsecured") == 0
    assert of("pyworker_state", pyworker_state="ready") == 1
    assert of("pyworker_state", pyworker_state="errored") == 0
    assert of("pyworker_connections", peer="client") >= 1
    assert of("pyworker_lane_running", lane="serial") == 0
    assert of("pyworker_reports_total", report="worker_status") >= 1
    assert of("pyworker_model_log_unread_bytes") == 0
    assert of("process_resident_memory_bytes") > 10**7


async def _fails(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="no")


async def test_the_first_byte_is_the_body_s_and_not_the_head_s(start: Start, model: Model) -> None:
    system = await start()

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await asyncio.sleep(0.3)
        await response.write(b"data: 1\n\n")
        await asyncio.sleep(0.3)
        return response

    model.respond = respond
    for _ in range(2):  # with a task and without
        assert await system.client.status() == 200
    await system.until_settled(2)
    found = samples((await scrape(system))[0])

    assert 0.6 <= found["pyworker_request_first_byte_seconds_sum", (("route", "/x"),)] < 1.0
    assert 1.2 <= found["pyworker_request_duration_seconds_sum", (("route", "/x"),)] < 2.0


async def test_both_forms_are_valid(start: Start) -> None:
    system = await start(UNSECURED="true")
    await system.client.status()
    text, content_type = await scrape(system)
    open_text, open_type = await scrape(system, OPEN)

    assert content_type.startswith("text/plain")
    assert open_type.startswith("application/openmetrics-text")
    names = {family.name for family in open_families(open_text)}  # type: ignore[no-untyped-call]
    assert names >= {"pyworker_requests", "pyworker_state"}
    assert samples(text)["pyworker_unsecured", ()] == 1
    if promtool := shutil.which("promtool"):
        check = await asyncio.create_subprocess_exec(
            promtool, "check", "metrics", stdin=-1, stdout=-1, stderr=-1
        )
        out, complaints = await check.communicate(text.encode())
        assert check.returncode == 0, (out, complaints)


async def test_the_public_port_asks_for_the_master_token(start: Start) -> None:
    system = await start()
    url = system.client.url + "/pyworker/metrics"
    async with system.session.get(url) as answer:
        assert answer.status == 401
    async with system.session.get(url, headers={"Authorization": "Bearer master-token"}) as answer:
        assert answer.status == 200
        assert "pyworker_requests" in await answer.text()
    async with system.session.post(f"http://127.0.0.1:{system.settings.admin_port}/metrics") as answer:
        assert answer.status == 405


async def test_gpus_are_there_where_nvml_is(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = ModuleType("pynvml")
    nvml.NVMLError = RuntimeError
    nvml.nvmlInit = lambda: None
    nvml.nvmlDeviceGetCount = lambda: 1
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index
    nvml.nvmlDeviceGetName = lambda _: "NVIDIA X"
    nvml.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(total=80e9, used=20e9)
    nvml.nvmlDeviceGetUtilizationRates = lambda _: SimpleNamespace(gpu=75)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    system = await start()
    found = samples((await scrape(system))[0])
    key = (("gpu", "0"), ("name", "NVIDIA X"))

    assert found["pyworker_gpu_memory_used_bytes", key] == 20e9
    assert found["pyworker_gpu_utilization_ratio", key] == 0.75

    def broken(_: int) -> None:
        raise RuntimeError("lost")

    nvml.nvmlDeviceGetUtilizationRates = broken
    assert "pyworker_gpu" not in (await scrape(system))[0]
