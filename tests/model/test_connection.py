"""Our side of HTTP/1.1 towards the model server, against scripted ones over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyworker.core.clocks import Clocks
from pyworker.core.errors import AnswerBroken, ModelTimeout, ModelUnreachable
from pyworker.model.answer import MAX_BUFFERED, ModelAnswer
from pyworker.model.pool import ModelServer
from tests.scripted import Conversation, Script, Scripted, scripted

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def model(script: Script) -> AsyncIterator[tuple[ModelServer, Scripted]]:
    async with scripted(script) as server:
        client = ModelServer(server.url)
        try:
            yield client, server
        finally:
            client.close()


def says(*pieces: bytes, close: bool = False) -> Script:
    """Answer every request with ``pieces``, each sent on its own."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.send(*pieces)
            if close:
                return

    return script


async def ask(client: ModelServer) -> ModelAnswer:
    return await client.ask("POST", "/x", [(b"Content-Type", b"application/json")], b"{}")


async def test_what_is_asked() -> None:
    heard: list[tuple[bytes, bytes]] = []

    async def script(conversation: Conversation) -> None:
        heard.append(await conversation.request())
        await conversation.answer(b"hi")

    async with model(script) as (client, server):
        answer = await client.ask("POST", "/a?b=c", [(b"X-One", b"1")], b"body")

        assert await answer.read() == b"hi"

    expected = (
        b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-One: 1\r\nContent-Length: 4\r\n\r\n" % server.port
    )

    assert heard == [(expected, b"body")]


async def test_head_and_body_as_they_were_said() -> None:
    head = b"HTTP/1.1 418 I'm a teapot\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 2\r\n\r\n"
    async with model(says(head + b"ok")) as (client, _):
        answer = await ask(client)

        assert (answer.status, answer.reason) == (418, b"I'm a teapot")
        assert answer.headers == [(b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Length", b"2")]
        assert await answer.read() == b"ok"


@pytest.mark.parametrize(
    ("pieces", "close", "body"),
    [
        ([CHUNKED, b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n"], False, b"abcde"),
        ([CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"], False, b"abc"),
        ([b"HTTP/1.1 200 OK\r\n\r\nab", b"cd"], True, b"abcd"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n"], False, b""),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], False, b""),
        (
            [
                b"HTTP/1.1 100 Continue\r\n\r\n",
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + CHUNKED,
                b"0\r\n\r\n",
            ],
            False,
            b"",
        ),
        ([b"HTTP/1.0 200 OK\r\n\r\nold"], True, b"old"),
    ],
    ids=["chunked", "trailers", "until_close", "204", "304", "empty", "informational", "http_1_0"],
)
async def test_every_kind_of_body_ends_where_it_ends(pieces: list[bytes], close: bool, body: bytes) -> None:
    async with model(says(*pieces, close=close)) as (client, _):
        answer = await ask(client)

        assert await answer.read() == body
        assert answer.headers != [(b"Link", b"x")]


async def test_a_connection_is_used_again() -> None:
    async with model(says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")) as (client, server):
        for _ in range(5):
            assert await (await ask(client)).read() == b"x"

        assert server.connections == 1


async def test_as_many_connections_as_requests() -> None:
    everyone = asyncio.Event()
    inside = 0

    async def script(conversation: Conversation) -> None:
        nonlocal inside
        await conversation.request()
        inside += 1
        if inside == 150:
            everyone.set()
        await everyone.wait()
        await conversation.answer(b"x")

    async with model(script) as (client, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(client)) for _ in range(150)]

        assert [200] * 150 == [task.result().status for task in tasks]


async def test_connection_close_is_kept() -> None:
    close = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
    async with model(says(close, close=True)) as (client, server):
        for _ in range(2):
            assert await (await ask(client)).read() == b"x"

        assert server.connections == 2


async def test_a_pooled_connection_found_dead_is_tried_once_on_a_fresh_one() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"%d" % conversation.number)
        if conversation.number == 1:
            await conversation.request()  # takes the second request to its grave
            return
        await conversation.request()

    async with model(script) as (client, server):
        assert await (await ask(client)).read() == b"1"
        assert await (await ask(client)).read() == b"2"
        assert server.connections == 2


async def test_work_that_ended_without_an_answer_is_not_done_twice() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"x")
        await conversation.request()
        await asyncio.sleep(0.3)  # works on it, then dies

    async with model(script) as (client, server):
        await (await ask(client)).read()
        with pytest.raises(ModelUnreachable, match="before it answered"):
            await ask(client)

        assert server.connections == 1


async def test_half_a_head_is_not_asked_again() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"x")
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200")

    async with model(script) as (client, server):
        await (await ask(client)).read()
        with pytest.raises(ModelUnreachable):
            await ask(client)

        assert server.connections == 1


async def test_an_answer_before_the_request_was_sent_whole_ends_the_connection() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.reader.readuntil(b"\r\n\r\n")
        await conversation.answer(b"too large", b"413 Too Large")
        await asyncio.Event().wait()

    async with model(script) as (client, server):
        big = await client.ask("POST", "/x", [], b"x" * (20 * 2**20))
        assert (big.status, await big.read()) == (413, b"too large")
        small = await ask(client)

        assert small.status == 413
        assert server.connections == 2


async def test_a_fresh_connection_that_dies_before_an_answer_is_a_502() -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()

    async with model(script) as (client, server):
        with pytest.raises(ModelUnreachable, match="closed the connection before it answered") as refusal:
            await ask(client)

        assert refusal.value.status == 502
        assert server.connections == 1


async def test_refused_is_a_502_that_names_the_address(unused_tcp_port: int) -> None:
    with pytest.raises(
        ModelUnreachable, match=f"no connection to the model server at 127.0.0.1:{unused_tcp_port}"
    ):
        await ask(ModelServer(f"http://127.0.0.1:{unused_tcp_port}"))


async def test_a_connection_that_is_not_accepted_is_a_504() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # a backlog that is full: further connections are not answered at all
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())

        with pytest.raises(ModelTimeout, match="did not accept a connection within connect_timeout=0.05 s"):
            await ModelServer(f"http://127.0.0.1:{listener.getsockname()[1]}").ask(
                "POST", "/", [], clocks=Clocks(connect=0.05)
            )


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"],
        [CHUNKED + b"5\r\nhel"],
        [CHUNKED + b"5\r\nhello\r\n"],
        [CHUNKED + b"zz\r\n"],
    ],
    ids=["length", "chunk", "no_last_chunk", "no_chunk_size"],
)
async def test_an_answer_that_breaks_off_is_broken(pieces: list[bytes]) -> None:
    async with model(says(*pieces, close=True)) as (client, _):
        answer = await ask(client)

        with pytest.raises(AnswerBroken):
            await answer.read()


@pytest.mark.parametrize(
    "raw", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 banana\r\n\r\n"], ids=["ssh", "status"]
)
async def test_what_is_not_http_is_a_502(raw: bytes) -> None:
    async with model(says(raw)) as (client, _):
        with pytest.raises(ModelUnreachable, match="not HTTP"):
            await ask(client)


async def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"
    async with model(says(answer + answer)) as (client, server):
        for _ in range(2):
            assert await (await ask(client)).read() == b"x"

        assert server.connections == 2


async def test_leaving_an_answer_closes_the_model_server_s_connection() -> None:
    left = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED + b"1\r\nx\r\n")
        await conversation.gone()
        left.set()

    async with model(script) as (client, _):
        (await ask(client)).close()
        async with asyncio.timeout(1):
            await left.wait()


