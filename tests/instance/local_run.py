"""Runs of local mode for tests: on ports of their own, ended with everything they started."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.system import free_port


@dataclass
class LocalRun:
    """A running `pyworker up` in local mode, and what it has printed so far."""

    process: asyncio.subprocess.Process
    folder: Path
    worker_port: int
    engine_port: int
    model_port: int
    printed: str = ""
    _read: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    async def read(self) -> None:
        assert self.process.stdout is not None
        while chunk := await self.process.stdout.read(4096):
            self.printed += chunk.decode("utf-8", "replace")
            self._read.set()
        self._read.set()

    async def until_printed(self, pattern: str, within: float = 60.0) -> None:
        try:
            async with asyncio.timeout(within):
                while not re.search(pattern, self.printed):
                    assert self.process.returncode is None, self.printed
                    self._read.clear()
                    await self._read.wait()
        except TimeoutError:
            pytest.fail(f"{pattern!r} was not printed in {within} s:\n{self.printed}")

    def children(self) -> dict[str, psutil.Process]:
        """The started processes by what they are."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            line = " ".join(child.cmdline())
            name = "model server" if "demo_model" in line else "engine" if "engine" in line else "worker"
            found[name] = child
        return found

    async def ended(self, within: float = 60.0) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def local_run(
    folder: Path, *options: str, command: tuple[str, ...] = (), **environ: str
) -> AsyncIterator[LocalRun]:
    """Start local mode with its work folder in ``folder``; ``command`` stands in place of `python -m pyworker up`."""
    worker, engine, model = free_port(), free_port(), free_port()
    ports = ["--worker-port", str(worker), "--engine-port", str(engine), "--model-port", str(model)]
    process = await asyncio.create_subprocess_exec(
        *(command or (sys.executable, "-m", "pyworker", "up")), *ports, *options,
        env={**os.environ, "WORKSPACE_DIR": str(folder), **environ},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    run = LocalRun(process, folder, worker, engine, model)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(run.read())
        try:
            yield run
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
                try:
                    await run.ended(40)
                except TimeoutError:
                    process.kill()
            await reading
