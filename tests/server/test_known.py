"""Requests whose head has come before, on whatever connection: served without being parsed, and like all others."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pyworker.server.direct import Direct
from tests.system import PAYLOAD, Model, Start, System, config_for, eventually, handler


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many requests have been served by their heads."""
    count = 0
    take_known = Direct.take_known

    def counted(*arguments: Any) -> bool:
        nonlocal count
        taken = take_known(*arguments)
        count += taken
        return taken

    monkeypatch.setattr(Direct, "take_known", counted)
    return lambda: count


@asynccontextmanager
async def connected(system: System) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    try:
        yield reader, writer
    finally:
        writer.close()


def asking(system: System, payload: Any = None, *, header: str = "") -> bytes:
    envelope = system.client.envelope() | {"payload": PAYLOAD if payload is None else payload}
    body = json.dumps(envelope).encode()
    head = f"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{header}\r\n"
    return head.encode() + body


async def answered(reader: asyncio.StreamReader) -> tuple[int, Any]:
    """Status and JSON of the next answer."""
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = [
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line
        ]
        return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def introduced(system: System, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Have a request verified, and the next one's head read."""
    for _ in range(2):
        writer.write(asking(system))
        assert await answered(reader) == (200, {"echo": PAYLOAD})


async def test_a_head_that_came_before_is_not_parsed_again(start: Start, known: Callable[[], int]) -> None:
    system = await start()
    for number in range(3):
        async with connected(system) as (reader, writer):
            for _ in range(2):
                writer.write(asking(system, {"n": number}))

                assert await answered(reader) == (200, {"echo": {"n": number}})

    assert known() == 4  # the first was verified, the second's head was read
    assert len(await system.until_settled(6)) == 6


async def test_however_a_body_is_cut_the_next_request_is_known(
    start: Start, known: Callable[[], int]
) -> None:
    system = await start()
    cut_one, next_one = asking(system, {"n": 1}), asking(system, {"n": 2})
    async with connected(system) as (reader, writer):
        await introduced(system, reader, writer)
        for cut in range(len(cut_one) - _length(cut_one), len(cut_one), 37):
            before = known()
            writer.write(cut_one[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(cut_one[cut:])
            assert await answered(reader) == (200, {"echo": {"n": 1}})
            writer.write(next_one)
            assert await answered(reader) == (200, {"echo": {"n": 2}})
            assert known() > before


async def test_however_requests_in_line_are_cut_each_is_answered_in_its_turn(
    start: Start, model: Model
) -> None:
    system = await start(config_for(model, handler(allow_parallel_requests=True)))
    asked = [asking(system, {"n": number}) for number in range(3)]
    everything = b"".join(asked)
    whole = len(asked[0])
    cuts = [*range(1, whole, 61), *range(whole - 3, whole + 4), *range(2 * whole - 2, 2 * whole + 3)]
    for cut in cuts:
        async with connected(system) as (reader, writer):
            await introduced(system, reader, writer)
            writer.write(everything[:cut])
            await writer.drain()
            await asyncio.sleep(0.001)
            writer.write(everything[cut:])
            for number in range(3):
                assert await answered(reader) == (200, {"echo": {"n": number}})
            writer.write(asked[0])
            assert await answered(reader) == (200, {"echo": {"n": 0}})

    await system.until_settled(6 * len(cuts))


async def test_another_header_is_another_head(start: Start, known: Callable[[], int]) -> None:
    system = await start()
    async with connected(system) as (reader, writer):
        for accept in ("a/b", "c/d"):
            writer.write(asking(system, header=f"Accept: {accept}\r\n"))
            await answered(reader)
            assert system.model.heard[-1][0].headers["Accept"] == accept
        for number in (
            0,
            1,
            1,
        ):  # what has an id of its own is not remembered: it would push out what comes again
            writer.write(asking(system, header=f"X-Request-Id: {number}\r\n"))
            await answered(reader)
            assert system.model.heard[-1][0].headers["X-Request-Id"] == str(number)

    assert known() == 0


async def test_one_that_is_refused_is_answered_as_any_other(start: Start, known: Callable[[], int]) -> None:
    system = await start()
    async with connected(system) as (reader, writer):
        await introduced(system, reader, writer)
        writer.write(asking(system, []))
        assert await answered(reader) == (422, {"payload": "must be a JSON object"})
        await system.model.stop()
        writer.write(asking(system))
        status, body = await answered(reader)
        assert (status, list(body)) == (502, ["error"])

    ends = await system.until_settled(4)
    assert [end["status"] for end in ends] == ["Success", "Success", "Rejected", "Error"]
    assert known() == 2


async def test_one_that_is_unsigned_is_refused_whatever_its_head_is(
    start: Start, known: Callable[[], int]
) -> None:
    system = await start()
    async with connected(system) as (reader, writer):
        await introduced(system, reader, writer)
        good = asking(system)
        forged = good.replace(b'"signature": "', b'"signature": "AAAA')
        forged = forged.replace(
            b"Content-Length: %d" % _length(good), b"Content-Length: %d" % _length(forged)
        )
        heard = len(system.model.heard)
        writer.write(forged)

        assert (await answered(reader))[0] == 401

    assert len(system.model.heard) == heard
    assert known() == 0
    assert len(await system.until_settled(2)) == 2


def _length(request: bytes) -> int:
    return len(request.partition(b"\r\n\r\n")[2])


async def test_a_client_that_leaves_is_cancelled(start: Start, known: Callable[[], int]) -> None:
    system = await start()
    async with connected(system) as (reader, writer):
        await introduced(system, reader, writer)
        left = asyncio.Event()

        async def respond(_: web.Request) -> web.StreamResponse:
            try:
                await asyncio.Event().wait()
            finally:
                left.set()
            raise AssertionError

        system.model.respond = respond
        writer.write(asking(system))
        await system.until_in_flight(1)
    async with asyncio.timeout(1):
        await left.wait()

    assert [end["status"] for end in await system.until_settled(3)] == ["Success", "Success", "Cancelled"]
    assert known() == 1


async def test_its_turn_is_waited_for_as_any_other_s(start: Start, model: Model) -> None:
    system = await start(config_for(model, handler(max_queue_time=60.0)))
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.json_response({})

    async with connected(system) as (first, one), connected(system) as (second, two):
        await introduced(system, first, one)
        system.model.respond = respond
        one.write(asking(system))
        two.write(asking(system))
        await eventually(lambda: len(system.model.heard) == 3)
        await system.until_in_flight(2)
        release.set()

        assert [await answered(first), await answered(second)] == [(200, {}), (200, {})]
