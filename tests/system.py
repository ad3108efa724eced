"""A whole system for tests: a model server that does as told, a local engine, a real worker, a signing client."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pyworker import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig
from pyworker.local_engine.serve import EngineOptions, LocalEngine
from pyworker.settings import Settings

Respond = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAYLOAD = {"prompt": "hi"}


def free_port() -> int:
    """A port with two free ones above it, for a worker; below those that outgoing connections take."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        try:
            for one in (port, port + 1, port + 2):
                with socket.socket() as probe:
                    probe.bind(("", one))
        except OSError:
            continue
        return port


async def eventually(condition: Callable[[], object], within: float = 5.0) -> None:
    """Wait until ``condition()`` is true; fail when it is not ``within`` seconds."""
    try:
        async with asyncio.timeout(within):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"never true in {within} s: {condition.__name__}")


@dataclass
class Model:
    """A model server that answers as ``respond`` says; ``down`` refuses, ``health`` is its health route's status."""

    folder: Path
    respond: Respond | None = None
    health: int = 200
    models: Any = None
    """What it says of itself at /v1/models; 404 without."""
    heard: list[tuple[web.Request, bytes]] = field(default_factory=list)
    working: int = 0
    cancelled: int = 0
    port: int = 0
    _runner: web.ServerRunner | None = None

    @property
    def log(self) -> Path:
        return self.folder / "model.log"

    def say(self, *lines: str) -> None:
        """Write lines to the model server's log."""
        with self.log.open("a") as log:
            log.writelines(line + "\n" for line in lines)

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            web.Server(self._answer, handler_cancellation=True), shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/health":
            return web.Response(status=self.health)
        if request.method == "GET" and request.path in {"/v1/models", "/version"}:
            return web.json_response(self.models, status=200 if self.models else 404)
        body = await request.read()
        self.heard.append((request, body))  # type: ignore[arg-type] # a BaseRequest has all that tests look at
        self.working += 1
        try:
            if self.respond is None:
                return web.json_response({"echo": json.loads(body)})
            return await self.respond(request)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.working -= 1


@dataclass
class Client:
    """A client with a signed grant for one worker."""

    session: aiohttp.ClientSession
    url: str
    sign: Callable[[str], str]
    number: int = 0

    def auth(self, **changes: Any) -> dict[str, Any]:
        self.number += 1
        return {
            "signature": self.sign(self.url),
            "cost": "100",
            "endpoint": "local",
            "reqnum": self.number,
            "request_idx": 1000 + self.number,
            "url": self.url,
            **changes,
        }

    def envelope(self, payload: Any = PAYLOAD, **changes: Any) -> dict[str, Any]:
        return {"auth_data": self.auth(**changes), "session_id": None, "payload": payload}

    def post(self, route: str = "/x", body: Any = None, **options: Any) -> Any:
        """POST an envelope (a signed one with the default payload if none is given)."""
        return self.session.post(self.url + route, json=self.envelope() if body is None else body, **options)

    async def status(self, route: str = "/x", body: Any = None, **options: Any) -> int:
        async with self.post(route, body, **options) as answer:
            await answer.read()
            status: int = answer.status
            return status


@dataclass
class System:
    """What a test holds of a running system."""

    engine: LocalEngine
    model: Model
    session: aiohttp.ClientSession
    client: Client
    settings: Settings
    stop: asyncio.Event
    cut: asyncio.Event
    task: "asyncio.Task[None] | None" = None

    async def status(self) -> dict[str, Any]:
        """What the worker's admin port says."""
        async with self.session.get(f"http://127.0.0.1:{self.settings.admin_port}/pyworker/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def until_state(self, *states: str, within: float = 10.0) -> dict[str, Any]:
        """Wait until the worker says it is in one of ``states``."""
        async with asyncio.timeout(within):
            while True:
                try:
                    found = await self.status()
                except aiohttp.ClientConnectionError:
                    found = {"state": "no port yet"}
                if found["state"] in states:
                    return found
                await asyncio.sleep(0.01)

    async def until_in_flight(self, count: int) -> None:
        """Wait until exactly ``count`` requests are queued or working."""
        async with asyncio.timeout(5):
            while (await self.status())["requests"]["in_flight"]["count"] != count:
                await asyncio.sleep(0.002)

    async def until_settled(self, count: int) -> list[dict[str, Any]]:
        """Wait until the engine has heard of ``count`` ended requests; what it heard."""
        await eventually(lambda: len(self.engine.ended) >= count)

        assert len(self.engine.ended) == count
        return [as_dict(end) for end in self.engine.ended]

    @property
    def last_report(self) -> dict[str, Any]:
        return as_dict(self.engine.reports[-1])


def as_dict(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.dumps(value, default=lambda one: {k: getattr(one, k) for k in one.__struct_fields__})
    )
    return found


def handler(**fields: Any) -> HandlerConfig:
    """A handler at /x with a benchmark, unless ``fields`` say otherwise."""
    benchmark = BenchmarkConfig(dataset=[PAYLOAD], runs=1, concurrency=1)
    return HandlerConfig(**{"route": "/x", "benchmark_config": benchmark, **fields})


def config_for(model: Model, *handlers: HandlerConfig, **fields: Any) -> WorkerConfig:
    defaults: dict[str, Any] = {
        "model_server_url": "http://127.0.0.1",
        "model_server_port": model.port,
        "model_log_file": str(model.log),
        "model_healthcheck_url": "/health",
        "handlers": list(handlers) or [handler()],
        "log_action_config": LogActionConfig(
            on_load=["model loaded"], on_error=["Error:"], on_info=["info:"]
        ),
    }
    return WorkerConfig(**{**defaults, **fields})


Start = Callable[..., Awaitable[System]]


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    async with LocalEngine(EngineOptions(port=0)) as running:
        yield running


@pytest.fixture
async def model(tmp_path: Path) -> AsyncIterator[Model]:
    running = Model(tmp_path)
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def start(engine: LocalEngine, model: Model, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a worker: ``await start(config, SETTING="value")``. Ready before it is returned, unless ``ready=False``."""
    async with AsyncExitStack() as stack:

        async def begin(
            config: WorkerConfig | None = None, *, ready: bool = True, **environment: str
        ) -> System:
            system = await stack.enter_async_context(
                running(config or config_for(model), engine, model, tmp_path, environment)
            )
            if ready:
                await system.until_state("ready")
            return system

        yield begin


@asynccontextmanager
async def running(
    config: WorkerConfig,
    engine: LocalEngine,
    model: Model,
    folder: Path,
    environment: dict[str, str],
    *,
    sign: Callable[[str], str] | None = None,
) -> AsyncIterator[System]:
    """A worker in this process, until the context is left."""
    port = free_port()
    settings = Settings.from_env(
        {
            "CONTAINER_ID": "7",
            "MASTER_TOKEN": "master-token",
            "REPORT_ADDR": engine.url,
            "WORKER_PORT": str(port),
            "PUBLIC_IPADDR": "127.0.0.1",
            f"VAST_TCP_PORT_{port}": str(port),
            "WORKSPACE_DIR": str(folder),
            "BENCHMARK_PERF": "1000",
            **environment,
        }
    )
    stop, cut = asyncio.Event(), asyncio.Event()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        client = Client(session, settings.public_url, sign or engine.keys.sign)
        task = group.create_task(Worker(config, settings=settings).serve(stop, cut))
        yield System(engine, model, session, client, settings, stop, cut, task)
        stop.set()
        cut.set()
