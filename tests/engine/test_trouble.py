"""Engines in trouble of every kind: it is told for what it is, nothing is lost, and the first address is gone back to."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pyworker.core.ledger import Ledger
from pyworker.core.lifecycle import Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.engine.client import EngineClient, EngineError, trusted
from pyworker.engine.reporter import HomeLoop, Identity, Reporter
from pyworker.engine.trouble import words
from tests.certificates import Authority
from tests.engine.scripted_engine import Engine, engine_up
from tests.system import eventually, free_port


@dataclass
class Side:
    """One engine and how to get it into trouble and out of it."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    port: int = field(default_factory=free_port)
    authority: Authority = field(default_factory=Authority)
    took: list[Engine] = field(default_factory=list)
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"

    async def up(self) -> Engine:
        """The engine on its port; another each time, with the same certificate."""
        engine = await self.stack.enter_async_context(engine_up(port=self.port, tls=self.tls))
        self.took.append(engine)
        return engine

    def certificate(self, **how: Any) -> None:
        """The certificate that is shown from the next connection on."""
        cert, key = self.folder / "cert", self.folder / "key"
        self.authority.issue(cert, key, **how)
        if self.tls is None:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(cert, key)

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{self.port}"

    def sum(self, name: str) -> float:
        return sum(engine.sum(name) for engine in self.took)

    @property
    def ends(self) -> list[int]:
        return [end["request_idx"] for engine in self.took for end in engine.ends]


async def dns(side: Side) -> Callable[[], None]:
    known = False

    async def resolve(_: Any, host: str, port: int = 0, family: int = 0) -> list[Any]:
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            {"hostname": host, "host": "127.0.0.1", "port": port, "family": family, "proto": 0, "flags": 0}
        ]

    def mend() -> None:
        nonlocal known
        known = True

    side.host = "engine.test"
    side.monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    await side.up()
    return mend


async def refused(side: Side) -> Callable[[], Any]:
    return side.up


async def gone_and_back(side: Side) -> Callable[[], Any]:
    await side.up()
    await side.stack.aclose()
    return side.up


def shows(**how: Any) -> Callable[[Side], Any]:
    async def script(side: Side) -> Callable[[], None]:
        side.certificate(**how)
        await side.up()
        return side.certificate

    return script


async def untrusted(side: Side) -> Callable[[], None]:
    trusted_one, side.authority = side.authority, Authority()
    side.certificate()
    await side.up()

    def mend() -> None:
        side.authority = trusted_one
        side.certificate()

    return mend


def answers(**how: Any) -> Callable[[Side], Any]:
    async def script(side: Side) -> Callable[[], None]:
        engine = await side.up()
        for name, value in how.items():
            setattr(engine, name, value)

        def mend() -> None:
            engine.status, engine.hangs, engine.drops = 200, False, False

        return mend

    return script


TROUBLES = {
    "dns": (dns, "its name cannot be resolved (DNS: Name or service not known)"),
    "refused": (refused, "connection refused: nothing listens there"),
    "gone_and_back": (gone_and_back, "connection refused"),
    "untrusted": (untrusted, "its TLS certificate is not trusted"),
    "expired": (shows(days=-1), "its TLS certificate has expired"),
    "other_host": (shows(address="10.9.8.7"), "its TLS certificate is for another host"),
    "error_500": (answers(status=500), "/worker_status/: status 500"),
    "wrong_token_401": (answers(status=401), "status 401: it does not accept this worker; is MASTER_TOKEN right?"),
    "wrong_token_403": (answers(status=403), "status 403: it does not accept this worker; is MASTER_TOKEN right?"),
    "no_engine_404": (answers(status=404), "status 404: no engine answers at this address; look at REPORT_ADDR"),
    "hanging": (answers(hangs=True), "no answer in 0.2 s"),
    "closing": (answers(drops=True), "it closed the connection before it answered"),
}  # fmt: skip


@pytest.fixture
async def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Side]:
    made = Side(tmp_path, monkeypatch)
    monkeypatch.setattr("pyworker.engine.client.TIMEOUT", 0.2)
    monkeypatch.setattr("pyworker.engine.client.LONGEST_PAUSE", 0.1)
    async with made.stack:
        yield made


def reporter_for(ledger: Ledger, client: EngineClient) -> Reporter:
    return Reporter(
        identity=Identity(5, "very-secret-token", "http://1.2.3.4:5"),
        client=client,
        home=HomeLoop(asyncio.get_running_loop()),
        ledger=ledger,
        lifecycle=Lifecycle(time.monotonic()),
        unix_offset=0.0,
        disk_usage=lambda: 1.0,
    )


