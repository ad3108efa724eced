"""The owner's pages: with the master token on the public port, for this machine alone on the others."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from pyworker import BenchmarkConfig, HandlerConfig
from tests.system import Model, Start, System, config_for

TOKEN = "master-token"


def marker(folder: Path) -> dict[str, str]:
    return {"FORCE_UPDATE_FILE": str(folder / ".force_update")}


async def ask(
    system: System, path: str, *, port: int = 0, method: str = "GET", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; ``headers`` have _ for -."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    where = f"http://127.0.0.1:{port or system.settings.worker_port}{path}"
    async with system.session.request(method, where, headers=named) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize("authorization", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", TOKEN])
async def test_the_token_opens_the_owner_s_pages_on_the_public_port(
    start: Start, tmp_path: Path, authorization: str
) -> None:
    system = await start(**marker(tmp_path))

    status, picture = await ask(system, "/pyworker/status", Authorization=authorization)
    assert (status, picture["state"]) == (200, "ready")

    told = await ask(system, "/pyworker/update", method="POST", Authorization=authorization)
    assert told == (200, {"ok": True})
    assert (tmp_path / ".force_update").exists()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        f"{TOKEN}x",
        f"Bearer {TOKEN} x",
        "Bearer \u00ff",
    ],
)
@pytest.mark.parametrize("path", ["/pyworker/update", "/pyworker/status", "/pyworker/nosuch"])
async def test_without_the_token_nothing_is_told_or_done(
    start: Start, tmp_path: Path, authorization: str, path: str
) -> None:
    system = await start(**marker(tmp_path))
    for method in ("GET", "POST"):
        status, told = await ask(system, path, method=method, Authorization=authorization)

        assert (status, list(told)) == (401, ["error"])
    assert not (tmp_path / ".force_update").exists()


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer "])
async def test_an_empty_token_lets_nobody_in(start: Start, tmp_path: Path, authorization: str) -> None:
    system = await start(MASTER_TOKEN="", **marker(tmp_path))
    status, _ = await ask(system, "/pyworker/update", method="POST", Authorization=authorization)

    assert status == 401
    assert not (tmp_path / ".force_update").exists()


async def test_no_handler_takes_the_owner_s_paths(start: Start, model: Model, tmp_path: Path) -> None:
    greedy = HandlerConfig(
        route="/{a}/{b}", benchmark_config=BenchmarkConfig(dataset=[{"n": 1}], runs=1, concurrency=1)
    )
    system = await start(config_for(model, greedy), **marker(tmp_path))

    assert await system.client.status("/pyworker/update") == 401


async def test_a_marker_that_cannot_be_written_is_said(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "nosuch" / "file"
    system = await start(FORCE_UPDATE_FILE=str(file))
    status, told = await ask(system, "/pyworker/update", method="POST", Authorization=TOKEN)

    assert (status, told["error"]) == (
        500,
        f"cannot write FORCE_UPDATE_FILE={file}: No such file or directory",
    )


async def test_wrong_methods_are_405(start: Start) -> None:
    system = await start()
    for method, path in (("GET", "/pyworker/update"), ("POST", "/pyworker/status"), ("DELETE", "/healthz")):
        status, told = await ask(system, path, port=system.settings.admin_port, method=method)

        assert status == 405
        assert told["error"].startswith(f"{method} {path}: use ")


# The ports of this machine alone...


async def test_on_the_admin_port_no_token_is_needed(start: Start, tmp_path: Path) -> None:
    system = await start(**marker(tmp_path))
    told = await ask(system, "/pyworker/update", port=system.settings.admin_port, method="POST")

    assert told == (200, {"ok": True})
    assert (tmp_path / ".force_update").exists()


def raw(port: int, method: str, path: str, headers: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    return answer.status, told


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"Host": "evil.example:{port}"}),
        ("GET", {"Host": "127.0.0.1.evil.example"}),
        ("GET", {"Host": "localhost.evil.example:{port}"}),
        ("GET", {"Host": "192.0.2.1:{port}"}),
        ("GET", {"Host": "evil.example@127.0.0.1:x"}),
        ("GET", {"Host": "["}),
        ("GET", {"Host": ""}),
        ("POST", {"Host": "127.0.0.1:{port}", "Origin": "http://evil.example"}),
        ("POST", {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:1"}),
        ("POST", {"Host": "127.0.0.1:{port}", "Origin": "https://127.0.0.1:{port}"}),
        ("POST", {"Host": "127.0.0.1:{port}", "Origin": "null"}),
        ("POST", {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"}),
        ("POST", {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"}),
    ],
)
@pytest.mark.parametrize("which", ["admin", "plain"])
async def test_a_page_in_a_browser_gets_nowhere(
    start: Start, tmp_path: Path, method: str, headers: dict[str, str], which: str
) -> None:
    system = await start(**marker(tmp_path))
    port = system.settings.admin_port if which == "admin" else system.settings.http_port
    path = {"POST": "/pyworker/update", "GET": "/pyworker/status"}[method]
    filled = [(name, value.format(port=port)) for name, value in headers.items()]
    status, told = await asyncio.to_thread(raw, port, method, path, filled)

    assert (status, list(told)) == (403, ["error"])
    assert not (tmp_path / ".force_update").exists()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost:{port}"},
        {"Host": "[::1]:9"},
        {"Host": "LOCALHOST"},
        {"Host": "localhost:{port}", "Origin": "http://localhost:{port}", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_programs_and_the_port_s_own_pages_may(
    start: Start, tmp_path: Path, headers: dict[str, str]
) -> None:
    system = await start(**marker(tmp_path))
    port = system.settings.admin_port
    filled = [(name, value.format(port=port)) for name, value in headers.items()]
    if not filled:  # HTTP/1.1 without Host is no HTTP
        filled = [("Host", "127.0.0.1")]
    status, told = await asyncio.to_thread(raw, port, "POST", "/pyworker/update", filled)

    assert (status, told) == (200, {"ok": True})


async def test_two_hosts_are_none(start: Start) -> None:
    system = await start()
    port = system.settings.admin_port
    two = [("Host", "127.0.0.1"), ("Host", "evil.example")]
    status, _ = await asyncio.to_thread(raw, port, "GET", "/pyworker/status", two)

    assert status in {400, 403}
