"""The worker as a whole: ports, drain, signals, what it says when it cannot start."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web

from pyworker.core.wire import WorkerStatus
from pyworker.engine.client import EngineClient
from pyworker.server import tls
from pyworker.server.tls import read_pair
from tests.certificates import make_certificate
from tests.engine.scripted_engine import Engine, engine_up
from tests.processes import WORKER_FILE, environment, run, started
from tests.scripted import Conversation, scripted
from tests.system import Client, Model, Start, System, config_for, eventually, free_port, handler, running

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
    await eventually(lambda: system.engine.reports and "TLS: " in system.engine.reports[-1].error_msg)

    assert str(cert) in system.engine.reports[-1].error_msg

    make_certificate(cert, key)
    await system.until_state("ready")
    trusting = ssl.create_default_context(cafile=str(cert))
    assert system.client.url.startswith("https://")
    async with system.client.post(ssl=trusting) as answer:
        assert answer.status == 200


async def test_the_engine_sends_nobody_before_the_port_is_open(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long reading the certificate takes."""
    cert, key = tmp_path / "instance.crt", tmp_path / "instance.key"
    make_certificate(cert, key)
    let_go = threading.Event()

    def slowly(*pair: Path) -> tls.Pair:
        let_go.wait(10)
        return read_pair(*pair)

    monkeypatch.setattr(tls, "read_pair", slowly)
    system = await start(ready=False, USE_SSL="true", SSL_CERT_FILE=str(cert), SSL_KEY_FILE=str(key))
    await system.until_state("confirming")
    await eventually(lambda: len(system.engine.reports) > 1)

    assert {report.loadtime for report in system.engine.reports} == {0.0}

    let_go.set()
    await system.until_state("ready")
    async with system.client.post(ssl=ssl.create_default_context(cafile=str(cert))) as answer:
        assert answer.status == 200


async def test_sigterm_is_heard_while_the_certificate_is_missing(start: Start, tmp_path: Path) -> None:
    missing = str(tmp_path / "nosuch")
    system = await start(ready=False, USE_SSL="true", SSL_CERT_FILE=missing, SSL_KEY_FILE=missing)
    found = await system.until_state("errored")

    assert found["why"] == f"TLS: certificate {missing} is missing"

    system.stop.set()
    assert system.task is not None
    async with asyncio.timeout(2):
        await system.task


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


def test_a_wrong_environment_is_told_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER_FILE.format(port=1))
    ended = run("run", "worker.py", folder=tmp_path, WORKER_PORT="0", DRAIN_TIMEOUT="soon")

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "pyworker: WORKER_PORT='0': must be a port, 1 to 65535",
        "pyworker: DRAIN_TIMEOUT='soon': must be a number",
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


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        (WORKER_FILE, {"DRAIN_TIMEOUT": "soon"}, "DRAIN_TIMEOUT='soon': must be a number"),
        ("x = 1", {}, "worker.py starts no worker"),
        ("import no_such_package", {}, "ModuleNotFoundError: No module named 'no_such_package'"),
    ],
    ids=["setting", "no_worker", "import"],
)
async def test_on_an_instance_a_worker_that_cannot_start_tells_the_engine_why(
    engine: Any, tmp_path: Path, text: str, more: dict[str, str], message: str
) -> None:
    environ = environment(engine.url, free_port(), tmp_path, **more)
    async with started(tmp_path, environ, text.format(port=1)) as process:
        await eventually(lambda: engine.reports, within=10)

        assert message in engine.reports[-1].error_msg
        assert (engine.reports[-1].id, engine.reports[-1].mtoken) == (9, "t")
        assert process.returncode is None

        process.send_signal(signal.SIGTERM)

        assert await process.wait() == 1
    assert message in (tmp_path / "worker.log").read_text()


