"""Life of a request through a real worker: who is let in, what goes on, what comes back, what the engine hears."""

import asyncio
import base64
import contextlib
import gzip
import json
import socket
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pyworker import JsonDataException
from tests.system import PAYLOAD, Model, Start, System, config_for, eventually, handler


def nothing_counted(system: System) -> bool:
    return not system.engine.ended and all(
        report.num_requests_recieved == 0 for report in system.engine.reports
    )


async def test_a_signed_request_is_answered_and_reported(start: Start) -> None:
    system = await start()
    async with system.client.post() as answer:
        assert (answer.status, await answer.json()) == (200, {"echo": PAYLOAD})

    [end] = await system.until_settled(1)

    assert (end["request_idx"], end["success"], end["status"]) == (1001, True, "Success")
    assert 0 < end["entered_queue_at"] <= end["work_started_at"] <= end["work_completed_at"]
    await eventually(lambda: system.engine.reports[-1].num_requests_recieved == 1)
    assert sum(report.new_load for report in system.engine.reports) == 100.0
    assert sum(report.cur_perf for report in system.engine.reports) == 100.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"signature": base64.b64encode(b"x" * 256).decode()}, "bad signature"),
        ({"signature": "not base64!"}, "bad signature"),
        ({"url": "http://127.0.0.1:1"}, "signed for another worker"),
    ],
    ids=["forged", "garbage", "other_worker"],
)
async def test_a_wrong_signature_is_401_and_nothing_is_counted(
    start: Start, change: dict[str, Any], why: str
) -> None:
    system = await start()
    if "url" in change:
        change["signature"] = system.client.sign(change["url"])
    heard = len(system.model.heard)
    async with system.client.post(body=system.client.envelope(**change)) as answer:
        assert answer.status == 401
        assert why in (await answer.json())["error"]

    assert await system.client.status() == 200
    ends = await system.until_settled(1)

    assert ends[0]["request_idx"] == 1002
    assert len(system.model.heard) == heard + 1


@pytest.mark.parametrize(
    "raw", [b"", b"null", b"5", b"[]", b"{", b"\xff\xfe", b'{"auth_data": null}', b'{"auth_data": 5}']
)
async def test_what_is_no_envelope_is_422_and_nothing_is_counted(start: Start, raw: bytes) -> None:
    system = await start()
    async with system.session.post(system.client.url + "/x", data=raw) as answer:
        assert answer.status == 422
        assert isinstance(await answer.json(), dict)

    assert nothing_counted(system)


async def test_a_signed_request_with_a_wrong_field_is_422_and_reported_as_rejected(start: Start) -> None:
    system = await start()
    async with system.client.post(body=system.client.envelope(reqnum="x")) as answer:
        assert (answer.status, await answer.json()) == (
            422,
            {"auth_data": {"reqnum": "must be a whole number, 0 or more"}},
        )

    [end] = await system.until_settled(1)

    assert (end["status"], end["success"], end["work_started_at"]) == ("Rejected", False, 0.0)


