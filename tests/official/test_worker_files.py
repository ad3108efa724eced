"""Files in the official package's style, run as they are by a real `pyworker run`."""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pyworker.local_engine.serve import LocalEngine
from tests.processes import environment, run
from tests.system import Client, Model, eventually, free_port

FILES = Path(__file__).parent / "files"


class Ran:
    """A `pyworker run` of one of the files, ready."""

    def __init__(self, client: Client, process: asyncio.subprocess.Process, port: int) -> None:
        self.client = client
        self.process = process
        self.port = port

    async def post(self, route: str, payload: Any, status: int = 200) -> Any:
        async with self.client.post(route, self.client.envelope(payload)) as answer:
            text = await answer.text()
            assert (answer.status, text) == (status, text)
            return text if answer.content_type != "application/json" else json.loads(text)

    async def status(self) -> dict[str, Any]:
        async with self.client.session.get(f"http://127.0.0.1:{self.port + 2}/pyworker/status") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()


@asynccontextmanager
async def running(what: str, engine: LocalEngine, model: Model, folder: Path) -> AsyncIterator[Ran]:
    """`pyworker run` of ``what`` in ``folder``, into which it is copied, until it is ready."""
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    port = free_port()
    more = {"MODEL_PORT": str(model.port), "MODEL_LOG": str(model.log), "DRAIN_TIMEOUT": "1"}
    environ = environment(engine.url, port, folder / "work", **more)
    (folder / "work").mkdir()
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pyworker", "run", what, cwd=folder, env=environ, stderr=output
        )
    async with aiohttp.ClientSession() as session:
        ran = Ran(Client(session, f"http://127.0.0.1:{port}", engine.keys.sign), process, port)
        try:
            await eventually(lambda: _ready(engine) or process.returncode is not None, within=20)
            assert process.returncode is None, log.read_text()
            yield ran
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _ready(engine: LocalEngine) -> bool:
    return any(report.loadtime for report in engine.reports)


async def test_a_file_that_starts_at_import_has_every_function_called(
    engine: LocalEngine, model: Model, tmp_path: Path
) -> None:
    model.say("loading", "model loaded")
    async with running("at_import.py", engine, model, tmp_path) as ran:
        benchmarked = len(model.heard)
        made = await ran.post("/generate", {"prompt": "hi", "n": 3})
        refused = await ran.post("/generate", {}, 422)
        await ran.stop()

    assert benchmarked == 1 + 2 * 10  # the proof; concurrency=None means ten, and there is no warm-up
    assert made == {"for": "/generate", "said": {"echo": {"text": "hi", "n": 3}}, "status": 200}
    assert refused == {"payload": {"prompt": "missing parameter"}}
    assert len(engine.ended) == 2
    assert sum(report.cur_perf for report in engine.reports) == 30.0


async def test_max_queue_time_of_zero_means_no_waiting(
    engine: LocalEngine, model: Model, tmp_path: Path
) -> None:
    model.say("model loaded")
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.json_response({})

    async with running("at_import.py", engine, model, tmp_path) as ran, asyncio.TaskGroup() as group:
        model.respond = respond
        first = group.create_task(ran.post("/one", {}))
        await eventually(lambda: model.working == 1)
        refused = await ran.post("/one", {}, 429)
        release.set()

    assert "error" in refused
    assert first.result() == {}


async def test_classes_of_its_own_are_asked(engine: LocalEngine, model: Model, tmp_path: Path) -> None:
    model.say("model loaded")
    async with running("as_main.py", engine, model, tmp_path) as ran:
        painted = await ran.post("/paint", {"prompt": "x", "steps": 7})
        refused = await ran.post("/paint", {}, 422)
        model.respond = _raw
        await ran.post("/upload", {"prompt": "bytes", "steps": 2})
        found = await ran.status()

    paths = {request.path for request, _ in model.heard}
    uploaded = model.heard[-1][1]
    assert painted == '> {"echo": {"inputs": "x", "steps": 7}}'
    assert refused == {"payload": {"prompt": "missing parameter"}}
    assert paths == {"/v2/paint", "/upload"}
    assert b'filename="a.txt"' in uploaded
    assert b"left_out" not in uploaded
    assert found["state"] == "ready"


