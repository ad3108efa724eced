"""Stops in the style of systemd, supervisor and docker: what runs is finished, or at the next start told as cut off."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from tests.processes import environment
from tests.system import Client, Model, eventually, free_port

CHAT = "/v1/chat/completions"


@dataclass
class Instance:
    """A worker of handlers.llama with a model server that holds what it is told to hold."""

    engine: Any
    model: Model
    folder: Path
    client: Client
    release: asyncio.Event
    port: int
    asked: int = 0

    @asynccontextmanager
    async def started(self, *command: str, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """``pyworker COMMAND``, ready; what is left of it at the end is killed."""
        more = {
            "BACKEND": "llama",
            "MODEL_SERVER_PORT": str(self.model.port),
            "MODEL_LOG": str(self.model.log),
            **more,
        }
        environ = environment(self.engine.url, self.port, self.folder, BENCHMARK_PERF="1000", **more)
        seen = len(self.engine.reports)
        with (self.folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "pyworker",
                *command,
                env=environ,
                cwd=Path(__file__).parents[1],
                stderr=log,
            )
        everyone = [psutil.Process(process.pid)]
        try:
            await eventually(
                lambda: any(
                    one.loadtime > 0 and not one.error_msg for one in list(self.engine.reports)[seen:]
                ),
                within=20,
            )
            everyone += everyone[0].children(recursive=True)
            yield process
        finally:
            for one in everyone:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            await process.wait()

    async def chat(self) -> int | None:
        """Status of a request that the model server answers once it may; None when it was cut."""
        self.asked += 1
        body = self.client.envelope({"messages": [], "max_tokens": 10, "hold": True})
        try:
            return await self.client.status(CHAT, body)
        except aiohttp.ClientError:
            return None

    async def until_draining(self) -> None:
        await eventually(lambda: self.engine.reports[-1].error_msg.startswith("draining"))


@pytest.fixture
async def instance(engine: Any, model: Model, tmp_path: Path) -> AsyncIterator[Instance]:
    release = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        if b"hold" in await request.read():
            await release.wait()
        return web.json_response({"usage": {}})

    model.respond = respond
    port = free_port()
    async with aiohttp.ClientSession() as session:
        client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
        yield Instance(engine, model, tmp_path, client, release, port)


async def test_systemd_tells_every_process_and_none_twice(instance: Instance) -> None:
    async with instance.started("up") as process, asyncio.TaskGroup() as group:
        asking = group.create_task(instance.chat())
        await eventually(lambda: instance.model.working == 1)
        for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            one.terminate()
        await instance.until_draining()
        await asyncio.sleep(0.2)  # the worker is told once more, by its parent

        assert not asking.done()

        instance.release.set()

        assert await process.wait() == 0
        assert await asking == 200
    assert ["Success"] == [one.status for one in instance.engine.ended]


async def test_a_second_signal_to_up_is_the_worker_s(instance: Instance) -> None:
    async with instance.started("up") as process, asyncio.TaskGroup() as group:
        asking = group.create_task(instance.chat())
        await eventually(lambda: instance.model.working == 1)
        process.terminate()
        await instance.until_draining()
        await asyncio.sleep(0.6)  # longer than a repeat takes
        process.terminate()

        assert await process.wait() == 0
        assert await asking is None
    assert ["Error"] == [one.status for one in instance.engine.ended]


@pytest.mark.parametrize("style", ["supervisor", "docker", "systemd"])
async def test_who_is_killed_in_the_middle_of_draining_is_told_of_at_the_next_start(
    instance: Instance, style: str
) -> None:
    command = ("run", "handlers.llama") if style == "supervisor" else ("up",)
    async with asyncio.TaskGroup() as group:
        async with instance.started(*command) as process:
            asking = [group.create_task(instance.chat()) for _ in range(3)]
            await eventually(lambda: instance.model.working == 3)
            everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in everyone if style == "systemd" else everyone[:1]:
                one.terminate()
            await instance.until_draining()
            for one in everyone:
                os.kill(one.pid, signal.SIGKILL)
            await process.wait()
        assert not instance.engine.ended
        assert [None] * 3 == [await one for one in asking]

    instance.release.set()
    async with instance.started(*command) as process:
        assert await instance.chat() == 200
        process.terminate()
        assert await process.wait() == 0

    ended = [(one.request_idx, one.status) for one in instance.engine.ended]
    assert [(1001, "Error"), (1002, "Error"), (1003, "Error"), (1004, "Success")] == sorted(ended)
    assert sum(report.new_load for report in instance.engine.reports) == 40.0
    assert sum(report.cur_perf for report in instance.engine.reports) == 10.0
