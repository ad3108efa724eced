"""Local mode: the whole serverless system on this machine, with real parts.

Life of a run: look whether it can work at all; start model server, engine and worker; watch until the engine says the
worker is Ready; ask one question the official way; tell what to try next; stay up until told to stop.
"""

import asyncio
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console

from pyworker.instance import demo_model
from pyworker.instance.ask import AskError, chat
from pyworker.instance.process import Part
from pyworker.local_engine.serve import EngineOptions
from pyworker.server.ports import PortTaken, require_free
from pyworker.settings import VARIABLES, WORKER_PORT

ENDPOINT: Final = EngineOptions().endpoint
API_KEY: Final = EngineOptions().api_key
PROMPT: Final = "In one sentence, what is a lighthouse for?"
MAX_TOKENS: Final = 48
HANDLER_SETTINGS: Final = frozenset({"MODEL_SERVER_URL", "MODEL_SERVER_PORT"})
READY_TIMEOUT: Final = 300.0
ANSWER_TIMEOUT: Final = 120.0
POLL: Final = 0.1
INTERRUPTED: Final = 130
"""Exit status of a run stopped before it had shown anything, as shells have it for Ctrl-C."""

_FIGURES: Final = re.compile(r"[\d.]+|\(.*\)")

DRAIN: Final = 30.0
"""Seconds the worker may take to finish what runs, on Ctrl-C."""


NEXT: Final = """
Try next, in another terminal

  a request by hand: a grant from the engine, then the request with the grant in a header
    curl -sN {worker}/v1/chat/completions \\
      -H "X-Auth-Data: $(curl -s {engine}/route/ -d '{{"endpoint":"{endpoint}","api_key":"{key}","cost":64}}' | base64 | tr -d '\\n')" \\
      -d '{{"messages":[{{"role":"user","content":"Hello!"}}],"max_tokens":64,"stream":true}}'

  the official SDK (pip install vastai==1.9.1, in an environment of its own)
    import asyncio; from vastai import CoroutineServerless
    CoroutineServerless.SSL_CERT_URL = "{engine}/static/jvastai_root.cer"
    async def main():
        async with CoroutineServerless("{key}", autoscaler_url="{engine}", webserver_url="{engine}") as client:
            endpoint = await client.get_endpoint("{endpoint}")
            payload = {{"messages": [{{"role": "user", "content": "Hello!"}}], "max_tokens": 64}}
            print((await endpoint.request("/v1/chat/completions", payload, cost=64))["response"])
    asyncio.run(main())

  what the worker is doing
    {status}
"""


class LocalError(Exception):
    """Local mode cannot go on; one line that says why."""


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What can be chosen about a local run."""

    folder: Path
    worker_port: int = WORKER_PORT
    engine_port: int = 8080
    model_port: int = 18000
    once: bool = False

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    @property
    def admin_port(self) -> int:
        return self.worker_port + 2


async def run(options: LocalOptions, environment: dict[str, str], console: Console) -> int:
    """Run local mode; the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    local = Local(options, environment, console)
    try:
        async with local.running():
            return await local.until(stop)
    except (LocalError, PortTaken, demo_model.Unavailable) as error:
        console.print(f"error: {error}", style="bold red", markup=False, highlight=False, soft_wrap=True)
        return 1