async def _raw(_: web.Request) -> web.StreamResponse:
    return web.json_response({})


async def test_a_module_of_a_package_runs_with_its_lifecycle_and_a_pinned_perf(
    engine: LocalEngine, model: Model, tmp_path: Path
) -> None:
    (tmp_path / ".has_benchmark").write_text("77.5\n")
    async with running("workers.pixels.worker", engine, model, tmp_path) as ran:
        entered = (tmp_path / "entered").exists()
        drawn = await ran.post("/draw", {"width": 100, "height": 50})
        refused = await ran.post("/other", {"width": 0}, 422)
        found = await ran.status()
        code = await ran.stop()

    assert entered
    assert (tmp_path / "left").exists()
    assert code == 0
    assert drawn == {"echo": {"width": 100, "height": 50}}
    assert refused == {"payload": {"width": "must be 1 or more"}}
    assert {report.max_perf for report in engine.reports} - {0.0} == {77.5}
    assert ".has_benchmark" in json.dumps(found)


async def test_remote_functions_answer_without_a_model_server(
    engine: LocalEngine, model: Model, tmp_path: Path
) -> None:
    async with running("remote.py", engine, model, tmp_path) as ran:
        assert await ran.post("/double", {"number": 21}) == {"result": 42}
        assert await ran.post("/shout", {"text": "hi"}) == {"result": {"shouted": "HI"}}
        assert (await ran.post("/double", {"nosuch": 1}, 422)).keys() == {"payload"}

    assert model.heard == []


async def test_the_older_way_of_starting_a_server(engine: LocalEngine, model: Model, tmp_path: Path) -> None:
    model.log.touch()
    async with running("older.py", engine, model, tmp_path) as ran:
        benchmarked = [json.loads(body)["inputs"] for _, body in model.heard]
        assert await ran.post("/gen", {"inputs": "abc"}) == '{"echo": {"inputs": "abc"}}'
        assert await ran.post("/stream", {"inputs": "d"}) == '{"echo": {"inputs": "d"}}'
        async with ran.client.session.get(ran.client.url + "/ping") as answer:
            assert await answer.text() == "pong"
        async with ran.client.session.get(ran.client.url + "/broken") as answer:
            assert (answer.status, "secret" in await answer.text()) == (500, False)

    assert set(benchmarked) == {"hello hello hello "}
    assert {request.path for request, _ in model.heard} == {"/generate", "/generate_stream"}
    assert "the model has loaded" in model.log.read_text()


def test_what_a_file_uses_and_cannot_have_is_named_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text("from vastai.serverless.server.lib import metrics\n")
    (tmp_path / "worker.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nimport data\nfrom vastai.serverless.remote import Deployment\n"
    )
    done = run("run", "worker.py", folder=tmp_path)

    assert done.returncode == 2
    assert not (tmp_path / "ran").exists()
    assert "worker.py:4: deployments (vastai.serverless.remote) are out of scope" in done.stderr
    assert "data.py:1: vastai.serverless.server.lib.metrics: this worker has no such name" in done.stderr


@pytest.mark.parametrize("installed", [True, False], ids=["installed", "not_installed"])
def test_the_client_side_comes_from_the_installed_package(tmp_path: Path, *, installed: bool) -> None:
    if installed:
        client = tmp_path / "vastai" / "serverless" / "client"
        client.mkdir(parents=True)
        for folder in (tmp_path / "vastai", tmp_path / "vastai" / "serverless"):
            (folder / "__init__.py").write_text("raise RuntimeError('never run')\n")
        (client / "__init__.py").write_text("")
        (client / "client.py").write_text("class Serverless:\n    pass\n")
    (tmp_path / "worker.py").write_text(
        "from vastai import Serverless, Worker\n"
        "print(Serverless.__module__, Worker.__module__)\n"
        "raise SystemExit(0)\n"
    )
    done = run("run", "worker.py", folder=tmp_path)

    if installed:
        assert done.stdout == "vastai.serverless.client.client pyworker.official.worker\n"
    else:
        assert done.returncode == 2
        assert "worker.py:1: vastai.Serverless: " in done.stderr
        assert "which is not installed" in done.stderr
