"""Instance mode: worker and model server side by side, each started again when it ends."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pyworker.instance.process import Part
from pyworker.instance.unattended import PAUSES, keep
from tests.system import eventually, free_port

MODEL_SERVER = """
import http.server, sys

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply(b"ok")

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(b'{"usage": {}}')

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("model loaded", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@asynccontextmanager
async def instance(engine: Any, folder: Path, **more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    port, model_port = free_port(), free_port()
    server = folder / "server.py"
    server.write_text(MODEL_SERVER)
    environment = {
        **os.environ,
        "CONTAINER_ID": "9",
        "MASTER_TOKEN": "t",
        "REPORT_ADDR": engine.url,
        "WORKER_PORT": str(port),
        "PUBLIC_IPADDR": "127.0.0.1",
        f"VAST_TCP_PORT_{port}": str(port),
        "WORKSPACE_DIR": str(folder),
        "BACKEND": "llama",
        "MODEL_SERVER_PORT": str(model_port),
        "MODEL_SERVER_CMD": f"{sys.executable} {server} {model_port}",
        "BENCHMARK_RUNS": "1",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pyworker", "up", env=environment, cwd=folder, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def children(process: asyncio.subprocess.Process) -> dict[str, psutil.Process]:
    found = {}
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            found["worker" if "pyworker" in child.cmdline() else "model server"] = child
    return found


@pytest.mark.timeout(60)
async def test_both_run_each_comes_back_alone_and_sigterm_ends_both(engine: Any, tmp_path: Path) -> None:
    async with instance(engine, tmp_path) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        first = children(process)
        first["worker"].kill()
        await eventually(lambda: children(process).get("worker") not in (None, first["worker"]), within=10)

        assert children(process)["model server"] == first["model server"]

        reports = len(engine.reports)
        await eventually(lambda: len(engine.reports) > reports and engine.reports[-1].loadtime > 0, within=20)
        worker = children(process)["worker"]
        first["model server"].kill()
        await eventually(
            lambda: children(process).get("model server") not in (None, first["model server"]), within=10
        )

        assert children(process)["worker"] == worker

        await eventually(lambda: "model loaded" in (tmp_path / "model.log").read_text())
        everyone = children(process)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()

        assert process.returncode == 0
        assert b"model server (pid" in log
        assert b"killed by SIGKILL" in log
        assert not any(child.is_running() for child in everyone.values())
        assert "left: everything is reported" in (tmp_path / "pyworker.log").read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"BACKEND": ""}, b"BACKEND is not set"),
        ({"BACKEND": "nosuch"}, b"BACKEND='nosuch': there is no handlers/nosuch.py"),
    ],
    ids=["unset", "unknown"],
)
async def test_without_a_handler_it_says_so(
    engine: Any, tmp_path: Path, setting: dict[str, str], message: bytes
) -> None:
    async with instance(engine, tmp_path, **setting) as process:
        _, log = await process.communicate()

    assert process.returncode == 2
    assert message in log


async def test_what_cannot_be_started_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyworker.instance.unattended.PAUSES", (0.01, 0.02))
    part = Part("model server", [str(tmp_path / "nosuch")], environment={}, log=tmp_path / "log")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keep(part))
        await eventually(lambda: len(caplog.messages) >= 3)
        task.cancel()

    assert (
        caplog.messages[0]
        == f"model server cannot be started: {tmp_path}/nosuch: No such file or directory; started again in 0.01 s"
    )
    assert caplog.messages[2].endswith("started again in 0.02 s")
    assert list(PAUSES) == sorted(PAUSES)


async def test_a_server_that_exits_with_zero_and_leaves_orphans_is_rid_of_them_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As vLLM does when its engine core has been killed."""
    monkeypatch.setattr("pyworker.instance.unattended.PAUSES", (0.01,))
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "open(sys.argv[1], 'a').write(f'{child.pid}\\n')\n"
        "os._exit(0)\n"
    )
    pids = tmp_path / "pids"
    part = Part("model server", [sys.executable, "-c", code, str(pids)], environment={}, log=tmp_path / "log")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keep(part))
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) >= 3)
        task.cancel()
    await part.stop(0)

    assert any("exited with 0" in message for message in caplog.messages)
    for pid in pids.read_text().split():
        await eventually(
            lambda pid=pid: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie"  # type: ignore[misc] # bound at once
        )


async def test_an_epitaph_names_the_likely_cause(tmp_path: Path) -> None:
    code = "import sys; print('fine'); print('Error: no such model'); print('bye'); sys.exit(3)"
    part = Part("model server", [sys.executable, "-c", code], environment={}, log=tmp_path / "log")
    (tmp_path / "log").write_text("old")
    await part.start()
    told = part.epitaph(await part.ended())

    assert told == f"model server (pid {part.pid}) exited with 3: Error: no such model [{tmp_path}/log]"
    assert (tmp_path / "log.old").read_text() == "old"


async def test_other_epitaphs(tmp_path: Path) -> None:
    part = Part("worker", [sys.executable, "-c", "pass"], environment={}, log=tmp_path / "log")
    await part.stop(1)  # never started: nothing to do
    await part.start()
    await part.ended()

    assert (
        part.epitaph(-signal.SIGILL)
        == "worker killed by SIGILL: this CPU lacks instructions it was compiled for"
    )
    assert "its log says nothing" in part.epitaph(1)

    (tmp_path / "log").unlink()

    assert "its log says nothing" in part.epitaph(1)


async def test_who_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    part = Part("model server", [sys.executable, "-c", code], environment={}, log=tmp_path / "log")
    await part.start()
    await eventually(lambda: (tmp_path / "log").read_text().strip())
    child = psutil.Process(int((tmp_path / "log").read_text()))
    await part.stop(0.1)
    await eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
