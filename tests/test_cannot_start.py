"""A worker that cannot start: one clear message on stderr, and the same to the engine every ten seconds."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path
from typing import Final

import pytest

from tests.engine.scripted_engine import engine_up
from tests.processes import WORKER_FILE, environment, started
from tests.system import eventually, free_port

GOOD: Final = WORKER_FILE.format(port=1)
RAISES: Final = "import os\nraise RuntimeError('cannot reach the hub with ' + os.environ['HF_TOKEN'])\n"
SETTINGS: Final = {"DRAIN_TIMEOUT": "soon", "REPORT_ADDR": "{engine},ftp://user:veryprivate@host"}
TLS: Final = {"USE_SSL": "true", "SSL_CERT_FILE": "instance.crt", "SSL_KEY_FILE": "instance.key"}

CASES: Final = {
    "exception": (RAISES, {"HF_TOKEN": "hf_veryprivate0123456789"}, "RuntimeError: cannot reach the hub with ***"),
    "exit": ("import sys\nsys.exit('no weights here')\n", {}, "SystemExit: no weights here"),
    "syntax": ("def broken(:\n", {}, "SyntaxError: invalid syntax"),
    "configuration": ("from pyworker import HandlerConfig\nHandlerConfig(route='x')\n", {}, "HandlerConfig.route='x'"),
    "settings": (GOOD, SETTINGS, "DRAIN_TIMEOUT='soon': must be a number"),
    "port": (GOOD, {"HOLD": "0"}, "is taken by pid {pid} ("),
    "http_port": (GOOD, {"HOLD": "1"}, "is taken by pid {pid} ("),
    "admin_port": (GOOD, {"HOLD": "2"}, "is taken by pid {pid} ("),
    "certificate": (GOOD, TLS, "TLS: certificate instance.crt holds no certificate"),
}  # fmt: skip


@pytest.mark.timeout(90)
async def test_what_is_wrong_is_said_once_and_told_every_ten_seconds(tmp_path: Path) -> None:
    """All cases at once, as each takes more than ten seconds."""
    (tmp_path / "certificate").mkdir()
    for name in ("instance.crt", "instance.key"):
        (tmp_path / "certificate" / name).write_text("no PEM veryprivate")
    async with asyncio.TaskGroup() as group:
        for name in CASES:
            group.create_task(_said_and_told(name, tmp_path / name))


async def _said_and_told(name: str, folder: Path) -> None:
    text, more, message = CASES[name]
    folder.mkdir(exist_ok=True)
    port = free_port()
    with socket.socket() as holder:
        if "HOLD" in more:
            holder.bind(("", port + int(more["HOLD"])))
            holder.listen()
        async with engine_up() as engine:
            environ = environment(engine.url, port, folder)
            environ.update({key: value.format(engine=engine.url) for key, value in more.items()})
            async with started(folder, environ, text) as process:
                told = message.format(pid=os.getpid())
                await eventually(lambda: any(told in one["error_msg"] for one in engine.statuses), within=40)
                first = len(engine.at)
                await eventually(lambda: len(engine.at) >= first + 2, within=45)
                gap = engine.at[-1] - engine.at[-2]
                reports = engine.statuses[first:]
                assert process.returncode is None

                process.send_signal(signal.SIGTERM)
                status = await process.wait()
    log = (folder / "worker.log").read_text()

    assert all(told in one["error_msg"] for one in reports)
    assert 9 < gap < 12
    assert {(one["id"], one["mtoken"]) for one in reports} == {(9, "t")}
    assert len(reports[0]["error_msg"]) <= 500
    assert status == (0 if name == "certificate" else 1)
    starts = [line for line in log.splitlines() if re.search("cannot start: |worker errored: ", line)]
    assert len(starts) == 1
    assert told in starts[0]
    assert "veryprivate" not in log + str(engine.statuses)


async def test_a_file_that_ends_well_without_a_worker_is_left_alone(tmp_path: Path) -> None:
    environ = environment("http://127.0.0.1:9", free_port(), tmp_path)
    async with started(tmp_path, environ, "raise SystemExit(0)\n") as process:
        assert await process.wait() == 0
