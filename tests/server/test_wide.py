"""Wider than the reference: a grant in a header with any method, path, body or WebSocket; clocks, lanes and limits."""

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pyworker import HandlerConfig
from pyworker.server import body, client, door
from tests.system import PAYLOAD, Model, Start, System, config_for, eventually, handler


def grant(system: System, **changes: Any) -> dict[str, str]:
    """The header that lets a request in."""
    auth = json.dumps(system.client.auth(**changes)).encode()
    return {"X-Auth-Data": base64.b64encode(auth).decode()}


def also(**fields: Any) -> HandlerConfig:
    """A second handler, without a benchmark."""
    return HandlerConfig(**{"allow_parallel_requests": True, "max_queue_time": None, **fields})


# Methods, paths, headers, bodies...


async def test_any_method_a_handler_allows(start: Start, model: Model) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{request.method} {request.path_qs}", headers={"X-Own": "1"})

    system = await start(config_for(model, handler(), also(route="/jobs", methods=("GET", "DELETE"))))
    model.respond = respond
    url = system.client.url + "/jobs?api_key=secret&after=a%20b&api%5fkey=secret"
    for method in ("GET", "DELETE"):
        headers = {**grant(system), "Authorization": "Bearer secret", "Cookie": "a=b", "X-Other": "o"}
        async with system.session.request(method, url, headers=headers) as answer:
            assert (answer.status, await answer.text()) == (200, f"{method} /jobs?after=a%20b")
            assert answer.headers["X-Own"] == "1"
    request, content = model.heard[-1]

    assert content == b""
    assert {name.lower() for name in request.headers} == {
        "host", "accept", "accept-encoding", "user-agent", "x-other",
    }  # fmt: skip
    async with system.session.put(url, headers=grant(system)) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "DELETE, GET")


async def test_a_head_request_gets_the_head_alone(start: Start, model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    system = await start(config_for(model, handler(), also(route="/jobs", methods=("HEAD", "GET"))))
    model.respond = respond
    for method, text in (("HEAD", ""), ("GET", "hello")):
        async with system.session.request(
            method, system.client.url + "/jobs", headers=grant(system)
        ) as answer:
            assert (answer.status, answer.headers["Content-Length"], await answer.text()) == (200, "5", text)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/videos/v_1", "/v1/videos/v_1"),
        ("/v1/videos/a%20b", "/v1/videos/a%20b"),
        ("/v1/videos/", None),
        ("/v1/videos/a/b", None),
        ("/v1/videos/..", None),
        ("/v1/videos/%2e%2e", None),
        ("/v1/videos/a%2Fb", None),
        ("/v1/videos/a%5Cb", None),
        ("/v1/videos/a%0Ab", None),
    ],
)
async def test_a_parameter_is_one_segment_of_the_path(
    start: Start, model: Model, path: str, asked: str | None
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.raw_path)

    system = await start(config_for(model, handler(), also(route="/v1/videos/{id}", methods=("GET",))))
    model.respond = respond
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Auth-Data: {grant(system)['X-Auth-Data']}\r\nConnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(head.encode())
    answer = (await reader.read()).decode()
    writer.close()

    if asked is None:
        assert answer.startswith("HTTP/1.1 404")
    else:
        assert answer.startswith("HTTP/1.1 200")
        assert answer.endswith("\r\n\r\n" + asked)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_raw_body_goes_on_as_it_comes(start: Start, model: Model, chunked: bool) -> None:
    first, rest = b"x" * 100_000, b"y" * 3_000_000
    here = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield first
        async with asyncio.timeout(5):
            await here.wait()
        yield rest

    async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head)
        await reader.readexactly(len(first))
        here.set()  # the model server has the first part while the client still holds the second back
        await reader.readexactly(len(rest))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
        writer.close()

    heard: list[bytes] = []
    system = await start(config_for(model, handler(), also(route="/up", methods=("POST", "PUT"))))
    await model.stop()
    server = await asyncio.start_server(
        upload if not chunked else _dechunked(upload), "127.0.0.1", model.port
    )
    headers = {**grant(system), "Content-Type": "application/octet-stream", "X-Name": "n"}
    if not chunked:
        headers["Content-Length"] = str(len(first + rest))
    async with system.session.put(system.client.url + "/up", data=pieces(), headers=headers) as answer:
        assert (answer.status, await answer.text()) == (200, "done")
    server.close()

    [end] = await system.until_settled(1)
    assert end["status"] == "Success"
    assert b"X-Name: n" in heard[0]
    assert (b"Transfer-Encoding: chunked" in heard[0]) is chunked


