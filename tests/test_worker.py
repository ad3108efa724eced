"""The worker as a whole: ports, drain, signals, what it says when it cannot start."""

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.certificates import make_certificate
from tests.system import Model, Start, System, config_for, eventually, free_port, handler

WORKER_FILE = """
from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig
config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    handlers=[HandlerConfig(route="/x", benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=1))],
)
"""
RUNS_ITSELF = "Worker(config).run()\n"
ONLY_AS_MAIN = 'if __name__ == "__main__":\n    Worker(config).run()\n'


async def test_drain_finishes_what_runs_refuses_what_comes_and_reports_all(
    start: Start, model: Model
) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="done")

    system = await start(config_for(model, handler(max_queue_time=None)))
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        running = group.create_task(system.client.status())
        await system.until_in_flight(1)
        queued = group.create_task(system.client.status())
        await system.until_in_flight(2)
        system.stop.set()
        await system.until_state("draining")
        async with system.client.post() as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert "draining" in (await answer.json())["error"]
        release.set()
    assert system.task is not None
    await system.task

    assert (running.result(), queued.result()) == (200, 200)
    assert sorted(end.status for end in system.engine.ended) == ["Rejected", "Success", "Success"]
    assert sum(report.cur_perf for report in system.engine.reports) == 200.0
    assert system.engine.reports[-1].cur_load == 0
    assert system.engine.reports[-1].error_msg == "draining: this worker was told to stop"


@pytest.mark.parametrize("by", ["timeout", "second_signal"])
async def test_what_cannot_finish_is_cut_and_reported_as_an_error(
    start: Start, model: Model, by: str
) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    system = await start(DRAIN_TIMEOUT="0.2" if by == "timeout" else "100")
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_survive(system))
        await system.until_in_flight(1)
        system.stop.set()
        if by == "second_signal":
            system.cut.set()
    assert system.task is not None
    await system.task

    assert task.result() is None
    assert ["Error"] == [end.status for end in system.engine.ended]
    assert model.cancelled == 1


async def _survive(system: System) -> int | None:
    """The status of a request; None when the connection was cut."""
    try:
        return await system.client.status()
    except aiohttp.ClientError:
        return None


async def test_tls_is_served_once_the_certificate_is_there_and_its_absence_is_reported(
    start: Start, model: Model, tmp_path: Path
) -> None:
    cert, key = tmp_path / "instance.crt", tmp_path / "instance.key"
    system = await start(ready=False, USE_SSL="true", SSL_CERT_FILE=str(cert), SSL_KEY_FILE=str(key))
    await eventually(
        lambda: system.engine.reports and "TLS certificate" in system.engine.reports[-1].error_msg
    )

    assert str(cert) in system.engine.reports[-1].error_msg

    make_certificate(cert, key)
    await system.until_state("ready")
    trusting = ssl.create_default_context(cafile=str(cert))
    assert system.client.url.startswith("https://")
    async with system.client.post(ssl=trusting) as answer:
        assert answer.status == 200


async def test_the_admin_port_tells_health_and_readiness(start: Start, model: Model) -> None:
    model.health = 503
    system = await start(ready=False)
    await system.until_state("loading")
    admin = f"http://127.0.0.1:{system.settings.admin_port}"

    async def get(path: str) -> tuple[int, dict[str, Any]]:
        async with system.session.get(admin + path) as answer:
            return answer.status, await answer.json()

    assert await get("/healthz") == (200, {"ok": True})
    status, told = await get("/readyz")
    assert (status, told["ready"]) == (503, False)
    assert "waiting for the model server" in told["why"]
    assert (await get("/nosuch"))[0] == 404

    model.health = 200
    await system.until_state("ready")

    assert await get("/readyz") == (200, {"ready": True, "why": ""})