async def test_the_payload_arrives_as_the_bytes_the_client_wrote(start: Start) -> None:
    system = await start()
    raw = b'{"n":123456789012345678901234567890, "f" : 1e400, "t":"s\xc3\xb8ster", "a":1, "a":2}'
    envelope = b'{"payload": %b, "auth_data": %b}' % (raw, json.dumps(system.client.auth()).encode())

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(text="fine")

    system.model.respond = respond
    secrets = {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Other": "o"}
    passed_on = {"traceparent": "00-1", "X-Request-Id": "r1"}
    url = system.client.url + "/x?api_key=secret"
    async with system.session.post(url, data=envelope, headers={**secrets, **passed_on}) as answer:
        assert await answer.text() == "fine"
    request, body = system.model.heard[-1]

    assert body == raw
    assert request.path_qs == "/x"
    assert {name.lower() for name in request.headers} == {
        "host", "content-type", "content-length", "accept", "accept-encoding", "traceparent", "x-request-id",
    }  # fmt: skip
    assert request.headers["X-Request-Id"] == "r1"


async def test_the_answer_is_the_model_server_s_own(start: Start) -> None:
    packed = gzip.compress(b"hello" * 1000)

    async def respond(_: web.Request) -> web.StreamResponse:
        headers = [
            ("Content-Encoding", "gzip"),
            ("X-Two", "1"),
            ("X-Two", "2"),
            ("Keep-Alive", "timeout=5"),
            ("Content-Type", "text/x"),
        ]
        return web.Response(status=418, reason="Teapot", body=packed, headers=headers)

    system = await start()
    system.model.respond = respond
    async with system.client.post(headers={"Accept-Encoding": "gzip"}) as answer:
        assert (answer.status, answer.reason) == (418, "Teapot")
        assert answer.headers.getall("X-Two") == ["1", "2"]
        assert "Keep-Alive" not in answer.headers
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == b"hello" * 1000

    [end] = await system.until_settled(1)

    assert end["status"] == "Success"  # a 4xx: the model server did its work


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/x-ndjson"])
async def test_a_stream_comes_chunk_by_chunk(start: Start, content_type: str) -> None:
    gate = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await gate.wait()
        await response.write(b"data: 2\n\n")
        return response

    system = await start()
    system.model.respond = respond
    async with system.client.post() as answer:
        assert answer.headers["Content-Type"] == content_type
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert await answer.content.readany() == b"data: 1\n\n"
        assert not system.engine.ended
        gate.set()
        assert await answer.content.read() == b"data: 2\n\n"

    [end] = await system.until_settled(1)

    assert end["status"] == "Success"


async def test_a_large_answer_and_a_slow_reader(start: Start) -> None:
    size = 32 * 2**20

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * size)

    system = await start()
    system.model.respond = respond
    async with system.client.post() as answer:
        await asyncio.sleep(0.2)  # nobody reads meanwhile
        assert answer.content_length == size
        assert len(await answer.read()) == size


async def test_the_model_server_is_down_502(start: Start) -> None:
    system = await start()
    await system.model.stop()
    async with system.client.post() as answer:
        assert answer.status == 502
        assert "no connection to the model server" in (await answer.json())["error"]

    [end] = await system.until_settled(1)

    assert (end["status"], end["success"]) == ("Error", False)


async def test_a_short_answer_that_breaks_off_is_a_502(start: Start) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    system = await start()
    system.model.respond = respond

    assert await system.client.status() == 502


async def test_a_stream_that_breaks_off_looks_broken(start: Start) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        assert request.transport is not None
        request.transport.close()
        return response

    system = await start()
    system.model.respond = respond
    async with system.client.post() as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()

    [end] = await system.until_settled(1)

    assert end["status"] == "Error"


async def test_the_model_server_s_5xx_is_an_error(start: Start) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="oops")

    system = await start()
    system.model.respond = respond

    assert await system.client.status() == 500
    [end] = await system.until_settled(1)
    assert (end["status"], end["success"]) == ("Error", False)


GOOD_PIECE = b'data: {"choices": [{"text": "hi"}]}\n\n'
BAD_PIECE = b'data: {"error": {"code": 500, "message": "the core died", "api_key": "veryprivate"}}\n\n'


@pytest.mark.parametrize("way", ["direct", "by_header"])
@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([GOOD_PIECE, BAD_PIECE], "Error"),
        ([GOOD_PIECE, BAD_PIECE, b"data: [DONE]\n\n"], "Error"),
        ([GOOD_PIECE + BAD_PIECE + b"data: [DONE]\n\n"], "Error"),
        ([BAD_PIECE, GOOD_PIECE, GOOD_PIECE, b"data: [DONE]\n\n"], "Success"),
        ([GOOD_PIECE, b'data: {"error": null, "done": true}\n\n'], "Success"),
    ],
    ids=["llama_cpp", "vllm", "in_one", "gone_on_after", "null"],
)
async def test_a_stream_that_ends_with_an_error_is_an_error(
    start: Start, pieces: list[bytes], status: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.02)  # each is read by itself
        return response

    system = await start()
    system.model.respond = respond
    url, auth = system.client.url + "/x", system.client.auth()
    headers = {"X-Auth-Data": base64.b64encode(json.dumps(auth).encode()).decode()}
    body = {"auth_data": auth, "payload": PAYLOAD}
    options: dict[str, Any] = {"json": body} if way == "direct" else {"headers": headers, "json": PAYLOAD}
    async with system.session.post(url, **options) as answer:
        assert answer.status == 200
        assert await answer.read() == b"".join(pieces)
    [end] = await system.until_settled(1)

    assert end["status"] == status
    assert ("answer tells of an error: route=/x why=data: " in caplog.text) == (status == "Error")
    assert "veryprivate" not in caplog.text


