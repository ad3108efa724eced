"""Authors' code that does not end when it is told to, or never."""

import asyncio
import contextlib
import logging
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pyworker import HandlerConfig
from pyworker import fence as fences
from pyworker.core.errors import HandlerFailed
from pyworker.fence import THREADS, Fence, in_thread
from tests.processes import environment, started
from tests.system import Client, Model, Start, System, config_for, eventually, free_port, handler


async def stubborn(release: asyncio.Event) -> str:
    """Goes on however often it is cancelled."""
    while not release.is_set():
        try:
            await release.wait()
        except asyncio.CancelledError:
            continue
    return "done"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "PATIENCE", 0.1)


async def test_what_ends_when_cancelled_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            ended.append("yes")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Fence("/x").run("f", tidy())

    assert ended == ["yes"]
    assert not caplog.messages


@pytest.mark.usefixtures("impatient")
async def test_what_does_not_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    release = asyncio.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Fence("/x").run("f", stubborn(release))

    took, waited_for = time.monotonic() - began, asyncio.all_tasks()
    release.set()

    assert took < 1
    assert caplog.messages == ["f of /x goes on though it was cancelled: left behind"]
    assert waited_for == {asyncio.current_task()}  # by the end of the loop
    await eventually(lambda: not fences._left)


async def test_what_fails_while_it_is_cancelled_is_nobody_s_error(caplog: pytest.LogCaptureFixture) -> None:
    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Fence("/x").run("f", fails())

    assert "f of /x raised ValueError" in caplog.text


def test_troubles_that_are_told_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    fence = Fence("/x")
    for number in range(2 * fences.TOLD):
        kind: Any = type(f"Error{number}", (Exception,), {})
        fence.blame("f", kind())

    assert len(caplog.messages) == fences.TOLD


async def test_debug_tells_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(HandlerFailed), Fence("/x").around("f"):
        raise ValueError("detail")

    assert "ValueError: detail" in caplog.text


# Threads...


async def test_a_thread_brings_what_its_function_returns_or_raises() -> None:
    assert await in_thread(lambda: 5) == 5
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(lambda: int("x"))


async def test_who_is_gone_is_not_called_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "_threads", fences._Threads())
    release = threading.Event()
    called: list[int] = []
    async with asyncio.TaskGroup() as group:
        busy = [group.create_task(in_thread(release.wait)) for _ in range(THREADS)]
        late = group.create_task(in_thread(lambda: called.append(1)))
        await asyncio.sleep(0)
        late.cancel()
        busy[0].cancel()  # its function goes on; what it returns is nobody's
        await asyncio.sleep(0)
        release.set()
    await in_thread(lambda: None)

    assert called == []


# In a worker...


def stubborn_worker(model: Model, release: asyncio.Event) -> HandlerConfig:
    async def generate(_request: Any, _response: Any) -> web.Response:
        return web.Response(text=await stubborn(release))

    return handler(response_generator=generate, allow_parallel_requests=True)


async def survive(system: System, body: Any = None) -> int:
    """The status of a request; 0 when it is cut."""
    try:
        return await system.client.status(body=body)
    except aiohttp.ClientError:
        return 0


@pytest.mark.usefixtures("impatient")
async def test_it_holds_up_neither_a_session_s_end_nor_the_drain(start: Start, model: Model) -> None:
    release = asyncio.Event()
    system = await start(config_for(model, stubborn_worker(model, release)), DRAIN_TIMEOUT="0.2")
    auth = system.client.auth()
    async with system.client.post(
        "/session/create", body={"auth_data": auth, "payload": {"lifetime": 60}}
    ) as answer:
        session = (await answer.json())["session_id"]
    inside = {"auth_data": auth, "session_id": session, "payload": {}}
    async with asyncio.TaskGroup() as group:
        group.create_task(survive(system, inside))
        await system.until_in_flight(2)  # the session, and the request in it
        began = time.monotonic()
        call = {"session_id": session, "session_auth": auth}
        assert await system.client.status("/session/end", body=call) == 200
        assert time.monotonic() - began < 2

        group.create_task(survive(system))
        await system.until_in_flight(1)
        system.stop.set()
        assert system.task is not None
        async with asyncio.timeout(5):
            await system.task
    ended = [end.status for end in system.engine.ended]
    release.set()

    assert ended == ["Success", "Error"]


STUBBORN = """
import asyncio, os, time
from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

async def generate(request, response):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

def parse(payload):
    if payload.get("slow"):
        time.sleep(0.1 if payload["slow"] == 1 else 3600)
    return payload

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    handlers=[
        HandlerConfig(route="/x", benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=1)),
        HandlerConfig(route="/stubborn", response_generator=generate, allow_parallel_requests=True),
        HandlerConfig(route="/blocked", request_parser=parse, allow_parallel_requests=True),
    ],
)
"""


async def test_the_process_ends_in_spite_of_them(engine: Any, model: Model, tmp_path: Path) -> None:
    port = free_port()
    environ = environment(
        engine.url, port, tmp_path, BENCHMARK_PERF="100", UNSECURED="true", DRAIN_TIMEOUT="0.2"
    )
    async with started(tmp_path, environ, STUBBORN.format(port=model.port)) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
            assert await client.status("/blocked", client.envelope({"slow": 1})) == 200
            for route in ("/stubborn", "/blocked"):
                group.create_task(cut(client, route))
            await eventually(lambda: any(end.request_idx for end in engine.ended))
            await eventually(lambda: engine.reports[-1].num_requests_working == 1)
            process.terminate()
            async with asyncio.timeout(10):
                assert await process.wait() == 0

    assert "left: everything is reported" in (tmp_path / "worker.log").read_text()


async def cut(client: Any, route: str) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await client.status(route, client.envelope({"slow": 2}))