async def test_a_taken_port_is_told_with_who_holds_it(engine: Any, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket() as holder:
        holder.bind(("", port))
        holder.listen()
        environ = environment(engine.url, port, tmp_path)
        async with started(tmp_path, environ, WORKER_FILE.format(port=1)):
            told = f"port {port} is taken by pid {os.getpid()} ("
            await eventually(lambda: engine.reports and told in engine.reports[-1].error_msg, within=10)


async def test_a_second_worker_beside_a_healthy_one_leaves(
    start: Start, model: Model, tmp_path: Path
) -> None:
    system = await start()
    folder = tmp_path / "second"
    folder.mkdir()
    environ = environment(system.engine.url, system.settings.worker_port, folder)
    async with started(folder, environ, WORKER_FILE.format(port=model.port)) as process:
        assert await process.wait() == 0

    assert "a healthy worker, so this one leaves" in (folder / "worker.log").read_text()
    assert (await system.status())["state"] == "ready"


async def test_kill_9_under_load_loses_no_request(engine: Any, model: Model, tmp_path: Path) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        if b"stuck" in await request.read():
            await asyncio.Event().wait()
        return web.Response(text="ok")

    model.respond = respond
    port = free_port()
    environ = environment(engine.url, port, tmp_path, BENCHMARK_PERF="1000")
    text = WORKER_FILE.format(port=model.port).replace(
        'route="/x"', 'route="/x", allow_parallel_requests=True'
    )
    async with aiohttp.ClientSession() as session:
        client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
        async with started(tmp_path, environ, text) as process:
            await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(_gone(client, {"prompt": "stuck"}))
                await eventually(lambda: model.working == 5)
                assert [200] * 20 == [await client.status() for _ in range(20)]
                process.kill()
                await process.wait()
        async with started(tmp_path, environ, text) as process:
            await eventually(lambda: len({end.request_idx for end in engine.ended}) == 25, within=20)
            await eventually(lambda: engine.reports[-1].loadtime > 0, within=20)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0

    cut = [end.request_idx for end in engine.ended if end.status == "Error"]
    assert sorted(cut) == [1001, 1002, 1003, 1004, 1005]
    assert sum(report.cur_perf for report in engine.reports) == 2000.0
    assert sum(report.new_load for report in engine.reports) == 2500.0
    assert "taking over from a worker that was killed" in (tmp_path / "worker.log").read_text()


async def _gone(client: Client, payload: dict[str, str]) -> None:
    with contextlib.suppress(aiohttp.ClientError):
        await client.status(body=client.envelope(payload))


@pytest.mark.timeout(90)
async def test_load_through_outages_of_the_engine_arrives_to_the_last_unit(tmp_path: Path) -> None:
    """Engines that are gone, refuse or are slow for 3 to 20 s, each with a worker of its own, all at once."""
    async with asyncio.TaskGroup() as group:
        for number, (trouble, seconds) in enumerate(
            [("gone", 3.0), ("slow", 5.0), ("refuses", 7.0), ("gone", 9.0), ("refuses", 20.0)]
        ):
            folder = tmp_path / str(number)
            folder.mkdir()
            group.create_task(_through_an_outage(folder, trouble, seconds))


async def _through_an_outage(folder: Path, trouble: str, seconds: float) -> None:
    async with AsyncExitStack() as stack:
        model = Model(folder)
        await model.start()
        stack.push_async_callback(model.stop)
        engine = await stack.enter_async_context(engine_up())
        lane = handler(allow_parallel_requests=True, max_queue_time=None)
        system = await stack.enter_async_context(
            running(config_for(model, lane), engine, model, folder, {"UNSECURED": "true"}, sign=str)  # type: ignore[arg-type] # a scripted one
        )
        await system.until_state("ready")
        sent = await _load_during(system, engine, trouble, seconds)
        await eventually(lambda: len(engine.ends) >= sent, within=20)
        await eventually(lambda: engine.sum("cur_perf") >= 100.0 * sent, within=20)

        assert (engine.sum("new_load"), engine.sum("cur_perf")) == (100.0 * sent, 100.0 * sent)
        assert [end["request_idx"] for end in engine.ends] == [1001 + number for number in range(sent)]


async def _load_during(system: System, engine: Engine, trouble: str, seconds: float) -> int:
    began = time.monotonic()
    sent = 0
    while (now := time.monotonic() - began) < seconds + 2:
        bad = 1 < now < seconds + 1
        engine.status = 503 if bad and trouble == "refuses" else 200
        engine.delay = 1.5 if bad and trouble == "slow" else 0.0
        engine.drops = bad and trouble == "gone"
        assert await system.client.status() == 200
        sent += 1
        await asyncio.sleep(0.03)
    engine.status, engine.delay, engine.drops = 200, 0.0, False
    return sent


@pytest.mark.timeout(120)
async def test_a_hundred_thousand_requests_leave_memory_flat(engine: Any, tmp_path: Path) -> None:
    async def model_server(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(b"{}")

    async with scripted(model_server) as model:
        port = free_port()
        environ = environment(engine.url, port, tmp_path, BENCHMARK_PERF="1e9", UNSECURED="true")
        text = WORKER_FILE.format(port=model.port).replace(
            'route="/x"', 'route="/x", allow_parallel_requests=True'
        )
        async with started(tmp_path, environ, text) as process:
            await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
            worker = psutil.Process(process.pid)
            await _many(port, 20_000)
            before = worker.memory_info().rss
            await _many(port, 80_000)
            grown = worker.memory_info().rss - before
            await eventually(lambda: engine.reports[-1].num_requests_recieved == 100_000, within=20)

            assert grown < 6 * 2**20
            await eventually(lambda: engine.pool.workers[9].totals.ended["Success"] == 100_000)


async def _many(port: int, count: int) -> None:
    """Send that many small requests over 16 connections."""
    body = b'{"auth_data":{"request_idx":1},"payload":{"prompt":"hi"}}'
    request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async def one_connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count // 16):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(2)
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(one_connection())


def compute(seconds: float) -> None:
    """Hold up whatever runs this."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


async def test_a_handler_that_blocks_is_noticed_named_and_does_not_silence_reports(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(_: dict[str, Any]) -> float:
        compute(0.8)
        return 5.0

    system = await start(config_for(model, handler(workload_calculator=slow)))
    assert await system.client.status() == 200
    await eventually(lambda: caplog.text.count("event loop was blocked") == 1)
    found = (await system.status())["event_loop"]

    assert found["blocks"] == 1
    assert found["worst"]["route"] == "/x"
    assert "test_worker.py" in found["worst"]["at"]
    assert "event loop was blocked" in caplog.text
    assert "functions of /x took over 50 ms: they run in a thread from now on" in caplog.text

    assert await system.client.status() == 200
    assert await system.client.status() == 200
    assert (await system.status())["event_loop"]["blocks"] == 1


async def test_a_blocked_loop_still_beats(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.engine.reporter.HEARTBEAT", 0.3)
    monkeypatch.setattr("pyworker.engine.reporter.STALL", 0.2)
    posts: list[float] = []
    held: list[float] = []
    monkeypatch.setattr(EngineClient, "post", _counting(EngineClient.post, posts))

    async def blocking(**_: Any) -> str:
        held.append(time.monotonic())
        compute(4.0)
        held.append(time.monotonic())
        return "done"

    config = config_for(
        model,
        handler(remote_function=blocking, benchmark_config=None),
        model_log_file=None,
        model_healthcheck_url=None,
    )
    system = await start(config)
    assert await system.client.status() == 200

    assert [at for at in posts if held[0] < at < held[1]]
    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 100.0)


def _counting(post: Any, posts: list[float]) -> Any:
    async def counted(self: EngineClient, *arguments: Any, **named: Any) -> str:
        posts.append(time.monotonic())
        address: str = await post(self, *arguments, **named)
        return address

    return counted


async def test_the_last_report_is_explained_field_by_field(start: Start) -> None:
    system = await start()
    assert await system.client.status() == 200
    async with asyncio.timeout(5):
        while (found := (await system.status())["last_report"])["fields"]["num_requests_recieved"][
            "value"
        ] != 1:
            await asyncio.sleep(0.05)

    assert set(found["fields"]) == set(WorkerStatus.__struct_fields__)
    assert found["seconds_since_acknowledged"] < 5
    assert (
        0
        <= found["sent_seconds_ago"] - found["seconds_since_acknowledged"]
        == pytest.approx(found["answered_after"], abs=0.01)
    )
    assert found["address"] == system.engine.url
    assert found["fields"]["mtoken"]["value"] == "***"
    assert found["fields"]["num_requests_recieved"]["formula"] == "admitted 1 + turned away 0"
    assert found["fields"]["new_load"] == {
        "value": 100.0,
        "means": "load admitted, less load cancelled, since the last acknowledged report; never below 0",
        "terms": [
            {"name": "admitted outside of sessions", "value": 100.0},
            {"name": "sessions opened, their cost", "value": 0.0},
            {"name": "admitted beyond sessions' cost", "value": 0.0},
            {"name": "cancelled", "value": 0.0},
            {"name": "carried from the last report", "value": 0.0},
        ],
        "formula": (
            "admitted outside of sessions 100 + sessions opened, their cost 0 + admitted beyond sessions' cost 0 "
            "- cancelled 0 - carried from the last report 0"
        ),
    }


async def test_what_the_engine_has_not_acknowledged_is_shown_as_pending(model: Model, tmp_path: Path) -> None:
    async with engine_up() as engine:
        fields = {"UNSECURED": "true"}
        async with running(config_for(model), engine, model, tmp_path, fields, sign=str) as system:  # type: ignore[arg-type] # a scripted one
            await system.until_state("ready")
            await eventually(lambda: engine.statuses and engine.statuses[-1]["loadtime"])
            engine.status = 500
            assert [200] * 3 == [await system.client.status() for _ in range(3)]
            async with asyncio.timeout(5):
                while (found := (await system.status())["pending"])["failing_for"] is None:
                    await asyncio.sleep(0.01)
            engine.status = 200

    assert (found["new_load"], found["cur_perf"], found["rej_load"]) == (300.0, 300.0, 0.0)
    assert found["ended_requests"] == 3


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
