"""The engine's key: fetched from whoever has it, kept, fetched anew."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pyworker.core.errors import NotByThisKey
from pyworker.core.signature import Verifier
from pyworker.core.wire import PUBKEY_PATH
from pyworker.engine import keys
from pyworker.engine.client import EngineClient
from pyworker.engine.keys import KEY_FILE, EngineKey
from pyworker.local_engine.keys import Keys
from tests.engine.scripted_engine import Engine, engine_up
from tests.system import Start, eventually

OWN = "http://1.2.3.4:40123"
KEYS = [Keys.load(None) for _ in range(2)]


def speaks(engine: Engine, number: int = 0) -> None:
    engine.key = KEYS[number].public_pem.decode()


def vouches(verifier: Verifier, number: int = 0) -> bool:
    try:
        verifier.check(OWN, KEYS[number].sign(OWN))
    except NotByThisKey:
        return False
    return True


@asynccontextmanager
async def fetching(folder: Path, *addresses: str) -> AsyncIterator[tuple[EngineKey, Verifier]]:
    verifier = Verifier(own_url=OWN)
    async with EngineClient(addresses) as client, asyncio.TaskGroup() as group:
        key = EngineKey(client=client, verifier=verifier, folder=folder)
        task = group.create_task(key.run())
        yield key, verifier
        task.cancel()


async def test_each_address_is_asked_in_turn(tmp_path: Path) -> None:
    async with engine_up() as down, engine_up() as confused, engine_up() as good:
        down.status, confused.key = 503, "<html>"
        speaks(good)
        async with fetching(tmp_path, "http://127.0.0.1:1", down.url, confused.url, good.url) as (
            key,
            verifier,
        ):
            await asyncio.wait_for(key.here.wait(), 5)

            assert vouches(verifier)
            assert key.missing == ""


async def test_it_says_why_there_is_none_and_tries_on(tmp_path: Path) -> None:
    async with engine_up() as engine:
        engine.status = 500
        async with fetching(tmp_path, engine.url) as (key, verifier):
            assert key.missing == "not fetched yet"
            await eventually(lambda: "status 500" in key.missing)
            assert not verifier.has_key

            engine.status = 200
            speaks(engine)
            await asyncio.wait_for(key.here.wait(), 5)

            assert vouches(verifier)


async def test_a_restart_without_the_engine_has_the_kept_key(tmp_path: Path) -> None:
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url):
            await eventually((tmp_path / KEY_FILE).exists)
        engine.drops = True
        async with fetching(tmp_path, engine.url) as (key, verifier):
            await asyncio.wait_for(key.here.wait(), 5)

            assert vouches(verifier)
            assert key.missing == ""

            engine.drops = False
            speaks(engine, 1)  # the engine is back, with a new key: the kept one is no longer good
            await eventually(lambda: vouches(verifier, 1))
            assert not vouches(verifier)

    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o644


async def test_an_address_s_password_is_not_written_down(tmp_path: Path) -> None:
    async with engine_up() as engine:
        speaks(engine)
        address = engine.url.replace("http://", "http://worker:hunter2@")
        async with fetching(tmp_path, address):
            await eventually((tmp_path / KEY_FILE).exists)
        engine.drops = True
        async with fetching(tmp_path, address) as (key, verifier):
            await asyncio.wait_for(key.here.wait(), 5)

            assert vouches(verifier)

    assert "hunter2" not in (tmp_path / KEY_FILE).read_text()


async def test_a_key_kept_of_another_engine_opens_nothing(tmp_path: Path) -> None:
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url):
            await eventually((tmp_path / KEY_FILE).exists)
    async with fetching(tmp_path, "http://127.0.0.1:1") as (key, verifier):
        await eventually(lambda: key.missing.startswith("http://127.0.0.1:1"))

        assert not verifier.has_key


async def test_a_damaged_file_is_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with engine_up() as engine:
        speaks(engine)
        text = f"Public key of the engine at {engine.url}\n-----BEGIN PUBLIC KEY-----\nx\n"
        (tmp_path / KEY_FILE).write_text(text)
        async with fetching(tmp_path, engine.url) as (key, verifier):
            await asyncio.wait_for(key.here.wait(), 5)
            await eventually(lambda: (tmp_path / KEY_FILE).read_text() != text)

            assert vouches(verifier)
    assert "the kept key of the engine is none" in caplog.text


async def test_a_folder_that_takes_no_file_is_said_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / KEY_FILE).mkdir()
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url) as (_, verifier):
            await eventually(lambda: "the engine's key is not kept" in caplog.text)

            assert vouches(verifier)


async def test_it_is_asked_for_again_when_wanted_but_no_more_often_than_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "RENEW_EVERY", 0.3)
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url) as (key, verifier):
            await asyncio.wait_for(key.here.wait(), 5)
            speaks(engine, 1)
            began = time.monotonic()
            await asyncio.gather(*(key.renewed() for _ in range(100)))

            assert vouches(verifier, 1)
            assert engine.asked == [PUBKEY_PATH] * 2
            assert time.monotonic() - began > 0.2

            await key.renewed()  # nothing is new
            assert vouches(verifier, 1)
            assert engine.asked == [PUBKEY_PATH] * 3


async def test_a_request_does_not_wait_for_what_will_not_come_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "PATIENCE", 0.2)
    monkeypatch.setattr(keys, "RENEW_EVERY", 0.1)
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url) as (key, _):
            await asyncio.wait_for(key.here.wait(), 5)
            engine.delay = 30.0
            began = time.monotonic()
            await key.renewed()
            assert 0.15 < time.monotonic() - began < 2

    monkeypatch.setattr(keys, "RENEW_EVERY", 60.0)
    async with engine_up() as engine:
        speaks(engine)
        async with fetching(tmp_path, engine.url) as (key, _):
            await eventually((tmp_path / KEY_FILE).exists)
            await eventually(lambda: key._next_at > 0)
            began = time.monotonic()
            await key.renewed()
            assert time.monotonic() - began < 0.1


async def test_a_key_change_at_the_engine_costs_no_request(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "RENEW_EVERY", 0.2)
    system = await start()

    assert await system.client.status() == 200

    system.engine._routes._keys = KEYS[1]
    old, system.client.sign = system.client.sign, KEYS[1].sign
    answers = await asyncio.gather(*(system.client.status() for _ in range(10)))
    async with system.client.post(body=system.client.envelope(signature=old(system.client.url))) as answer:
        refused = answer.status

    assert answers == [200] * 10
    assert refused == 401
    await system.until_settled(11)  # the refused one has left no trace
