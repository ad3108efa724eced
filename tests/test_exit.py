"""A worker that is told to stop stops, whatever its author's code does, and everything is told."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.processes import environment, started
from tests.system import Client, eventually, free_port

STUBBORN = """
import asyncio, contextlib, time
from pyworker import HandlerConfig, Worker, WorkerConfig

async def stubborn():
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass

async def calls(**_):
    {call}

@contextlib.asynccontextmanager
async def lifecycle():
    yield
    {end}

config = WorkerConfig(lifecycle=lifecycle(), handlers=[HandlerConfig(route="/x", remote_function=calls)])
"""


@pytest.mark.parametrize(
    ("call", "end"),
    [("await stubborn()", "pass"), ("return 1", "await stubborn()"), ("await asyncio.to_thread(time.sleep, 60)", "pass")],
    ids=["request", "lifecycle", "thread"],
)  # fmt: skip
async def test_code_that_does_not_end_is_left_behind(
    engine: Any, tmp_path: Path, call: str, end: str
) -> None:
    port = free_port()
    environ = environment(engine.url, port, tmp_path, BENCHMARK_PERF="1000", DRAIN_TIMEOUT="100")
    async with (
        started(tmp_path, environ, STUBBORN.format(call=call, end=end)) as process,
        aiohttp.ClientSession() as session,
        asyncio.TaskGroup() as group,
    ):
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
        group.create_task(_gone(client))
        await eventually(lambda: engine.reports[-1].num_requests_recieved == 1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: engine.reports[-1].error_msg.startswith("draining"))
        await asyncio.sleep(0.6)  # sooner it would be the same one
        process.send_signal(signal.SIGTERM)
        if call.startswith("await asyncio"):
            await eventually(lambda: b"left: everything" in (tmp_path / "worker.log").read_bytes())
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)

        assert await process.wait() == 0
        assert time.monotonic() - began < 8

    log = (tmp_path / "worker.log").read_text()
    status = "Success" if call == "return 1" else "Error"
    assert [(1001, status)] == [(one.request_idx, one.status) for one in engine.ended]
    assert "left: everything is reported" in log
    assert "leaving, although code of this worker's file does not end" in log or "left behind" in log
    assert "Traceback" not in log


async def _gone(client: Client) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await client.status()
