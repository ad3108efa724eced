"""Whatever is wrong with the journal costs a warning, never the start: real processes on real file systems."""

import asyncio
import json
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.engine.scripted_engine import engine_up
from tests.processes import environment
from tests.system import Client, eventually, free_port

WORKER = """
from pyworker import HandlerConfig, Worker, WorkerConfig

async def call(**_):
    return 1

Worker(WorkerConfig(handlers=[HandlerConfig(route="/x", remote_function=call, allow_parallel_requests=True)])).run()
"""
HEAD = struct.pack("<8sQQddd", b"PYWJRNL1", 9, 3, 1.0, 0.0, 0.0).ljust(64, b"\0")


def mounts() -> bool:
    """Whether a process here can have mounts of its own."""
    unshare = shutil.which("unshare")
    tried = [unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"] if unshare else ["false"]
    return subprocess.run(tried, check=False, capture_output=True).returncode == 0


@asynccontextmanager
async def worker(
    folder: Path, environ: dict[str, str], mount: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker with the work folder ``folder``, in which ``mount`` (a shell command) was run before."""
    (folder.parent / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "pyworker", "run", "worker.py"]
    if mount:
        command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", *command]
    with (folder.parent / "worker.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder.parent, env=environ, stderr=log)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def content(text: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / "journal").write_bytes(text)
        return ""

    return make


def a_folder(folder: Path) -> str:
    (folder / "journal").mkdir()
    return ""


def full(folder: Path) -> str:
    return f"mount -t tmpfs -o size=64k tmpfs {folder}"


def full_with_one(folder: Path) -> str:
    """A predecessor's journal, with one request in flight, on a disk that has no room for another."""
    slots = 104_000
    slot = struct.pack("<QqdddB7x", 1, 77, 1.0, 1.0, 0.0, 1)
    head = struct.pack("<8sQQddd", b"PYWJRNL1", 9, slots, 1.0, 0.0, 0.0).ljust(64, b"\0")
    (folder.parent / "old").write_bytes(head + slot + bytes(48 * (slots - 1)))
    return f"mount -t tmpfs -o size=5500k tmpfs {folder} && cp {folder.parent / 'old'} {folder}/journal"


def read_only(folder: Path) -> str:
    return f"mount -t tmpfs -o size=64k,ro tmpfs {folder}"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (content(HEAD + bytes(10)), "journal is torn or not ours"),
        (content(HEAD + bytes(3 * 48 - 1)), "journal is torn or not ours"),
        (content(b"#!/bin/sh\n" * 100), "journal is torn or not ours"),
        (a_folder, "no journal: "),
        pytest.param(full, "/journal: No space left on device", marks=pytest.mark.skipif(not mounts(), reason="no mounts here")),
        pytest.param(read_only, "/journal: Read-only file system", marks=pytest.mark.skipif(not mounts(), reason="no mounts here")),
    ],
    ids=["torn", "truncated", "foreign", "a_folder", "full", "read_only"],
)  # fmt: skip
async def test_a_bad_journal_costs_a_warning(
    engine: Any, tmp_path: Path, make: Callable[[Path], str], told: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    port = free_port()
    environ = environment(engine.url, port, folder, BENCHMARK_PERF="1000")
    async with worker(folder, environ, make(folder)) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        async with aiohttp.ClientSession() as session:
            client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
            async with session.get(f"http://127.0.0.1:{port + 2}/pyworker/status") as answer:
                warnings = " ".join((await answer.json())["warnings"])

            assert await client.status() == 200
            assert ("no journal" in warnings) == (told != "journal is torn or not ours")
        await eventually(lambda: len(engine.ended) == 1)
        process.send_signal(signal.SIGTERM)

        assert await process.wait() == 0
    log = (tmp_path / "worker.log").read_text()
    assert log.count(told) == 1
    assert "Traceback" not in log


@pytest.mark.skipif(not mounts(), reason="no mounts here")
@pytest.mark.parametrize("size", ["5242880", "50000000"], ids=["in_its_place", "in_memory"])
async def test_what_was_left_on_a_disk_that_is_full_is_delivered(
    engine: Any, tmp_path: Path, size: str
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    environ = environment(engine.url, free_port(), folder, BENCHMARK_PERF="1000", JOURNAL_MAX_SIZE=size)
    async with worker(folder, environ, full_with_one(folder)) as process:
        await eventually(lambda: engine.ended, within=20)

        assert [(77, "Error")] == [(end.request_idx, end.status) for end in engine.ended]

        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    log = (tmp_path / "worker.log").read_text()
    assert "undelivered_ends=1 cut_off=1" in log
    assert ("no journal" in log) == (size == "50000000")


async def test_past_its_size_the_oldest_ends_are_given_up_loudly(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    port = free_port()
    async with engine_up() as engine:
        environ = environment(
            engine.url, port, folder, BENCHMARK_PERF="1e9", UNSECURED="true", JOURNAL_MAX_SIZE="16384"
        )
        async with worker(folder, environ), aiohttp.ClientSession() as session:
            await eventually(lambda: engine.statuses and engine.statuses[-1]["loadtime"] > 0, within=20)
            engine.status = 500
            client = Client(session, f"http://127.0.0.1:{port}", str)
            for _ in range(400):
                assert await client.status() == 200
            async with session.get(f"http://127.0.0.1:{port + 2}/pyworker/status") as answer:
                found = await answer.json()
            engine.status = 200
            await eventually(lambda: len(engine.ends) == 340, within=20)
            await eventually(lambda: engine.sum("cur_perf") == 40_000.0, within=20)

    assert (folder / "journal").stat().st_size <= 16384
    assert [1061 + number for number in range(340)] == [end["request_idx"] for end in engine.ends]
    assert any("60 ended requests were given up, as more than 340 waited" in one for one in found["warnings"])
    assert (tmp_path / "worker.log").read_text().count("the oldest are given up from now on") == 1
    assert json.dumps(found)