def serve(ledger: Ledger, number: int) -> None:
    """One request of each kind of end, of different loads."""
    now = time.monotonic()
    for outcome in Outcome:
        entry = ledger.enter(4 * number + list(Outcome).index(outcome), 3.0 + number / 8, now)
        ledger.settle(entry, outcome, now)


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_trouble_has_words_of_its_own_and_loses_nothing(
    side: Side, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    script, told = TROUBLES[trouble]
    trust = ssl.create_default_context(cadata=side.authority.pem)
    mend = await script(side)
    ledger = Ledger()
    async with EngineClient([side.url], trust=trust) as client, asyncio.TaskGroup() as group:
        reporter = reporter_for(ledger, client)
        task = group.create_task(reporter.run())
        for number in range(10):
            serve(ledger, number)
            await asyncio.sleep(0.02)
        await eventually(lambda: reporter.statuses.failures and reporter.ends.failures)

        assert told in reporter.statuses.last_error
        assert reporter.statuses.last_error.startswith(side.url)
        assert "very-secret-token" not in reporter.statuses.last_error + caplog.text
        assert side.sum("new_load") == 0

        mended = mend()
        if mended is not None:
            await mended
        for number in range(10, 20):
            serve(ledger, number)
            await asyncio.sleep(0.02)
        served = ledger.ended[Outcome.SERVED].load
        await eventually(lambda: side.sum("cur_perf") == served, within=10)
        await eventually(lambda: len(side.ends) == 80, within=10)
        task.cancel()

    assert served == sum(3.0 + number / 8 for number in range(20))
    assert side.sum("rej_load") == ledger.rejected.load == served
    assert side.sum("new_load") == 2 * served
    assert side.ends == list(range(80))


async def test_after_failing_over_the_first_address_is_gone_back_to(
    side: Side, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pyworker.engine.client.BACK_FIRST", 0.3)
    caplog.set_level("INFO")
    first = await side.up()
    ledger = Ledger()
    async with (
        engine_up() as second,
        engine_up() as third,
        EngineClient([side.url + "/", second.url, third.url]) as client,
        asyncio.TaskGroup() as group,
    ):
        reporter = reporter_for(ledger, client)
        task = group.create_task(reporter.run())
        await eventually(lambda: first.statuses)
        first.status, second.hangs = 500, True
        serve(ledger, 0)
        await eventually(lambda: third.sum("cur_perf") == 3.0 and len(third.ends) == 4)

        assert reporter.last is not None
        assert reporter.last.address == third.url
        assert reporter.statuses.failures == 0

        first.status = 200
        reporter.announce()
        for number in range(1, 40):
            serve(ledger, number)
            await asyncio.sleep(0.05)
        await eventually(lambda: len(first.ends) + len(third.ends) == 160)
        await eventually(
            lambda: first.sum("cur_perf") + third.sum("cur_perf") == ledger.ended[Outcome.SERVED].load
        )
        task.cancel()

    assert reporter.last.address == side.url
    assert first.sum("new_load") + third.sum("new_load") == 2 * ledger.ended[Outcome.SERVED].load
    assert [end["request_idx"] for end in third.ends + first.ends] == list(range(160))
    assert second.ends == second.statuses == []
    assert f"engine: using {third.url}" in caplog.text
    assert f"engine: using {side.url}" in caplog.text


async def test_an_address_that_stays_down_is_asked_ever_more_rarely(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.engine.client.BACK_FIRST", 0.05)
    first = await side.up()
    first.status = 500
    async with engine_up() as second, EngineClient([side.url, second.url]) as client:
        began = time.monotonic()
        while time.monotonic() - began < 0.6:
            await client.post("/worker_status/", b"{}")

    assert len(second.statuses) > 50
    assert 3 <= len(first.asked) <= 5  # at 0, 0.05, 0.15, 0.35 s


async def test_calls_that_leave_an_address_out_do_not_move_the_others(side: Side) -> None:
    first = await side.up()
    async with engine_up() as second, EngineClient([side.url, second.url]) as client:
        for _ in range(3):
            await client.post("/worker_status/", b"{}")
            await client.post("/delete_requests/", b'{"requests": []}', skip=frozenset({side.url}))

    assert first.asked == ["/worker_status/"] * 3
    assert second.asked == ["/delete_requests/"] * 3


async def test_of_all_addresses_it_is_told_what_is_wrong_with_them(side: Side) -> None:
    engine = await side.up()
    engine.status = 500
    down = f"http://user:secret@127.0.0.1:{free_port()}"
    async with EngineClient([down, side.url]) as client:
        with pytest.raises(EngineError) as caught:
            await client.post("/x", b"")

    assert str(caught.value).startswith("http://***@127.0.0.1:")
    assert str(caught.value).endswith(f"connection refused: nothing listens there; {side.url}/x: status 500")


async def test_an_engine_s_own_words_are_quoted_without_secrets(side: Side) -> None:
    engine = await side.up()
    engine.status, engine.words = 400, '{"error": "bad", "mtoken": "private"}\nmore'
    async with EngineClient([side.url]) as client:
        with pytest.raises(EngineError, match=r'status 400: {"error": "bad", "mtoken": "\*\*\*"}$'):
            await client.post("/x", b"")


def test_our_own_certificate_in_ssl_cert_file_takes_no_trust_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Authority().issue(tmp_path / "instance.crt", tmp_path / "instance.key")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "instance.crt"))
    trusted.cache_clear()
    loaded = trusted().cert_store_stats()["x509_ca"]
    trusted.cache_clear()
    paths = ssl.get_default_verify_paths()

    assert loaded or not (Path(paths.openssl_cafile).is_file() or Path(paths.openssl_capath).is_dir())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "the connection broke before it answered (Connection reset by peer)"),
        (aiohttp.ClientPayloadError("half an answer"), "half an answer"),
        (aiohttp.ClientPayloadError(), "ClientPayloadError"),
    ],
    ids=["reset", "own_words", "no_words"],
)  # fmt: skip
def test_other_troubles_in_the_library_s_words(error: Exception, told: str) -> None:
    assert words(error) == told


async def test_plain_http_where_tls_is_spoken_and_the_other_way_round(side: Side) -> None:
    plain = await side.up()
    async with EngineClient([plain.url.replace("http:", "https:")]) as client:
        with pytest.raises(EngineError, match="no TLS: .*; does this address speak https"):
            await client.post("/x", b"")


@pytest.mark.parametrize(("number", "told"), [(101, "no way to it: "), (113, "no way to it: "), (110, "")])
def test_networks_without_a_way(number: int, told: str) -> None:
    class Key:
        ssl, host, port = False, "h", 1

    error = aiohttp.ClientConnectorError(Key(), OSError(number, "words of the system"))  # type: ignore[arg-type] # all it reads

    assert words(error) == told + "words of the system"
