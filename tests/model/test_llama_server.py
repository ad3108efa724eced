"""A real llama.cpp server beside a real worker: started late, killed, started again, frozen."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pyworker import BenchmarkConfig, HandlerConfig, WorkerConfig
from pyworker.instance.demo_model import MODEL_NAME, model_file
from tests.system import Start, eventually, free_port

ROUTE = "/v1/chat/completions"
PAYLOAD = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}


class LlamaServer:
    """llama.cpp's own server with a small real model, as local mode runs it; its log is a file."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / "llama.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pyworker.instance.demo_model",
                str(model_file()), MODEL_NAME, str(self.port), str(os.getpid()),
                stdout=log, stderr=log,
            )  # fmt: skip

    def tell(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def killed(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def llama(tmp_path: Path) -> AsyncIterator[LlamaServer]:
    server = LlamaServer(tmp_path)
    yield server
    await server.killed()


def beside(llama: LlamaServer) -> WorkerConfig:
    from handlers.llama import config as shipped

    handler = HandlerConfig(
        route=ROUTE,
        allow_parallel_requests=True,
        workload_calculator=lambda payload: float(payload["max_tokens"]),
        benchmark_config=BenchmarkConfig(dataset=[PAYLOAD], runs=1, concurrency=2, do_warmup=False),
    )
    return WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=llama.port,
        model_log_file=str(llama.log),
        model_healthcheck_url="/health",
        handlers=[handler],
        log_action_config=shipped.log_action_config,
    )


@pytest.mark.timeout(90)
async def test_late_killed_back_frozen_and_thawed(
    start: Start, llama: LlamaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.3)
    monkeypatch.setattr("pyworker.model.probe.AFTER_A_MISS", 0.3)
    monkeypatch.setattr("pyworker.model.probe.TIMEOUT", 1.0)
    system = await start(beside(llama), ready=False, BENCHMARK_PERF="", SERVE_STALL_TIMEOUT="20")
    found = await system.until_state("loading")

    assert (
        found["why"]
        == f"waiting for the model server: no log at {llama.log} and no 200 from its health route yet"
    )

    await llama.start()
    found = await system.until_state("ready", within=40)
    perf = found["perf"]

    assert perf > 0

    await llama.killed()
    found = await system.until_state("errored")

    assert "no connection to the model server" in found["why"]

    await llama.start()
    found = await system.until_state("ready", within=40)

    assert found["perf"] == perf
    assert found["benchmark"]["source"] == "measured by this start"
    await eventually(lambda: not system.engine.reports[-1].error_msg)

    llama.tell(signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(system.client.status(ROUTE, system.client.envelope(PAYLOAD)))
        found = await system.until_state("errored")

        assert found["why"].startswith("health route /health failed 3 times: no answer in 1 s")
        await eventually(lambda: "health route" in system.engine.reports[-1].error_msg)

        llama.tell(signal.SIGCONT)
        await system.until_state("ready", within=20)

        assert await waiting == 200
    await eventually(lambda: not system.engine.reports[-1].error_msg)