async def test_a_handler_may_call_a_4xx_an_error(start: Start, model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(status=424)

    system = await start(config_for(model, handler(error_statuses=[424])))
    model.respond = respond

    assert await system.client.status() == 424
    [end] = await system.until_settled(1)
    assert end["status"] == "Error"


async def test_not_ready_is_503_with_a_reason(start: Start, model: Model) -> None:
    model.health = 503
    system = await start(ready=False)
    await system.until_state("loading")
    async with asyncio.timeout(5):
        while True:
            async with system.client.post() as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                why = (await answer.json())["error"]
            if (
                "public key" not in why
            ):  # while it is on its way nobody can be told apart, and nothing is counted
                break
            assert not system.engine.ended

    assert "loading" in why
    await eventually(lambda: len(system.engine.ended) >= 1)

    assert {end.status for end in system.engine.ended} == {"Rejected"}
    await eventually(
        lambda: sum(report.rej_load for report in system.engine.reports) == 100.0 * len(system.engine.ended)
    )
    assert sum(report.new_load for report in system.engine.reports) == 0.0


async def test_a_serial_lane_runs_one_at_a_time_in_order(start: Start, model: Model) -> None:
    order: list[int] = []
    release = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        order.append(json.loads(await request.read())["n"])
        assert model.working == 1
        await release.wait()
        return web.Response(text="ok")

    system = await start()
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(system.client.status(body=system.client.envelope({"n": number})))
            await system.until_in_flight(number + 1)
        release.set()

    assert order == list(range(8))


async def test_a_parallel_handler_runs_all_at_once(start: Start, model: Model) -> None:
    everyone = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        if model.working == 150:
            everyone.set()
        await everyone.wait()
        return web.Response(text="ok")

    system = await start(config_for(model, handler(allow_parallel_requests=True, max_queue_time=None)))
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(system.client.status()) for _ in range(150)]

    assert [200] * 150 == [task.result() for task in tasks]


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_full_lane_is_429_with_retry_after(start: Start, model: Model, parallel: bool) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    config = config_for(
        model,
        handler(
            workload_calculator=lambda payload: payload["n"],
            max_queue_time=2.0,
            allow_parallel_requests=parallel,
        ),
    )
    system = await start(config)
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        first = group.create_task(
            system.client.status(body=system.client.envelope({"n": 9000}))
        )  # 9 s at perf 1000
        await eventually(lambda: model.working == 1)
        async with system.client.post(body=system.client.envelope({"n": 50})) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "7"
            assert "expected wait 9.0 s" in (await answer.json())["error"]
        release.set()

    assert first.result() == 200
    ends = await system.until_settled(2)
    assert {end["status"] for end in ends} == {"Success", "Rejected"}
    await eventually(lambda: sum(report.rej_load for report in system.engine.reports) == 50.0)
    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 9000.0)


