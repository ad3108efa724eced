"""Sockets, signals and log lines of the engine."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from pyworker.local_engine.serve import EngineOptions, LocalEngine, PortTaken, serve
from tests.local_engine.reports import ready


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


async def health(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(url + "/healthz") as answer:
        return answer.status


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def test_it_listens_on_a_free_port_and_says_where(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with LocalEngine(EngineOptions(port=0, api_key="hush")) as engine:
        assert 200 == await health(engine.url)
        assert 200 == await health(engine.url.replace("127.0.0.1", "localhost"))

    lines = [record.getMessage() for record in caplog.records]
    assert [f"engine listening: url={engine.url} endpoint=local"] == lines
    assert "hush" not in caplog.text


@needs_ipv6
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_is_both_addresses(host: str) -> None:
    async with LocalEngine(EngineOptions(host=host, port=free_port())) as engine:
        port = engine.url.rsplit(":", 1)[1]

        assert f"http://127.0.0.1:{port}" == engine.url
        assert 200 == await health(engine.url)
        assert 200 == await health(f"http://[::1]:{port}")


@needs_ipv6
async def test_ipv6_alone() -> None:
    async with LocalEngine(EngineOptions(host="::1", port=0)) as engine:
        assert engine.url.startswith("http://[::1]:")
        assert 200 == await health(engine.url)


async def test_every_address_is_reached_on_loopback() -> None:
    async with LocalEngine(EngineOptions(host="0.0.0.0", port=0)) as engine:  # noqa: S104 - what is tested
        assert engine.url.startswith("http://127.0.0.1:")
        assert 200 == await health(engine.url)


async def test_a_taken_port_is_named() -> None:
    async with LocalEngine(EngineOptions(port=0)) as engine:
        port = int(engine.url.rsplit(":", 1)[1])
        with pytest.raises(
            PortTaken, match=rf"^the engine cannot listen on 127\.0\.0\.1 port {port}: it is taken$"
        ):
            async with LocalEngine(EngineOptions(port=port)):
                pass

        assert 200 == await health(engine.url)


@needs_ipv6
async def test_a_port_taken_on_ipv6_alone_is_named_and_the_other_given_back() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"on ::1 port {port}"):
            async with LocalEngine(EngineOptions(port=port)):
                pass
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("address", ["2001:db8::1", "127.0.0.1"], ids=["no-ipv6", "free-port-taken-there"])
async def test_ipv6_is_done_without_where_it_may_be(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr("pyworker.local_engine.serve.IPV6_LOOPBACK", address)
    async with LocalEngine(EngineOptions(port=0)) as engine:
        assert 200 == await health(engine.url)


async def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(OSError, match=r"the engine cannot listen on 192\.0\.2\.1 port 0"):
        async with LocalEngine(EngineOptions(host="192.0.2.1", port=0)):
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": ""},
        {"endpoint": ""},
        {"port": -1},
        {"port": 65536},
        {"gone_after": 0.0},
        {"hold_timeout": float("nan")},
    ],
    ids=str,
)
def test_nonsense_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        EngineOptions(**options)


async def test_a_key_folder_gives_the_same_key_again(tmp_path: Path) -> None:
    options = EngineOptions(port=0, data_dir=tmp_path)
    keys = []
    for _ in range(2):
        async with LocalEngine(options) as engine:
            keys.append(engine.keys.public_pem)

    assert keys[0] == keys[1]


async def test_options_reach_the_pool() -> None:
    async with LocalEngine(EngineOptions(port=0, endpoint="mine", mtoken="t")) as engine:
        status = await report(engine, ready(mtoken="other"))

        assert ("mine", 401) == (engine.pool.endpoint, status)


async def report(engine: LocalEngine, body: Any) -> int:
    async with aiohttp.ClientSession() as session:
        content = msgspec.json.encode(body)
        async with session.post(engine.url + "/worker_status/", data=content) as answer:
            return answer.status


async def test_each_change_of_state_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with LocalEngine(EngineOptions(port=0, gone_after=1.0)) as engine:
        await report(engine, ready(error_msg="line one\nline two"))
        await report(engine, ready())
        await report(engine, ready())
        await told(lambda: len(caplog.records) == 4)
        await report(engine, ready())

    lines = [f"{record.levelname} {record.getMessage()}" for record in caplog.records][1:]
    at = "url=http://10.0.0.1:4000 perf=10"
    assert [
        f"WARNING worker state: id=1 from=none to=error {at} error='line one\\nline two'",
        f"INFO worker state: id=1 from=error to=idle {at}",
        f"WARNING worker state: id=1 from=idle to=stopped {at}",
        f"INFO worker state: id=1 from=stopped to=idle {at}",
    ] == lines
    assert "secret" not in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=str)
async def test_serve_ends_on_a_signal(number: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(EngineOptions(port=0)))
        await listening(caplog)
        os.kill(os.getpid(), number)

    assert "engine stopped: endpoint=local" == caplog.records[-1].getMessage()


async def test_serve_ends_on_cancellation_and_gives_the_port_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(EngineOptions(port=port)))
        await listening(caplog)
        task.cancel()

    socket.create_server(("127.0.0.1", port)).close()
    assert task.cancelled()


async def listening(caplog: pytest.LogCaptureFixture) -> None:
    await told(lambda: "engine listening" in caplog.text)


async def told(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