def _dechunked(serve: Any) -> Any:
    """A server that sees the body without its framing."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plain = asyncio.StreamReader()

        async def copy() -> None:
            plain.feed_data(await reader.readuntil(b"\r\n\r\n"))
            while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
                plain.feed_data((await reader.readexactly(size + 2))[:-2])

        async with asyncio.TaskGroup() as group:
            group.create_task(copy())
            group.create_task(serve(plain, writer))

    return connected


async def test_a_multipart_body_passes_by_a_handler_that_prices_json(start: Start, model: Model) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.content_type)

    config = config_for(model, handler(workload_calculator=lambda payload: float(payload["n"])))
    system = await start(config)
    model.respond = respond
    form = aiohttp.FormData({"model": "m"})
    form.add_field("file", b"\x00" * 1000, filename="a.wav")
    async with system.session.post(
        system.client.url + "/x", data=form, headers=grant(system, cost="77")
    ) as answer:
        assert (answer.status, await answer.text()) == (200, "multipart/form-data")
    async with system.session.post(system.client.url + "/x", json={"n": 5}, headers=grant(system)) as answer:
        assert answer.status == 200
    await system.until_settled(2)

    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 82.0)


async def test_a_body_that_its_parser_cannot_see_is_415(start: Start, model: Model) -> None:
    config = config_for(model, handler(request_parser=lambda payload: payload, raw_types=("audio/wav",)))
    system = await start(config)
    for content_type, status in (("audio/wav", 200), ("audio/mp3", 415)):
        model.respond = _says_ok
        headers = {**grant(system), "Content-Type": content_type}
        async with system.session.post(system.client.url + "/x", data=b"\x00", headers=headers) as answer:
            assert answer.status == status


async def _says_ok(_: web.Request) -> web.StreamResponse:
    return web.Response(text="ok")


# WebSockets...


async def _echo(request: web.Request) -> web.StreamResponse:
    socket_ = web.WebSocketResponse(protocols=("chat",))
    await socket_.prepare(request)
    async for message in socket_:
        if message.data == "bye":
            break
        if message.type is aiohttp.WSMsgType.TEXT:
            await socket_.send_str(message.data.upper())
        else:
            await socket_.send_bytes(message.data)
    await socket_.close(code=4001)
    return socket_


@pytest.mark.parametrize("who", ["client", "model_server"])
async def test_a_websocket_is_relayed_until_either_side_ends_it(start: Start, model: Model, who: str) -> None:
    system = await start(config_for(model, handler(), also(route="/ws", methods=("GET",))))
    model.respond = _echo
    async with system.session.ws_connect(
        system.client.url + "/ws?api_key=k&a=1", headers=grant(system), protocols=("chat",)
    ) as ws:
        assert ws.protocol == "chat"
        await ws.send_str("hi")
        assert await ws.receive_str() == "HI"
        blob = b"z" * 500_000
        await ws.send_bytes(blob)
        assert await ws.receive_bytes() == blob
        assert (await system.status())["requests"]["in_flight"]["count"] == 1
        if who == "client":
            await ws.close()
        else:
            await ws.send_str("bye")
            assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
            assert ws.close_code == 4001

    [end] = await system.until_settled(1)
    assert (end["status"], model.heard[-1][0].path_qs) == ("Success", "/ws?a=1")


async def test_a_websocket_client_that_is_gone_frees_the_model_server(start: Start, model: Model) -> None:
    system = await start(config_for(model, handler(), also(route="/ws", methods=("GET",))))
    model.respond = _echo
    ws = await system.session.ws_connect(system.client.url + "/ws", headers=grant(system))
    await ws.send_str("hi")
    await ws.receive_str()
    assert ws._conn is not None
    assert ws._conn.transport is not None
    ws._conn.transport.abort()
    await eventually(lambda: model.working == 0, within=0.5)

    await system.until_settled(1)
    await ws.close()


async def test_a_model_server_that_takes_no_websocket_says_so_itself(start: Start, model: Model) -> None:
    system = await start(config_for(model, handler(), also(route="/ws", methods=("GET",))))
    model.respond = _says_ok
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await system.session.ws_connect(system.client.url + "/ws", headers=grant(system))

    assert refused.value.status == 200


# The four clocks...


@pytest.mark.parametrize(
    ("clock", "seconds", "status"),
    [("first_byte_timeout", 0.1, 504), ("total_timeout", 0.1, 504), ("idle_timeout", 0.1, None)],
)
async def test_the_clock_that_ran_out_is_named(
    start: Start,
    model: Model,
    *,
    clock: str,
    seconds: float,
    status: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        if clock == "idle_timeout":
            await response.prepare(request)
            await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    system = await start(config_for(model, handler(**{clock: seconds})))
    for _ in range(2):  # by a task, then without one
        model.respond = respond
        async with system.client.post() as answer:
            if status is None:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await answer.read()
                await eventually(lambda: f"{clock}={seconds:g} s" in caplog.text)
            else:
                assert answer.status == status
                assert f"{clock}={seconds:g} s" in (await answer.json())["error"]
        await eventually(lambda: model.working == 0, within=1)

    ends = await system.until_settled(2)
    assert [end["status"] for end in ends] == ["Error", "Error"]


async def test_a_stream_that_goes_on_is_not_cut_by_the_idle_clock(start: Start, model: Model) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number in range(12):
            await response.write(b"%d," % number)
            await asyncio.sleep(0.05)
        return response

    system = await start(config_for(model, handler(idle_timeout=0.3, first_byte_timeout=0.3)))
    model.respond = respond
    async with system.client.post() as answer:
        assert await answer.text() == "0,1,2,3,4,5,6,7,8,9,10,11,"


# Lanes and limits...


async def test_a_handler_with_a_width_has_a_lane_of_its_own(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    wide = HandlerConfig(route="/wide", concurrency=2, max_queue_time=None)
    system = await start(config_for(model, handler(), wide))
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(system.client.status("/wide")) for _ in range(3)]
        await system.until_in_flight(3)
        await eventually(lambda: model.working == 2)
        other = group.create_task(system.client.status("/x"))
        await eventually(lambda: model.working == 3)
        assert (await system.status())["lanes"]["/wide"] == {"running": 2, "waiting": 1, "width": 2}
        release.set()

    assert [200] * 4 == [task.result() for task in [*asked, other]]


async def test_a_queue_that_is_too_long_is_429(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    system = await start(config_for(model, handler(max_queue_time=None)), MAX_QUEUE_LENGTH="1")
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(system.client.status()) for _ in range(2)]
        await system.until_in_flight(2)
        async with system.client.post() as answer:
            assert (answer.status, int(answer.headers["Retry-After"])) == (429, 1)
            assert (await answer.json())["error"] == "1 requests wait already"
        release.set()

    assert [200, 200] == [task.result() for task in asked]


async def test_too_many_busy_connections_are_told_so(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    system = await start(
        config_for(model, handler(allow_parallel_requests=True, max_queue_time=None)), MAX_CONNECTIONS="2"
    )
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        busy = [group.create_task(system.client.status()) for _ in range(2)]
        await system.until_in_flight(2)
        reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
        told = await reader.read()
        writer.close()
        release.set()

    assert [200, 200] == [task.result() for task in busy]
    assert told.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 1" in told
    assert b"\r\nX-Request-Id: " in told
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"].startswith("too many connections")


@pytest.mark.parametrize("sent", [b"", b"POST /x HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "half_a_head"])
async def test_who_only_holds_connections_keeps_nobody_out(start: Start, sent: bytes) -> None:
    system = await start(MAX_CONNECTIONS="3")
    port = system.settings.worker_port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for _, writer in held:
        writer.write(sent)

    for _ in range(3):
        async with system.session.post(
            system.client.url + "/x", json=system.client.envelope(), headers={"Connection": "close"}
        ) as answer:
            assert answer.status == 200
    async with asyncio.timeout(3):
        assert await held[0][0].read() == b""  # the oldest had to go
    assert not held[2][0].at_eof()
    for _, writer in held:
        writer.close()


async def test_bodies_on_their_way_take_no_more_memory_than_is_given_them(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "AWAITED", 0)
    system = await start(MAX_BODY_SIZE=str(2**20))  # so there are 4 MB for all
    port = system.settings.worker_port
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n"
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(10):
        told = []
        for _ in range(5):  # whichever comes last has no room
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(head + b" " * (2**20 - 1))
            told.append(asyncio.ensure_future(read_answer(reader)))
        [first], held = await asyncio.wait(told, return_when=asyncio.FIRST_COMPLETED)
        assert first.result()[0].startswith(b"HTTP/1.1 429 ")
        assert await system.client.status() == 200  # one that is here at once takes none of it
        for task in held:
            task.cancel()
    async with asyncio.timeout(10):  # and what was held is free again when they are gone
        while await system.client.status(body=system.client.envelope({"x": "y" * 2**19})) != 200:
            pass


async def test_a_slow_head_is_408(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HEAD_TIMEOUT", 0.1)
    system = await start()
    for sent, status in ((b"POST /x HTTP/1.1\r\nHost: x\r\n", b"HTTP/1.1 408"), (b"", b"")):
        reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
        writer.write(sent)
        async with asyncio.timeout(3):
            told = await reader.read()
        writer.close()

        assert told.startswith(status)
        assert bool(told) == bool(sent)


@pytest.mark.parametrize("trickle", [False, True], ids=["stops", "trickles"])
async def test_a_slow_body_is_408(start: Start, monkeypatch: pytest.MonkeyPatch, trickle: bool) -> None:
    monkeypatch.setattr(body, "PAUSE", 0.2)
    monkeypatch.setattr(body, "RATE", 10_000)
    system = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    async with asyncio.timeout(5):
        while trickle and not reader._buffer:  # type: ignore[attr-defined]
            writer.write(b" ")
            await asyncio.sleep(0.05)
        told = await reader.readuntil(b"}")
    writer.close()

    assert told.startswith(b"HTTP/1.1 408")
    assert (b"bytes a second" if trickle else b"no byte of the body for 0.2 s") in told


# Without a task...


def raw(system: System, payload: dict[str, Any] = PAYLOAD, **changes: Any) -> bytes:
    content = json.dumps(system.client.envelope(payload, **changes)).encode()
    return b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content) + content


async def read_answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def test_many_requests_in_one_packet_are_answered_in_order(start: Start) -> None:
    system = await start()
    await system.client.status()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(b"".join(raw(system, {"n": n}) for n in range(30)))
    async with asyncio.timeout(5):
        answers = [await read_answer(reader) for _ in range(30)]
    writer.close()

    assert [{"echo": {"n": n}} for n in range(30)] == [json.loads(content) for _, content in answers]
    ends = await system.until_settled(31)
    assert {end["status"] for end in ends} == {"Success"}


async def test_head_and_body_may_come_in_pieces(start: Start) -> None:
    system = await start()
    await system.client.status()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    request = raw(system)
    async with asyncio.timeout(5):
        for pause in (0.0, 0.1):  # within the patience for a short body, and beyond it
            for piece in (request[:20], request[20:60], request[60:-5], request[-5:]):
                writer.write(piece)
                await asyncio.sleep(pause)
            assert json.loads((await read_answer(reader))[1]) == {"echo": PAYLOAD}
    writer.close()


async def test_a_refusal_after_a_request_was_taken_leaves_the_connection_usable(
    start: Start, model: Model
) -> None:
    def price(payload: dict[str, Any]) -> dict[str, Any]:
        if payload.get("bad"):
            raise ValueError("bad")
        return payload

    system = await start(config_for(model, handler(request_parser=price)))
    await system.client.status()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    model.respond = None
    async with asyncio.timeout(5):
        writer.write(raw(system))
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 200")
        model.respond = _breaks_off
        writer.write(raw(system))
        head, content = await read_answer(reader)
        assert head.startswith(b"HTTP/1.1 502")
        assert "before it answered" in json.loads(content)["error"]
        model.respond = None
        writer.write(raw(system))
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 200")
        writer.write(raw(system, {"bad": True}))
        assert (await read_answer(reader))[0].startswith(b"HTTP/1.1 500")
    writer.close()

    ends = await system.until_settled(5)
    assert [end["status"] for end in ends] == ["Success", "Success", "Error", "Success", "Error"]


async def _breaks_off(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def test_a_pooled_connection_that_died_is_replaced_unseen(start: Start, model: Model) -> None:
    system = await start()
    assert [await system.client.status() for _ in range(3)] == [200] * 3
    await model.stop()
    await model.start()

    assert [await system.client.status() for _ in range(3)] == [200] * 3


async def test_a_model_server_that_is_gone_is_a_502_at_once(start: Start, model: Model) -> None:
    system = await start()
    await system.client.status()
    await model.stop()
    async with system.client.post() as answer:
        assert answer.status == 502
        assert "refused" in (await answer.json())["error"]

    ends = await system.until_settled(2)
    assert ends[1]["status"] == "Error"


async def test_an_old_client_gets_no_chunks(start: Start, model: Model) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for word in (b"one ", b"two"):
            await response.write(word)
        return response

    system = await start()
    model.respond = respond
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
        writer.write(raw(system).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        async with asyncio.timeout(5):
            head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()

        assert b"chunked" not in head
        assert content == b"one two"


async def test_a_drain_cuts_what_is_served_without_a_task(start: Start, model: Model) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    system = await start(DRAIN_TIMEOUT="0.2")
    await system.client.status()
    model.respond = respond
    async with system.client.post() as answer:
        await answer.content.readany()
        system.stop.set()
        with pytest.raises(aiohttp.ClientError):
            await answer.read()

    ends = await system.until_settled(2)
    assert ends[1]["status"] == "Error"


async def test_a_client_that_reads_nothing_makes_the_model_server_wait(start: Start, model: Model) -> None:
    sent = 0

    async def respond(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(400):
            await response.write(b"x" * 100_000)
            sent += 1
        return response

    system = await start()
    await system.client.status()
    model.respond = respond
    raw_socket = socket.socket()
    raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    raw_socket.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw_socket, ("127.0.0.1", system.settings.worker_port))
    await loop.sock_sendall(raw_socket, raw(system))
    held, seen = -1, 0
    async with asyncio.timeout(10):
        while held != sent or sent == 0:  # until it stands still
            held = sent
            await asyncio.sleep(0.2)

    assert 0 < held < 300
    async with asyncio.timeout(20):
        while seen < 40_000_000:
            seen += len(await loop.sock_recv(raw_socket, 2**20))
    raw_socket.close()
    ends = await system.until_settled(2)
    assert ends[1]["status"] == "Success"


async def test_a_usual_request_to_a_handler_without_post_is_a_405(start: Start, model: Model) -> None:
    system = await start(
        config_for(model, handler(), handler(route="/put", benchmark_config=None, methods=["PUT"]))
    )

    assert await system.client.status() == 200
    assert [await system.client.status("/put") for _ in range(2)] == [405, 405]