async def test_who_in_fact_waits_too_long_is_refused_too(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    system = await start(config_for(model, handler(workload_calculator=lambda _: 1.0, max_queue_time=0.2)))
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        first = group.create_task(system.client.status())
        await eventually(lambda: model.working == 1)
        assert await system.client.status() == 429
        release.set()

    assert first.result() == 200
    ends = await system.until_settled(2)
    assert [end["status"] for end in ends] == ["Rejected", "Success"]


async def test_zero_max_queue_time_means_no_waiting(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    system = await start(config_for(model, handler(max_queue_time=0.0)))
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        first = group.create_task(system.client.status())
        await eventually(lambda: model.working == 1)
        assert await system.client.status() == 429
        release.set()

    assert first.result() == 200


@pytest.mark.parametrize("streams", [False, True], ids=["before_the_head", "mid_stream"])
async def test_a_client_that_leaves_stops_the_model_server(start: Start, model: Model, streams: bool) -> None:
    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if streams:
            response.enable_chunked_encoding()
            await response.prepare(request)
            await response.write(b"data: 1\n\n")
        await asyncio.Event().wait()
        return response

    system = await start()
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        leaving = group.create_task(system.client.status())
        await eventually(lambda: model.working == 1)
        leaving.cancel()
    await eventually(lambda: model.cancelled == 1, within=0.5)

    [end] = await system.until_settled(1)

    assert (end["status"], end["success"]) == ("Cancelled", True)
    await eventually(lambda: system.engine.reports[-1].cur_load == 0)
    assert sum(report.cur_perf for report in system.engine.reports) == 0.0


async def test_a_client_that_leaves_the_queue_closes_the_gap(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    system = await start()
    model.respond = respond
    heard = len(model.heard)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(system.client.status())
        await eventually(lambda: model.working == 1)
        leaving = group.create_task(system.client.status())
        await system.until_in_flight(2)
        third = group.create_task(system.client.status())
        await system.until_in_flight(3)
        leaving.cancel()
        await system.until_in_flight(2)
        release.set()

    assert (first.result(), third.result()) == (200, 200)
    assert len(model.heard) - heard == 2
    ends = await system.until_settled(3)
    assert sorted(end["status"] for end in ends) == ["Cancelled", "Success", "Success"]


async def test_a_grant_in_a_header_and_the_payload_as_the_body(start: Start) -> None:
    system = await start()
    grant = base64.b64encode(json.dumps(system.client.auth()).encode()).decode()
    async with system.session.post(
        system.client.url + "/x", json=PAYLOAD, headers={"X-Auth-Data": grant}
    ) as answer:
        assert (answer.status, await answer.json()) == (200, {"echo": PAYLOAD})
    request, _ = system.model.heard[-1]

    assert "X-Auth-Data" not in request.headers


async def test_a_body_over_the_limit_is_413(start: Start) -> None:
    system = await start(MAX_BODY_SIZE="1000")

    async def endless() -> Any:
        for _ in range(10):
            yield b"x" * 500

    for data in (b"x" * 1001, endless()):
        async with system.session.post(system.client.url + "/x", data=data) as answer:
            assert answer.status == 413
            assert "over the limit of 1000 bytes" in (await answer.json())["error"]

    assert nothing_counted(system)


async def test_a_compressed_body_is_415(start: Start) -> None:
    system = await start()
    async with system.session.post(
        system.client.url + "/x", data=b"x", headers={"Content-Encoding": "gzip"}
    ) as answer:
        assert answer.status == 415


async def test_no_such_route_and_wrong_method(start: Start) -> None:
    system = await start()

    assert await system.client.status("/nosuch") == 404
    async with system.session.get(system.client.url + "/x") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    async with system.session.post(system.client.url + "/%78", json=system.client.envelope()) as answer:
        assert answer.status == 200


async def test_expect_100_continue_is_heard(start: Start) -> None:
    system = await start()
    async with system.client.post(expect100=True) as answer:
        assert answer.status == 200


async def test_an_unknown_session_is_410(start: Start) -> None:
    system = await start()
    body = {**system.client.envelope(), "session_id": "nosuch"}
    async with system.client.post(body=body) as answer:
        assert (answer.status, await answer.json()) == (410, {"error": "invalid session"})


async def test_unsecured_lets_everyone_in(start: Start) -> None:
    system = await start(UNSECURED="true")
    body = {"auth_data": {"request_idx": 1, "url": system.client.url}, "payload": PAYLOAD}

    assert await system.client.status(body=body) == 200
    assert (await system.status())["unsecured"]


# Hooks of authors...


async def test_a_request_parser_that_refuses_or_fails(start: Start, model: Model) -> None:
    def parse(payload: dict[str, Any]) -> dict[str, Any]:
        if "bad" in payload:
            raise JsonDataException({"bad": "not allowed"})
        if "worse" in payload:
            raise RuntimeError("secret detail")
        return {"parsed": payload}

    system = await start(config_for(model, handler(request_parser=parse)))
    async with system.client.post() as answer:
        assert await answer.json() == {"echo": {"parsed": PAYLOAD}}
    async with system.client.post(body=system.client.envelope({"bad": 1})) as answer:
        assert (answer.status, await answer.json()) == (422, {"payload": {"bad": "not allowed"}})
    async with system.client.post(body=system.client.envelope({"worse": 1})) as answer:
        assert (answer.status, await answer.json()) == (
            500,
            {"error": "the request_parser of /x raised RuntimeError"},
        )

    ends = await system.until_settled(3)

    assert [end["status"] for end in ends] == ["Success", "Rejected", "Error"]


async def test_a_response_generator_gets_the_real_thing(start: Start, model: Model) -> None:
    async def generate(request: web.Request, response: aiohttp.ClientResponse) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        assert isinstance(response, aiohttp.ClientResponse)
        return web.json_response({"wrapped": await response.json()}, status=201)

    system = await start(config_for(model, handler(response_generator=generate)))
    async with system.client.post() as answer:
        assert (answer.status, await answer.json()) == (201, {"wrapped": {"echo": PAYLOAD}})

    await model.stop()

    assert await system.client.status() == 502


@pytest.mark.parametrize(
    ("kind", "message"), [("raises", "raised ValueError"), ("none", "must return an aiohttp response")]
)
async def test_a_broken_response_generator_is_a_500(
    start: Start, model: Model, kind: str, message: str
) -> None:
    async def generate(_request: web.Request, _response: aiohttp.ClientResponse) -> Any:
        if kind == "raises":
            raise ValueError
        return None

    system = await start(config_for(model, handler(response_generator=generate)))
    async with system.client.post() as answer:
        assert answer.status == 500
        assert message in (await answer.json())["error"]


async def test_a_response_generator_that_fails_half_way_looks_broken(start: Start, model: Model) -> None:
    async def generate(request: web.Request, _: aiohttp.ClientResponse) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"half")
        raise ValueError

    system = await start(config_for(model, handler(response_generator=generate)))
    async with system.client.post() as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_remote_function_answers_in_place_of_a_model_server(start: Start, model: Model) -> None:
    async def double(n: int = 1) -> int:
        return n * 2

    config = config_for(
        model,
        handler(remote_function=double, benchmark_config=None),
        model_server_url=None,
        model_server_port=None,
        model_log_file=None,
        model_healthcheck_url=None,
    )
    system = await start(config)
    async with system.client.post(body=system.client.envelope({"n": 21})) as answer:
        assert (answer.status, await answer.json()) == (200, {"result": 42})
    async with system.client.post(body=system.client.envelope({"x": 1})) as answer:
        assert (answer.status, await answer.json()) == (
            422,
            {"payload": "got an unexpected keyword argument 'x'"},
        )


async def test_a_multipart_payload_class(start: Start, model: Model) -> None:
    class Upload:
        def __init__(self, text: str) -> None:
            self.text = text

        @classmethod
        def from_json_msg(cls, message: dict[str, Any]) -> "Upload":
            return cls(message["text"])

        def count_workload(self) -> float:
            return 5.0

        def generate_payload_multipart(self) -> dict[str, Any]:
            return {"file": ("a.txt", self.text.encode(), "text/plain")}

    async def respond(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.headers["Content-Type"])

    system = await start(config_for(model, handler(payload_class=Upload, benchmark_config=None)))
    model.respond = respond
    async with system.client.post(body=system.client.envelope({"text": "content"})) as answer:
        assert (await answer.text()).startswith("multipart/form-data; boundary=")

    assert b"content" in model.heard[-1][1]


# Input of every kind...


@pytest.mark.parametrize(
    "raw",
    [
        b"banana\r\n\r\n",
        b"POST /x?api_key=SECRETKEY HTTP/9.9\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 2**20 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    ],
    ids=["garbage", "version", "smuggling", "two_lengths", "tls", "h2", "long_header", "many_headers"],
)
async def test_what_is_no_http_is_400_in_json_and_leaves_no_trace(
    start: Start, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(raw)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.")
    assert head.split()[1] in {b"400", b"431"}
    assert json.loads(body) == {"error": "the request is not valid HTTP"}
    assert "SECRETKEY" not in caplog.text
    assert "Traceback" not in caplog.text
    assert nothing_counted(system)


async def test_a_load_beyond_reason_moves_no_figure_out_of_sight(start: Start, model: Model) -> None:
    config = config_for(model, handler(workload_calculator=lambda payload: payload["n"], max_queue_time=None))
    system = await start(config)
    for huge in (1e308, 1e300):
        assert await system.client.status(body=system.client.envelope({"n": huge})) == 200
    assert await system.client.status(body=system.client.envelope({"n": 7}, cost=1e300)) == 422
    assert await system.client.status(body=system.client.envelope({"n": 7})) == 200
    await system.until_settled(4)
    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 207.0)


async def test_who_asks_on_and_on_without_reading_is_made_to_wait(start: Start, model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 60_000)

    system = await start(config_for(model, handler(allow_parallel_requests=True, max_queue_time=None)))
    model.respond = respond
    body = json.dumps(system.client.envelope()).encode()
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", system.settings.worker_port)) as client:
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.send((head + body) * 2000)
        await asyncio.sleep(1.0)
        heard = len(model.heard)
        await asyncio.sleep(0.3)

        assert len(model.heard) == heard < 500
