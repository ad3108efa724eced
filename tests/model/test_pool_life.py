"""When the model server last sent anything to anyone."""

import asyncio

from pyworker.core.errors import AnswerBroken
from pyworker.model.pool import ModelServer
from tests.scripted import Conversation, scripted


def life(model: ModelServer) -> float | None:
    return model.last_byte_at


async def test_a_whole_answer_is_life_and_stays_so_when_its_connection_works_on() -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.answer(b"ok")
        await talk.request()
        await talk.gone()

    async with scripted(script) as server:
        model = ModelServer(server.url)
        began = asyncio.get_running_loop().time()

        assert life(model) is None

        answer = await model.ask("GET", "/", [])
        await answer.read()
        first = model.last_byte_at

        assert first is not None
        assert began <= first <= asyncio.get_running_loop().time()

        second = asyncio.ensure_future(model.ask("GET", "/", []))
        await asyncio.sleep(0.05)

        assert model.last_byte_at == first

        second.cancel()
        model.close()


async def test_a_head_is_no_life_and_a_piece_of_a_body_is() -> None:
    more = asyncio.Event()

    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await more.wait()
        await talk.send(b"1\r\nx\r\n")
        await talk.gone()

    async with scripted(script) as server:
        model = ModelServer(server.url)
        answer = await model.ask("GET", "/", [])

        assert life(model) is None

        await asyncio.sleep(0.02)  # the clock moves on
        more.set()
        async with asyncio.timeout(5):
            while life(model) is None:
                await asyncio.sleep(0.001)
        flowed = model.last_byte_at

        assert flowed is not None

        answer.close()
        await asyncio.sleep(0.02)

        assert model.last_byte_at == flowed  # though its connection is gone


async def test_an_answer_given_up_after_its_head_leaves_no_life() -> None:
    async def script(talk: Conversation) -> None:
        await talk.request()
        await talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await talk.gone()

    async with scripted(script) as server:
        model = ModelServer(server.url)
        answer = await model.ask("GET", "/", [])
        model.close()
        try:
            await answer.read()
        except AnswerBroken:
            pass
        else:
            raise AssertionError("it was cut")
        await asyncio.sleep(0.02)

        assert model.last_byte_at is None
