"""Workers and commands as processes of their own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

WORKER_FILE = """
from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig
config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    handlers=[HandlerConfig(route="/x", benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=1))],
)
"""


def environment(system_url: str, port: int, folder: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "CONTAINER_ID": "9",
        "MASTER_TOKEN": "t",
        "REPORT_ADDR": system_url,
        "WORKER_PORT": str(port),
        "PUBLIC_IPADDR": "127.0.0.1",
        f"VAST_TCP_PORT_{port}": str(port),
        "WORKSPACE_DIR": str(folder),
        **more,
    }


def run(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker", *arguments],
        cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@asynccontextmanager
async def started(
    folder: Path, environ: dict[str, str], text: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`pyworker run` of a file with this text, its log in worker.log."""
    (folder / "worker.py").write_text(text)
    with (folder / "worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pyworker", "run", "worker.py", cwd=folder, env=environ, stderr=log
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
