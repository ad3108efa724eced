"""Nothing that a run writes holds a secret: not the log, not status, not the files it keeps, not its name among processes."""

import base64
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.processes import environment, started
from tests.system import Client, Model, eventually, free_port

TOKEN = "token-4f1c-of-the-master"
QUERY_KEY = "key-9a2b-in-the-query"
HEADER_KEY = "key-7d3e-in-the-header"
PROMPT = "the prompt is private"

WORKER = """
from pyworker import BenchmarkConfig, HandlerConfig, JsonDataException, LogActionConfig, Worker, WorkerConfig

def fails(payload):
    return int(payload["prompt"])

def refuses(payload):
    raise JsonDataException({{"prompt": "not a good one"}})

def priced(payload):
    raise KeyError(payload["prompt"])

async def generates(request, response):
    raise RuntimeError(await response.text())

async def remote(prompt):
    raise RuntimeError(prompt)

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    model_log_file="{log}",
    model_healthcheck_url="/health",
    log_action_config=LogActionConfig(on_load=["model loaded"], on_error=["Error:"], on_info=["info:"]),
    handlers=[
        HandlerConfig(route="/x", benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=1)),
        HandlerConfig(route="/fails", request_parser=fails),
        HandlerConfig(route="/refuses", request_parser=refuses),
        HandlerConfig(route="/priced", workload_calculator=priced),
        HandlerConfig(route="/generates", response_generator=generates),
        HandlerConfig(route="/remote", remote_function=remote),
    ],
)
"""


async def respond(request: web.Request) -> web.StreamResponse:
    """As the model server is told: an echo, a stream that breaks off, an error that quotes the request."""
    body = await request.read()
    if b"break" in body:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: " + body + b"\n\n")
        assert request.transport is not None
        request.transport.abort()
        return answer
    return web.Response(body=body, status=500 if b"error" in body else 200)


