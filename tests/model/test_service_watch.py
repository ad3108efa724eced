"""A worker in service that does less than its benchmark promised."""

import asyncio

import pytest
from aiohttp import web

from tests.system import Model, Start, config_for, eventually, handler


async def test_a_lasting_gap_is_told_in_status_and_log_and_goes_again(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyworker.model.service_watch.EVERY", 0.05)
    monkeypatch.setattr("pyworker.core.drift.LASTING", 0.4)
    monkeypatch.setattr("pyworker.core.drift.WINDOW", 0.8)
    caplog.set_level("INFO", "pyworker")
    pause = 0.1

    async def respond(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(pause)
        return web.json_response({"ok": 1})

    model.respond = respond
    system = await start(
        config_for(model, handler()), BENCHMARK_PERF="5000"
    )  # a request of load 100 in 20 ms

    async def traffic() -> None:
        while True:
            await system.client.status()

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(traffic())
        found = await system.status()
        async with asyncio.timeout(5):
            while not found["in_service"]["warning"]:
                await asyncio.sleep(0.05)
                found = await system.status()

        assert "where its benchmark promised 5000.0 (" in found["in_service"]["warning"]
        assert found["in_service"]["served"] < 0.7 * 5000
        assert any("where its benchmark promised 5000.0" in message for message in caplog.messages)

        pause = 0.015
        await eventually(lambda: any("does again what its benchmark promised" in m for m in caplog.messages))

        assert (await system.status())["in_service"]["warning"] == ""

        sending.cancel()


async def test_where_nobody_knows_what_perf_was_measured_with_nothing_is_compared(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.service_watch.EVERY", 0.02)
    system = await start(config_for(model, handler(benchmark_config=None)), BENCHMARK_PERF="5000")
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(system.client.status())

    assert (await system.status())["in_service"]["promised"] is None