async def test_no_secret_is_in_status(start: Start) -> None:
    system = await start()
    auth = system.client.auth()
    await system.client.status(body={"auth_data": auth, "payload": {"prompt": "very private"}})
    text = json.dumps(await system.status())

    for secret in ("master-token", auth["signature"], "very private"):
        assert secret not in text


# As a process...


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


@pytest.mark.parametrize(
    "ending", ["", RUNS_ITSELF, ONLY_AS_MAIN], ids=["config", "runs_itself", "only_as_main"]
)
async def test_a_worker_file_runs_and_sigterm_drains_it(
    engine: Any, model: Model, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / "worker.py"
    file.write_text(WORKER_FILE.format(port=model.port) + ending)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pyworker", "run", str(file),
        env=environment(engine.url, free_port(), tmp_path), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0
    assert b"left: everything is reported" in log
    assert b" t " not in log


def run(*arguments: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyworker", *arguments],
        cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


def test_a_wrong_environment_is_told_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER_FILE.format(port=1))
    ended = run("run", "worker.py", folder=tmp_path, CONTAINER_ID="x", WORKER_PORT="0")

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[:2] == [
        "pyworker: WORKER_PORT='0': must be a port, 1 to 65535",
        "pyworker: PUBLIC_IPADDR is not set: clients would not know where this worker is",
    ]


@pytest.mark.parametrize(
    ("what", "text", "message"),
    [
        ("nosuch.py", "", "there is no file nosuch.py"),
        ("no.such.module", "", "there is no module no.such.module"),
        ("worker.py", "x = 1\n", "worker.py starts no worker and defines no `config = WorkerConfig(...)`"),
        (
            "worker.py",
            "from pyworker import HandlerConfig\nHandlerConfig(route='x')\n",
            "HandlerConfig.route='x'",
        ),
    ],
    ids=["no_file", "no_module", "no_worker", "wrong_config"],
)
def test_what_cannot_be_run_is_said_in_one_line(tmp_path: Path, what: str, text: str, message: str) -> None:
    (tmp_path / "worker.py").write_text(text)
    ended = run("run", what, folder=tmp_path)

    assert ended.returncode == 2
    assert ended.stderr.startswith("pyworker: ")
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


async def test_a_taken_port_is_named_with_who_holds_it(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER_FILE.format(port=1))
    port = free_port()
    with socket.socket() as holder:
        holder.bind(("", port))
        holder.listen()
        ended = await asyncio.to_thread(
            run, "run", "worker.py", folder=tmp_path, **environment(engine.url, port, tmp_path)
        )

    assert ended.returncode == 2
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("pyworker: ")]
    assert line.startswith(f"pyworker: port {port} is taken by pid {os.getpid()} (")


def test_status_without_a_worker_says_so(tmp_path: Path) -> None:
    port = free_port()
    ended = run("status", "--admin-port", str(port), folder=tmp_path)

    assert ended.returncode == 2
    assert f"no worker answers on admin port {port}" in ended.stderr


async def test_status_of_a_running_worker(start: Start, tmp_path: Path) -> None:
    system = await start()
    port = str(system.settings.admin_port)
    shown = await asyncio.to_thread(run, "status", "--admin-port", port, folder=tmp_path)
    as_json = await asyncio.to_thread(run, "status", "--json", "--admin-port", port, folder=tmp_path)

    assert shown.returncode == 0
    assert "READY" in shown.stdout
    assert "1000.0 load/s" in shown.stdout
    assert json.loads(as_json.stdout)["state"] == "ready"


async def test_status_of_a_worker_that_is_not_ready_says_why(
    start: Start, model: Model, tmp_path: Path
) -> None:
    model.health = 503
    system = await start(ready=False, UNSECURED="true")
    await system.until_state("loading")
    shown = await asyncio.to_thread(
        run, "status", "--admin-port", str(system.settings.admin_port), folder=tmp_path
    )

    assert shown.returncode == 1
    assert "LOADING" in shown.stdout
    assert "waiting for the model server" in shown.stdout
    assert "UNSECURED" in shown.stdout