class Visitor:
    """A client that sends its secrets in every place there is for them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.secrets = {
            "signature": client.sign(client.url),
            "other signature": client.sign("http://9.9.9.9:9"),
        }
        self.seen = b""
        """What our own refusals said."""

    async def post(self, route: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{self._client.url}{route}?api_key={QUERY_KEY}&x=1"
        try:
            async with self._client.session.post(
                url, data=sent, headers={"Authorization": f"Bearer {HEADER_KEY}", **(headers or {})}
            ) as answer:
                content = await answer.read()
                if "X-Request-Id" in answer.headers:
                    self.seen += content
                return answer.status, content
        except aiohttp.ClientError:
            return 0, b""

    def envelope(self, *more: str, **changes: Any) -> dict[str, Any]:
        return self._client.envelope({"prompt": " ".join([PROMPT, *more])}, **changes)

    async def go_everywhere(self) -> dict[str, int]:
        good = self.envelope()
        grant = base64.b64encode(json.dumps(self._client.auth()).encode()).decode()
        self.secrets["grant header"] = grant
        visits: dict[str, tuple[str, Any, dict[str, str]]] = {
            "good": ("/x", good, {}),
            "header": ("/x", good["payload"], {"X-Auth-Data": grant}),
            "model_error": ("/x", self.envelope("error"), {}),
            "broken_off": ("/x", self.envelope("break"), {}),
            "fails": ("/fails", self.envelope(), {}),
            "refuses": ("/refuses", self.envelope(), {}),
            "priced": ("/priced", self.envelope(), {}),
            "generates": ("/generates", self.envelope(), {}),
            "remote": ("/remote", self.envelope(), {}),
            "no_route": ("/nosuch", self.envelope(), {}),
            "half": ("/x", json.dumps(good).encode()[:-1], {}),
            "wrong_field": ("/x", self.envelope(reqnum=PROMPT), {}),
            "forged": ("/x", self.envelope(signature=base64.b64encode(b"x" * 256).decode()), {}),
            "elsewhere": (
                "/x",
                self.envelope(url="http://9.9.9.9:9", signature=self.secrets["other signature"]),
                {},
            ),
            "owner": ("/pyworker/update", {}, {"Authorization": f"Bearer {TOKEN}x"}),
            "status": ("/pyworker/status", {}, {"Authorization": TOKEN}),
        }
        return {name: (await self.post(*visit))[0] for name, visit in visits.items()}

    async def hold_a_session(self) -> None:
        auth = self._client.auth()
        payload = {"lifetime": 60, "on_close_route": "/closed", "on_close_payload": {"secret": PROMPT}}
        status, content = await self.post("/session/create", {"auth_data": auth, "payload": payload})
        assert status == 201
        session = self.secrets["session id"] = json.loads(content)["session_id"]
        inside = {"auth_data": auth, "session_id": session, "payload": {"prompt": PROMPT}}
        assert (await self.post("/x", inside))[0] == 200
        assert (await self.post("/fails", inside))[0] == 500
        for route in ("get", "health"):
            call = {"session_id": session, "session_auth": auth}
            assert (await self.post(f"/session/{route}", call))[0] == 200
            wrong = {"session_id": session, "session_auth": {**auth, "reqnum": 0}}
            assert (await self.post(f"/session/{route}", wrong))[0] == 401
        assert (await self.post("/session/end", {"session_id": session, "session_auth": auth}))[0] == 200
        assert (await self.post("/x", inside))[0] == 410


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def of_processes(pid: int) -> dict[str, bytes]:
    """What anyone on the machine sees of a process and its threads."""
    found = {}
    for path in [Path(f"/proc/{pid}/cmdline"), *Path(f"/proc/{pid}/task").glob("*/comm")]:
        found[str(path)] = path.read_bytes()
    return found


async def pages(port: int, session: aiohttp.ClientSession) -> dict[str, bytes]:
    found = {}
    for path in ("/", "/pyworker/status", "/pyworker/events", "/metrics", "/readyz", "/healthz"):
        async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
            # events have no end: the first is the whole state
            found[path] = await (answer.content.readany() if path == "/pyworker/events" else answer.read())
    return found


@pytest.mark.parametrize("form", ["text", "json"])
async def test_nothing_that_a_run_writes_holds_a_secret(
    engine: Any, model: Model, tmp_path: Path, form: str
) -> None:
    model.respond = respond
    port, folder = free_port(), tmp_path / "work"
    folder.mkdir()
    environ = environment(engine.url, port, folder, MASTER_TOKEN=TOKEN, PYWORKER_LOG_FORMAT=form)
    text = WORKER.format(port=model.port, log=model.log)
    async with aiohttp.ClientSession() as session, started(tmp_path, environ, text) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        client = Client(session, f"http://127.0.0.1:{port}", engine.keys.sign)
        visitor = Visitor(client)
        statuses = await visitor.go_everywhere()
        await visitor.hold_a_session()
        model.say(f"info: password={TOKEN}", f"Error: cannot fetch with token={TOKEN}")
        await eventually(lambda: engine.reports[-1].error_msg)
        written = {**await pages(port + 2, session), **of_processes(process.pid)}
        await model.stop()
        statuses["model_down"], _ = await visitor.post("/x", visitor.envelope())
        written |= {f"later {name}": page for name, page in (await pages(port + 2, session)).items()}
        written |= {f"alive {name}": content for name, content in everything_in(folder).items()}
        written["reports"] = repr([(report.error_msg, report.url) for report in engine.reports]).encode()
        process.terminate()
        assert await process.wait() == 0
    written |= everything_in(folder) | {"refusals": visitor.seen}
    written["log"] = (tmp_path / "worker.log").read_bytes()

    assert statuses == {
        "good": 200, "header": 200, "model_error": 500, "broken_off": 0, "fails": 500, "refuses": 422, "priced": 200,
        "generates": 500, "remote": 500, "no_route": 404, "half": 422, "wrong_field": 422, "forged": 401, "elsewhere": 401,
        "owner": 401, "status": 405, "model_down": 503,
    }  # fmt: skip
    assert any("journal" in name for name in written)
    assert b"refused: status=401" in written["log"]
    secrets = {
        "token": TOKEN, "key in query": QUERY_KEY, "key in header": HEADER_KEY, "prompt": PROMPT, **visitor.secrets,
    }  # fmt: skip
    found = [
        (what, where)
        for what, secret in secrets.items()
        for where, content in written.items()
        if secret.encode() in content
    ]
    assert found == []