class Local:
    """One run of local mode."""

    def __init__(self, options: LocalOptions, environment: dict[str, str], console: Console) -> None:
        self._options = options
        self._environment = environment
        self._console = console
        self._began = time.monotonic()
        self.parts: list[Part] = []

    # Starting and stopping...

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Model server, engine and worker up; on the way out the worker drains first, the model server goes last."""
        self._look_before()
        with _only_one(self._options.folder):
            self.parts = self._plan()
            self._introduce()
            try:
                for part in self.parts:
                    await part.start()
                yield
            finally:
                for part in reversed(self.parts):
                    await part.stop(DRAIN + 5.0 if part.name == "worker" else 5.0)

    def _look_before(self) -> None:
        demo_model.check_cpu()
        demo_model.model_file()
        options = self._options
        require_free(options.model_port, "model server", "--model-port")
        require_free(options.engine_port, "engine", "--engine-port")
        for port in range(options.worker_port, options.worker_port + 3):
            require_free(port, "worker", "--worker-port")

    def _plan(self) -> list[Part]:
        options, folder = self._options, self._options.folder
        ours = {
            variable.name for variable in VARIABLES
        } | HANDLER_SETTINGS  # what the caller set is not for these
        common = {name: value for name, value in self._environment.items() if name not in ours}
        common["PYTHONUNBUFFERED"] = "1"
        pyworker = [sys.executable, "-m", "pyworker", "--parent", str(os.getpid())]
        model = [
            sys.executable,
            "-m",
            "pyworker.instance.demo_model",
            str(demo_model.model_file()),
            demo_model.MODEL_NAME,
        ]
        engine = [
            *pyworker,
            "engine",
            "--port",
            str(options.engine_port),
            "--data-dir",
            str(folder / "engine"),
        ]
        model_log = folder / "model.log"
        worker = {
            "CONTAINER_ID": "1",
            "MASTER_TOKEN": "local",
            "REPORT_ADDR": options.engine_url,
            "WORKER_PORT": str(options.worker_port),
            "PUBLIC_IPADDR": "127.0.0.1",
            f"VAST_TCP_PORT_{options.worker_port}": str(options.worker_port),
            "USE_SSL": "false",
            "WORKSPACE_DIR": str(folder),
            "MODEL_LOG": str(model_log),
            "MODEL_SERVER_PORT": str(options.model_port),
            "MODEL_NAME": demo_model.MODEL_NAME,
            "BENCHMARK_RUNS": "2",
            "BENCHMARK_CONCURRENCY": "2",
            "BENCHMARK_TOKENS": "32",
            "DRAIN_TIMEOUT": str(DRAIN),
        }
        return [
            Part(
                "model server",
                [*model, str(options.model_port), str(os.getpid())],
                environment=common,
                log=model_log,
            ),
            Part("engine", engine, environment=common, log=folder / "engine.log"),
            Part(
                "worker",
                [*pyworker, "run", "handlers.llama"],
                environment={**common, **worker},
                log=folder / "worker.log",
            ),
        ]

    def _introduce(self) -> None:
        options = self._options
        addresses = {
            "model server": f"http://127.0.0.1:{options.model_port}  llama.cpp, {demo_model.MODEL_NAME}",
            "engine": options.engine_url,
            "worker": f"http://127.0.0.1:{options.worker_port}",
        }
        self._say("PyWorker local mode: the whole serverless system on this machine, with real parts")
        for part in self.parts:
            self._say(f"  {part.name:<13} {addresses[part.name]:<58} log {part.log}")
        self._say("")

    # The run...

    async def until(self, stop: asyncio.Event) -> int:
        """Show the system working; then stay until ``stop``, or return at once with ``once``. Raises `LocalError`."""
        async with asyncio.TaskGroup() as group:
            work = group.create_task(self._show())
            deaths = {part.name: group.create_task(part.ended()) for part in self.parts}
            stopped = group.create_task(_set(stop))
            trouble = await self._trouble(work, deaths, stopped)
            for task in (work, stopped, *deaths.values()):
                task.cancel()
        if trouble:
            raise LocalError(trouble)
        return 0 if work.done() and not work.cancelled() else INTERRUPTED

    async def _trouble(
        self, work: asyncio.Task[str], deaths: dict[str, asyncio.Task[int]], stopped: asyncio.Task[None]
    ) -> str:
        """What went wrong until the run was over; empty when it ended as it should."""
        for awaited in ({work}, set()):
            waiting: set[asyncio.Task[Any]] = {*awaited, stopped, *deaths.values()}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                self._say("\nstopping: the worker finishes what runs, then everything ends")
                return ""
            dead = next((part for part in self.parts if deaths[part.name].done()), None)
            if dead is not None:
                return dead.epitaph(deaths[dead.name].result())
            if work.result() or self._options.once:
                return work.result()
            self._say("It stays up until you press Ctrl-C.")
        return ""

    async def _show(self) -> str:
        """The demonstration; returns what went wrong, or nothing."""
        try:
            async with aiohttp.ClientSession() as session:
                status = await self._ready(session)
                await self._ask(session)
        except LocalError as error:
            return str(error)
        self._tell_next(status)
        return ""

    async def _ready(self, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Wait until the engine says Ready, showing what the worker does meanwhile; the worker's status then."""
        told = ""
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while await self._state_at_engine(session) != "idle":
                    status = (
                        await _fetch(session, f"http://127.0.0.1:{self._options.admin_port}/pyworker/status")
                        or status
                    )
                    now = f"{status.get('state', 'starting')}: {status.get('why') or 'under way'}"
                    if _FIGURES.sub("", now) != _FIGURES.sub(
                        "", told
                    ):  # not a line for every run, try or percent
                        told = now
                        self._step(f"worker {now}")
                    await asyncio.sleep(POLL)
        except TimeoutError as error:
            raise LocalError(f"the worker is not ready after {READY_TIMEOUT:g} s; it says: {told}") from error
        status = (
            await _fetch(session, f"http://127.0.0.1:{self._options.admin_port}/pyworker/status") or status
        )
        self._step(
            f"the engine says the worker is Ready: perf {status['perf']:.1f} load/s (here: tokens per second)"
        )
        return status

    async def _state_at_engine(self, session: aiohttp.ClientSession) -> str:
        url = f"{self._options.engine_url}/get_endpoint_workers/"
        try:
            async with session.post(url, json={"id": 1, "api_key": API_KEY}) as answer:
                workers = await answer.json()
        except (aiohttp.ClientError, ValueError):
            return "starting"
        return workers[0]["status"] if isinstance(workers, list) and workers else "starting"

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        self._say("")
        self._say(f"you    {PROMPT}")
        self._console.print("model  ", end="")
        text = ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                async for piece in chat(
                    session,
                    engine=self._options.engine_url,
                    endpoint=ENDPOINT,
                    api_key=API_KEY,
                    prompt=PROMPT,
                    max_tokens=MAX_TOKENS,
                ):
                    text += piece
                    self._console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        except TimeoutError as error:
            raise LocalError(f"no whole answer in {ANSWER_TIMEOUT:g} s") from error
        except (AskError, aiohttp.ClientError) as error:
            raise LocalError(str(error)) from error
        self._say("")
        self._say("")
        if not text.strip():
            raise LocalError("the model server's answer was empty")

    def _tell_next(self, status: dict[str, Any]) -> None:
        options = self._options
        self._step(f"answered: perf {status['perf']:.1f} load/s, ready after {status['loadtime']:.1f} s")
        program = Path(sys.executable).with_name("pyworker")
        shown = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
        port = "" if options.worker_port == WORKER_PORT else f" --admin-port {options.admin_port}"
        self._say(
            NEXT.format(
                worker=f"http://127.0.0.1:{options.worker_port}",
                engine=options.engine_url,
                endpoint=ENDPOINT,
                key=API_KEY,
                status=f"{shown} status{port}",
            )
        )

    def _step(self, what: str) -> None:
        self._say(f"[{time.monotonic() - self._began:5.1f} s] {what}")

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run: two would move each other's logs. Raises `LocalError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LocalError(
                f"another local mode runs in {folder}: stop it, or set WORKSPACE_DIR to another folder"
            ) from error
        yield


async def _fetch(session: aiohttp.ClientSession, url: str) -> dict[str, Any] | None:
    """The JSON object at ``url``; None while nobody answers there."""
    try:
        async with session.get(url) as answer:
            found: dict[str, Any] = await answer.json()
            return found
    except (aiohttp.ClientError, ValueError):
        return None


async def _set(event: asyncio.Event) -> None:
    await event.wait()