async def test_cancelling_before_the_head_closes_the_connection_too() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        asked.set()
        await conversation.gone()
        left.set()

    async with model(script) as (client, _):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(ask(client))
            await asked.wait()
            task.cancel()
        async with asyncio.timeout(1):
            await left.wait()


async def test_an_unread_answer_makes_the_model_server_wait() -> None:
    sent = 0

    async def script(conversation: Conversation) -> None:
        nonlocal sent
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * 2**20))
        for _ in range(64):
            await conversation.send(b"x" * 2**20)
            sent += 1

    async with model(script) as (client, _):
        answer = await ask(client)
        await answer_is_full(answer)
        held = sent

        assert held < 32
        assert len(await answer.read()) == 64 * 2**20


async def answer_is_full(answer: ModelAnswer) -> None:
    async with asyncio.timeout(5):
        while answer._buffered <= MAX_BUFFERED:
            await asyncio.sleep(0)
    for _ in range(100):  # the sockets' own buffers fill up
        await asyncio.sleep(0.001)


async def test_a_head_request_has_no_body() -> None:
    async with model(says(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as (client, _):
        answer = await client.ask("HEAD", "/x", [])

        assert await answer.read() == b""
        assert answer.headers == [(b"Content-Length", b"5")]


@pytest.mark.parametrize("url", ["127.0.0.1:80", "ftp://x", "http://"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must start with http"):
        ModelServer(url)


TOKEN = st.text("abcdefghijkl-", min_size=1, max_size=8).map(lambda text: f"x{text}".encode())
VALUE = st.text("abc 123;=,", max_size=12).map(lambda text: text.strip().encode())
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


def by_h11(raw: bytes) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """What h11 reads from ``raw``."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    connection.receive_data(b"")
    status, headers, body = 0, [], b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status, headers = event.status_code, list(event.headers.raw_items())
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, headers, body


@given(
    status=st.sampled_from([200, 201, 404, 500, 599]),
    fields=st.lists(st.tuples(TOKEN, VALUE), max_size=4),
    bodies=BODIES,
    chunked=st.booleans(),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_it_is_cut_we_read_what_h11_reads(
    status: int, fields: list[tuple[bytes, bytes]], bodies: list[bytes], chunked: bool, cuts: list[int]
) -> None:
    head = b"HTTP/1.1 %d OK\r\n" % status + b"".join(b"%b: %b\r\n" % field for field in fields)
    if chunked:
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in bodies) + b"0\r\n\r\n"
        raw = head + b"Transfer-Encoding: chunked\r\n\r\n" + body
    else:
        raw = head + b"Content-Length: %d\r\n\r\n" % len(b"".join(bodies)) + b"".join(bodies)
    pieces, at, turn = [], 0, 0
    while at < len(raw):
        size = cuts[turn % len(cuts)]
        pieces.append(raw[at : at + size])
        at, turn = at + size, turn + 1

    async def read() -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        async with model(says(*pieces)) as (client, _):
            answer = await ask(client)
            return answer.status, answer.headers, await answer.read()

    assert asyncio.run(read()) == by_h11(raw)
