"""Sessions through a real worker: signed to open, secret to use, over when they are over."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pyworker import HandlerConfig, WorkerConfig
from tests.system import PAYLOAD, Model, Start, System, config_for, eventually, handler


async def opened(system: System, cost: str = "100", **payload: Any) -> tuple[str, dict[str, Any]]:
    """The id and the auth_data of a new session."""
    auth = system.client.auth(cost=cost)
    async with system.client.post("/session/create", {"auth_data": auth, "payload": payload}) as answer:
        assert answer.status == 201, await answer.text()
        return (await answer.json())["session_id"], auth


async def call(system: System, route: str, session_id: str, auth: Any) -> tuple[int, dict[str, Any]]:
    body = {"session_id": session_id, "session_auth": auth}
    async with system.client.post(route, body) as answer:
        return answer.status, await answer.json()


def inside(session_id: str, auth: dict[str, Any], payload: Any = PAYLOAD) -> dict[str, Any]:
    return {"auth_data": auth, "session_id": session_id, "payload": payload}


async def test_the_life_of_a_session(start: Start) -> None:
    system = await start()
    session_id, auth = await opened(system, lifetime=30.0)

    assert len(bytes.fromhex(session_id)) == 16
    assert await call(system, "/session/health", session_id, auth) == (200, {"ok": True})
    await eventually(lambda: system.engine.reports[-1].cur_load == 100.0)
    assert list(system.engine.reports[-1].working_request_idxs) == [auth["request_idx"]]

    assert await system.client.status(body=inside(session_id, auth)) == 200
    status, told = await call(system, "/session/get", session_id, auth)
    assert status == 200
    assert (told["session_id"], told["auth_data"], told["lifetime"]) == (session_id, auth, 30.0)
    assert 30.0 <= told["expiration"] - told["created_at"] <= 40.0
    assert not system.engine.ended

    ended = await call(system, "/session/end", session_id, auth)
    assert ended == (200, {"ended": True, "removed_session": session_id})
    [end] = await system.until_settled(1)
    assert (end["request_idx"], end["status"]) == (auth["request_idx"], "Success")
    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 100.0)
    assert sum(report.new_load for report in system.engine.reports) == 100.0

    assert await call(system, "/session/health", session_id, auth) == (200, {"ok": False})
    assert (await call(system, "/session/get", session_id, auth))[0] == 400
    assert (await call(system, "/session/end", session_id, auth))[0] == 400
    async with system.client.post(body=inside(session_id, auth)) as answer:
        assert (answer.status, await answer.json()) == (410, {"error": "invalid session"})


async def test_a_session_is_charged_beyond_its_cost_only(start: Start) -> None:
    system = await start()
    session_id, auth = await opened(system, cost="150", lifetime=30)
    for _ in range(2):
        assert await system.client.status(body=inside(session_id, auth)) == 200
    await call(system, "/session/end", session_id, auth)
    await eventually(lambda: sum(report.cur_perf for report in system.engine.reports) == 200.0)

    assert sum(report.new_load for report in system.engine.reports) == 200.0


async def test_create_must_be_signed(start: Start) -> None:
    system = await start()
    forged = {"auth_data": system.client.auth(signature="c2ln"), "payload": {"lifetime": 60}}

    assert await system.client.status("/session/create", forged) == 401
    assert not system.engine.ended


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"lifetime": 0}, "lifetime"),
        ({"lifetime": "60"}, "lifetime"),
        ({"lifetime": None}, "lifetime"),
        ({"on_close_route": 5}, "on_close_route"),
        ({"on_close_payload": []}, "on_close_payload"),
        ({"on_close_route": "http://169.254.169.254/"}, "on_close_route"),
        ({"on_close_route": "//evil/x"}, "on_close_route"),
        ({"on_close_route": "x"}, "on_close_route"),
        ({"on_close_route": "/x HTTP/1.1\r\nHost: x\r\n\r\nPOST /y"}, "on_close_route"),
        ({"on_close_route": "http://["}, "on_close_route"),
    ],
    ids=[
        "zero",
        "text",
        "null",
        "number",
        "list",
        "elsewhere",
        "two_slashes",
        "no_path",
        "two_lines",
        "no_url",
    ],
)
async def test_a_wrong_field_is_422(start: Start, payload: dict[str, Any], field: str) -> None:
    system = await start()
    body = {"auth_data": system.client.auth(), "payload": payload}
    async with system.client.post("/session/create", body) as answer:
        assert answer.status == 422
        assert list((await answer.json())["payload"]) == [field]

    [end] = await system.until_settled(1)
    assert end["status"] == "Rejected"


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"session_id": 5, "session_auth": {}}'])
async def test_a_wrong_call_is_422(start: Start, body: bytes) -> None:
    system = await start()
    for route in ("get", "health", "end"):
        async with system.session.post(f"{system.client.url}/session/{route}", data=body) as answer:
            assert answer.status == 422


async def test_the_id_alone_opens_nothing(start: Start) -> None:
    system = await start()
    session_id, auth = await opened(system)
    other = system.client.auth()

    for route in ("/session/get", "/session/health", "/session/end"):
        assert (await call(system, route, session_id, other))[0] == 401
    assert await system.client.status(body=inside(session_id, {**auth, "new": 1})) == 401
    assert (await call(system, "/session/health", session_id, auth))[1] == {"ok": True}


async def test_the_cap_is_429_with_retry_after(start: Start, model: Model) -> None:
    system = await start(config_for(model, max_sessions=1))
    await opened(system)
    body = {"auth_data": system.client.auth(), "payload": {}}
    async with system.client.post("/session/create", body) as answer:
        assert answer.status == 429
        assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.parametrize("most", [None, 0])
async def test_none_and_zero_are_no_cap(start: Start, model: Model, most: int | None) -> None:
    system = await start(config_for(model, max_sessions=most))

    assert len({(await opened(system))[0] for _ in range(12)}) == 12


async def test_it_ends_by_itself_and_use_keeps_it_alive(start: Start) -> None:
    system = await start()
    session_id, auth = await opened(system, lifetime=0.4)
    for _ in range(4):
        await asyncio.sleep(0.2)
        assert await system.client.status(body=inside(session_id, auth)) == 200

    [end] = await system.until_settled(1)

    assert end["request_idx"] == auth["request_idx"]
    assert (await call(system, "/session/health", session_id, auth))[1] == {"ok": False}


async def test_no_use_keeps_it_alive_beyond_the_hard_maximum(start: Start) -> None:
    system = await start(SESSION_MAX_LIFETIME="0.5")
    session_id, auth = await opened(system, lifetime=100)
    _, told = await call(system, "/session/get", session_id, auth)

    assert told["expiration"] - told["created_at"] <= 0.51
    await system.until_settled(1)


async def test_requests_inside_are_cut_at_close(start: Start, model: Model) -> None:
    async def stuck(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    system = await start(config_for(model, handler(allow_parallel_requests=True)))
    session_id, auth = await opened(system)
    model.respond = stuck
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_survives(system, inside(session_id, auth)))
        await eventually(lambda: model.working == 1)
        assert (await call(system, "/session/end", session_id, auth))[0] == 200
    await eventually(lambda: model.cancelled == 1)

    assert running.result() is False
    found = await system.status()
    assert found["requests"]["in_flight"]["count"] == 0
    assert len(system.engine.ended) <= 1


async def test_code_that_cannot_be_cancelled_does_not_hold_up_the_close(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()
    begun = asyncio.Event()

    async def stubborn(**_: Any) -> str:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "late"

    system = await start(
        WorkerConfig(handlers=[HandlerConfig(route="/x", remote_function=stubborn)]), BENCHMARK_PERF="1"
    )
    session_id, auth = await opened(system)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(_survives(system, inside(session_id, auth)))
        try:
            await begun.wait()
            async with asyncio.timeout(3):
                assert (await call(system, "/session/end", session_id, auth))[0] == 200
            requests = (await system.status())["requests"]

            assert requests["in_flight"] == {"load": 0.0, "count": 0}
            assert (requests["served"]["load"], requests["cancelled"]["count"]) == (100.0, 1)
            assert "remote_function of /x goes on though it was cancelled" in caplog.text
            assert (await system.status())["lanes"]["serial"]["running"] == 1
        finally:
            release.set()
        await running
    async with asyncio.timeout(3):
        while (await system.status())["lanes"]["serial"]["running"]:
            pass

    assert (await system.status())["requests"]["cancelled"]["count"] == 1


async def test_who_asks_for_the_close_need_not_wait_for_it(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    system = await start()
    session_id, auth = await opened(system, on_close_route="/closed")
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(call(system, "/session/end", session_id, auth))
        await eventually(lambda: model.working == 1)
        ending.cancel()
    await system.until_settled(1)

    assert model.working == 1  # the callback goes on

    release.set()
    async with asyncio.timeout(3):
        while (await call(system, "/session/health", session_id, auth))[0] != 200:
            pass
    assert (await call(system, "/session/end", session_id, auth))[0] == 400


async def _survives(system: System, body: dict[str, Any]) -> bool:
    try:
        await system.client.status(body=body)
    except Exception:  # noqa: BLE001 - the connection was cut, whatever the client makes of it
        return False
    return True


@asynccontextmanager
async def callback_server() -> AsyncIterator[tuple[str, list[tuple[str, Any]]]]:
    told: list[tuple[str, Any]] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        told.append((request.path, json.loads(await request.read())))
        return web.Response(status=302, headers={"Location": "/elsewhere"})

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", told
    await runner.cleanup()


async def test_the_model_server_is_told_of_the_close(start: Start, model: Model) -> None:
    system = await start()
    session_id, auth = await opened(system, on_close_route="/closed", on_close_payload={"a": 1})
    await call(system, "/session/end", session_id, auth)
    request, body = model.heard[-1]

    assert (request.path, json.loads(body)) == ("/closed", {"a": 1, "session_id": session_id})


async def test_an_allowed_origin_is_told_and_redirects_are_not_followed(start: Start) -> None:
    async with callback_server() as (url, told):
        system = await start(SESSION_CALLBACK_ORIGINS=url)
        session_id, auth = await opened(system, on_close_route=url + "/hook")
        await call(system, "/session/end", session_id, auth)

        assert told == [("/hook", {"session_id": session_id})]


async def test_a_callback_that_fails_ends_the_session_all_the_same(start: Start, model: Model) -> None:
    system = await start()
    session_id, auth = await opened(system, on_close_route="/closed")
    await model.stop()

    assert (await call(system, "/session/end", session_id, auth))[0] == 200


async def test_drain_closes_sessions(start: Start, model: Model) -> None:
    system = await start()
    await opened(system, on_close_route="/closed")
    system.stop.set()
    assert system.task is not None
    await system.task

    assert model.heard[-1][0].path == "/closed"
    assert ["Success"] == [end.status for end in system.engine.ended]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_a_second_signal_cuts_callbacks_short(start: Start, model: Model, when: str) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    system = await start()
    for _ in range(2):
        await opened(system, on_close_route="/closed")
    model.respond = respond
    system.stop.set()
    if when == "before":
        system.cut.set()
    else:
        await eventually(lambda: model.working == 2)
        system.cut.set()
    assert system.task is not None
    async with asyncio.timeout(4):
        await system.task

    assert ["Success", "Success"] == [end.status for end in system.engine.ended]


async def test_drain_lets_requests_inside_finish(start: Start, model: Model) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    system = await start(config_for(model, handler(max_queue_time=None)))
    session_id, auth = await opened(system)
    model.respond = respond
    async with asyncio.TaskGroup() as group:
        running = group.create_task(system.client.status(body=inside(session_id, auth)))
        await eventually(lambda: model.working == 1)
        system.stop.set()
        await system.until_state("draining")
        release.set()
    assert system.task is not None
    await system.task

    assert running.result() == 200
    assert ["Success"] == [end.status for end in system.engine.ended]


async def test_a_request_priced_while_its_session_ends_is_too_late(start: Start, model: Model) -> None:
    go_on = threading.Event()

    def price(payload: dict[str, Any]) -> float:
        end = time.monotonic() + 0.06
        while "first" in payload and time.monotonic() < end:
            pass
        if "slow" in payload:
            go_on.wait(5)
        return 5.0

    system = await start(config_for(model, handler(workload_calculator=price)))
    session_id, auth = await opened(system)
    assert (
        await system.client.status(body=system.client.envelope({"first": 1})) == 200
    )  # from now on in a thread
    async with asyncio.TaskGroup() as group:
        late = group.create_task(system.client.status(body=inside(session_id, auth, {"slow": 1})))
        await asyncio.sleep(0.1)
        assert (await call(system, "/session/end", session_id, auth))[0] == 200
        go_on.set()

    assert late.result() == 410
    requests = (await system.status())["requests"]
    assert requests["in_flight"] == {"load": 0.0, "count": 0}
    assert requests["served"]["load"] == 105.0


async def test_programs_on_the_instance_end_a_session_in_plain_http(start: Start) -> None:
    system = await start()
    session_id, auth = await opened(system)
    url = f"http://127.0.0.1:{system.settings.http_port}/session/end"
    async with system.session.post(url, json={"session_id": session_id, "session_auth": auth}) as answer:
        assert answer.status == 200
    async with system.session.post(url.replace("end", "get"), json={}) as answer:
        assert answer.status == 404


async def test_a_session_with_remote_functions_has_no_model_server_to_call(start: Start) -> None:
    async def work(**_: Any) -> str:
        return "done"

    system = await start(WorkerConfig(handlers=[handler(remote_function=work, benchmark_config=None)]))
    body = {"auth_data": system.client.auth(), "payload": {"on_close_route": "/x"}}

    assert await system.client.status("/session/create", body) == 422
    await opened(system)


async def test_while_not_ready_no_session_is_opened(start: Start, model: Model) -> None:
    system = await start(UNSECURED="true")
    model.say("Error: broken")
    await system.until_state("errored")
    body = {"auth_data": {"request_idx": 5}, "payload": {}}

    assert await system.client.status("/session/create", body) == 503
