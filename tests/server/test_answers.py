"""Every kind of answer a model server may give, as its client sees it: what h11 reads on one side, it reads on the other."""

import asyncio
import json

import h11
import pytest

from tests.scripted import Conversation, scripted
from tests.system import PAYLOAD, Model, Start, System, config_for, handler

ANSWERS = {
    "length": b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 5\r\n\r\nhello",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "reason": b"HTTP/1.1 299 Quite Fine\r\nContent-Length: 1\r\n\r\nx",
    "no_reason": b"HTTP/1.1 404 \r\nContent-Length: 1\r\n\r\nx",
    "no_content": b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    "not_modified": b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
    "long": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"y" * 100_000,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    "extensions_and_trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n"
        b"5;a=b\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"
    ),
    "no_chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "early_hints": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    ),
    "until_close": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhello",
    "http_1_0": b"HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nhello",
    "closes": b"HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nContent-Length: 5\r\n\r\nhello",
    "hop_by_hop": (
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nTE: y\r\nUpgrade: z\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    ),
    "more_than_asked_for": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 Foreign\r\nContent-Length: 7\r\n\r\nforeign"
    ),
}
ENDS_WITH_CLOSE = {"until_close", "http_1_0", "closes"}
HOP_BY_HOP = {
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"x-hop",
}  # fmt: skip

Seen = tuple[int, bytes, list[tuple[bytes, bytes]], bytes]


def read(data: bytes, *, whole: bool) -> Seen | None:
    """What h11 makes of an answer: status, reason, end-to-end headers, body. None while it is not all there."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if whole:
        client.receive_data(b"")
    head, body = None, b""
    while True:
        event = client.next_event()
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            kept = [(name, value) for name, value in head.headers if name not in HOP_BY_HOP]
            return head.status_code, head.reason, kept, body
        elif event in (h11.NEED_DATA, h11.PAUSED):
            return None


async def server(conversation: Conversation) -> None:
    while True:
        _, body = await conversation.request()
        asked = json.loads(body)
        answer = ANSWERS.get(asked.get("answer"))
        if answer is None:
            await conversation.answer(b"{}")
            continue
        step = asked["step"] or len(answer)
        for at in range(0, len(answer), step):
            await conversation.send(answer[at : at + step])
            await asyncio.sleep(0)
        if asked["answer"] in ENDS_WITH_CLOSE:
            return


async def ask(system: System, name: str, step: int) -> Seen:
    """What a client sees that asks on a connection of its own."""
    envelope = system.client.envelope() | {"payload": {"answer": name, "step": step}}
    body = json.dumps(envelope).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    try:
        writer.write(b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        got = b""
        async with asyncio.timeout(10):
            while True:
                piece = await reader.read(65536)
                got += piece
                seen = read(got, whole=not piece)
                if seen is not None:
                    return seen
                assert piece, got[:300]
    finally:
        writer.close()


@pytest.mark.parametrize("step", [0, 1, 7], ids=["at_once", "byte_by_byte", "in_sevens"])
async def test_what_the_model_server_said_is_what_the_client_hears(
    start: Start, model: Model, step: int
) -> None:
    async with scripted(server) as scripted_server:
        config = config_for(
            model,
            handler(allow_parallel_requests=True),
            model_server_port=scripted_server.port,
            model_healthcheck_url=None,
        )
        model.say("model loaded")
        system = await start(config)
        for name, raw in ANSWERS.items():
            expected = read(raw, whole=True)
            for _ in range(
                3
            ):  # the first is verified by a task, the second's head is read, the third's is known
                assert await ask(system, name, 0 if name == "long" else step) == expected, name

        assert await system.client.status(body=system.client.envelope() | {"payload": PAYLOAD}) == 200
        ends = await system.until_settled(3 * len(ANSWERS) + 1)
        assert {end["status"] for end in ends} == {"Success"}
