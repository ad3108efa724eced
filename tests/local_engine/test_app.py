"""The routes, over real sockets: what they answer and what they refuse."""

import io
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509

from pyworker.core.signature import Verifier, read_public_key
from pyworker.local_engine.app import MAX_BODY
from pyworker.local_engine.serve import EngineOptions, LocalEngine
from tests.local_engine.reports import URL, ended, loading, ready

KEY = "k-123"


class Calls:
    """Calls at one engine; answers as (status, JSON)."""

    def __init__(self, engine: LocalEngine, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.session = session

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes | io.BytesIO) else msgspec.json.encode(body)
        async with self.session.post(self.engine.url + path, data=data, **options) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        async with self.session.get(self.engine.url + path, **options) as answer:
            return answer.status, await answer.json()

    async def read(self, path: str) -> bytes:
        async with self.session.get(self.engine.url + path) as answer:
            assert answer.status == 200
            return await answer.read()

    async def route(self, **changes: Any) -> tuple[int, Any]:
        body = {"endpoint": "local", "api_key": KEY, "cost": 256, "request_idx": 0, "replay_timeout": 60.0}
        return await self.post("/route/", body | changes)

    async def report(self, *reports: Any) -> None:
        for report in reports:
            status, answer = await self.post("/worker_status/", report)
            assert (200, {"success": True}) == (status, answer)


@pytest.fixture
async def calls() -> AsyncIterator[Calls]:
    async with LocalEngine(EngineOptions(port=0, api_key=KEY)) as engine, aiohttp.ClientSession() as session:
        yield Calls(engine, session)


# Workers...


async def test_reports_reach_the_pool_and_can_be_looked_at(calls: Calls) -> None:
    reports = [loading(), ready(new_load=5.0), ready(new_load=2.0)]
    await calls.report(*reports)

    assert reports == list(calls.engine.reports)
    assert 7.0 == calls.engine.pool.workers[1].totals.new_load


async def test_newer_reports_may_have_more_fields(calls: Calls) -> None:
    report = {
        **msgspec.to_builtins(ready()),
        "deployment_version_id": None,
        "loop_lag_max": 0.1,
        "warnings": [],
    }
    await calls.report(report)

    assert [1] == list(calls.engine.pool.workers)


@pytest.mark.parametrize("version", ["1.2.0", "", None])
async def test_an_unknown_protocol_version_is_refused_first(calls: Calls, version: str | None) -> None:
    status, answer = await calls.post("/worker_status/", {"version": version} if version is not None else {})

    assert (400, f"unknown protocol version {version or ''!r}: this engine speaks 1.1.0") == (
        status,
        answer["msg"],
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        pytest.param({"id": "1"}, "Expected `int`, got `str`", id="id-text"),
        pytest.param({"id": -1}, "id and num_requests_working must be", id="id-negative"),
        pytest.param(
            {"num_requests_working": 2**63}, "id and num_requests_working must be", id="working-huge"
        ),
        pytest.param({"working_request_idxs": None}, "Expected `array`, got `null`", id="no-list"),
        pytest.param({"url": ""}, "clients cannot reach this worker", id="ready-without-url"),
        pytest.param({"url": "ftp://x"}, "'ftp://x' is not an http:// or https:// URL", id="no-http"),
        pytest.param({"url": "http://x:99999"}, "Port out of range", id="no-port"),
        pytest.param({"url": "http://x/\nworker"}, "control characters", id="control-characters"),
    ],
)
async def test_a_report_that_is_none_is_refused(calls: Calls, changes: dict[str, Any], why: str) -> None:
    status, answer = await calls.post("/worker_status/", {**msgspec.to_builtins(ready()), **changes})

    assert 400 == status
    assert why in answer["msg"]
    assert (0, 0) == (len(calls.engine.pool.workers), len(calls.engine.reports))


async def test_a_worker_that_is_not_ready_may_have_no_url_yet(calls: Calls) -> None:
    await calls.report(loading(url="", error_msg="nothing works"))

    assert ["error"] == [one.status.value for one in calls.engine.pool.workers.values()]


async def test_another_token_is_refused(calls: Calls) -> None:
    await calls.report(ready())
    reported = await calls.post("/worker_status/", ready(mtoken="other"))
    deleted = await calls.post("/delete_requests/", ended(1, mtoken="other"))

    assert (401, {"msg": "wrong mtoken for worker 1"}) == reported == deleted
    assert (1, 0) == (len(calls.engine.reports), len(calls.engine.ended))


async def test_ends_release_and_can_be_looked_at(calls: Calls) -> None:
    await calls.report(ready())
    _, grant = await calls.route()
    ends = ended(grant["request_idx"], 99)
    status, answer = await calls.post("/delete_requests/", ends)

    assert (200, {"success": True}) == (status, answer)
    assert list(ends.requests) == list(calls.engine.ended)
    assert (0, 1) == (calls.engine.pool.workers[1].held, calls.engine.pool.unknown_ends)


@pytest.mark.parametrize("body", [{"worker_id": 1}, {"worker_id": 1, "mtoken": "m", "requests": [{}]}, []])
async def test_ends_that_are_none_are_refused(calls: Calls, body: Any) -> None:
    status, answer = await calls.post("/delete_requests/", body)

    assert 400 == status
    assert "the body is not what this route takes" in answer["msg"]


async def test_an_unknown_way_to_end_is_refused(calls: Calls) -> None:
    status, answer = await calls.post("/delete_requests/", ended(1, status="Lost"))

    assert (400, "status must be one of Success, Error, Cancelled, Rejected, not 'Lost'") == (
        status,
        answer["msg"],
    )


# Grants...


async def test_a_grant_is_signed_for_the_worker(calls: Calls) -> None:
    await calls.report(ready())
    status, grant = await calls.route()
    verifier = Verifier(own_url=URL)
    verifier.use_key(read_public_key(await calls.read("/pubkey/")))
    verifier.check(grant["url"], grant["signature"])

    assert 200 == status
    assert {
        "url": URL,
        "request_idx": 1,
        "reqnum": 1,
        "signature": calls.engine.keys.sign(URL),
        "cost": "256",
        "endpoint": "local",
    } == grant


@pytest.mark.parametrize(
    ("cost", "granted"), [(1, "1"), ("256", "256"), (0.25, "0.25"), ("1e3", "1000"), (0, "0")]
)
async def test_cost_is_a_number_or_text_and_granted_as_text(calls: Calls, cost: Any, granted: str) -> None:
    await calls.report(ready())
    _, grant = await calls.route(cost=cost)

    assert granted == grant["cost"]
    assert float(granted) == calls.engine.pool.workers[1].held_load


async def test_waiting_has_no_url_and_keeps_its_index(calls: Calls) -> None:
    first = await calls.route()
    again = await calls.route(request_idx=first[1]["request_idx"])

    assert (200, {"request_idx": 1, "status": "no worker has reported yet"}) == first == again


@pytest.mark.parametrize(("asked", "given"), [(None, 1), (0, 1), (4711, 4711)])
async def test_an_index_is_given_or_kept(calls: Calls, asked: int | None, given: int) -> None:
    await calls.report(ready())
    _, grant = await calls.route(request_idx=asked)

    assert given == grant["request_idx"]


async def test_least_a_route_call_may_say(calls: Calls) -> None:
    await calls.report(ready())
    status, grant = await calls.post("/route/?api_key=" + KEY, {"endpoint": "local"})

    assert (200, "100") == (status, grant["cost"])


@pytest.mark.parametrize(
    ("changes", "status", "why"),
    [
        pytest.param({"endpoint": "mine"}, 404, "no endpoint 'mine'; known: local", id="endpoint-unknown"),
        pytest.param({"endpoint": None}, 400, "Expected `str`, got `null`", id="endpoint-null"),
        pytest.param({"cost": "much"}, 400, "cost must be a number, or a string that is one", id="cost-text"),
        pytest.param({"cost": "nan"}, 400, "cost must be a number from 0", id="cost-nan"),
        pytest.param({"cost": -1}, 400, "cost must be a number from 0", id="cost-negative"),
        pytest.param({"cost": True}, 400, "Expected `float | str`", id="cost-boolean"),
        pytest.param({"request_idx": -5}, 400, "request_idx must be", id="index-negative"),
        pytest.param({"request_idx": "7"}, 400, "Expected `int | null`", id="index-text"),
        pytest.param({"api_key": "wrong"}, 401, "wrong API key", id="key-wrong"),
        pytest.param({"api_key": ""}, 401, "wrong API key", id="key-empty"),
        pytest.param(
            {"api_key": "wrong", "endpoint": "mine"}, 401, "wrong API key", id="key-before-endpoint"
        ),
    ],
)
async def test_route_refuses(calls: Calls, changes: dict[str, Any], status: int, why: str) -> None:
    await calls.report(ready())
    found = await calls.route(**changes)

    assert status == found[0]
    assert why in found[1]["msg"]
    assert 0 == calls.engine.pool.workers[1].held


NOT_JSON = [
    pytest.param(b"", id="empty"),
    pytest.param(b"{", id="half"),
    pytest.param(b"[]", id="no-object"),
    pytest.param(b'{"endpoint": "\xff"}', id="no-utf8"),
    pytest.param(b'{"endpoint": "\\ud800"}', id="half-a-character"),
    pytest.param(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested"),
    pytest.param(b'{"request_idx": ' + b"9" * 5000 + b"}", id="huge-number"),
]


@pytest.mark.parametrize("body", NOT_JSON)
@pytest.mark.parametrize(
    "path", ["/route/", "/worker_status/", "/delete_requests/", "/get_endpoint_workers/"]
)
async def test_what_is_no_json_object_is_refused(calls: Calls, path: str, body: bytes) -> None:
    status, answer = await calls.post(path, body)

    assert 400 == status
    assert answer["msg"]


@pytest.mark.parametrize("path", ["/route/", "/worker_status/"])
async def test_a_body_over_the_limit_is_refused(calls: Calls, path: str) -> None:
    status, answer = await calls.post(path, io.BytesIO(b" " * (MAX_BODY + 1)))

    assert 413 == status
    assert "Too Large" in answer["msg"]


# Keys in three places...


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param({"params": {"api_key": KEY}}, 200, id="query"),
        pytest.param({"headers": {"Authorization": f"Bearer {KEY}"}}, 200, id="bearer"),
        pytest.param({"json": {"client_id": "me", "api_key": KEY}}, 200, id="body-of-a-get"),
        pytest.param(
            {"params": {"api_key": KEY}, "headers": {"Authorization": "Bearer "}}, 200, id="one-is-enough"
        ),
        pytest.param({}, 401, id="none"),
        pytest.param({"params": {"api_key": "wrong"}}, 401, id="wrong"),
        pytest.param({"json": {"api_key": 5}}, 401, id="number"),
        pytest.param({"json": [KEY]}, 401, id="list"),
        pytest.param({"data": b"{"}, 401, id="not-json"),
        pytest.param({"headers": {"Authorization": "Bearer \udcff"}}, 401, id="not-text"),
    ],
)
@pytest.mark.parametrize("path", ["/api/v0/endptjobs/", "/api/v0/endptjobs/1/"])
async def test_the_key_may_come_in_three_places(
    calls: Calls, path: str, options: dict[str, Any], status: int
) -> None:
    assert status == (await calls.get(path, **options))[0]


async def test_every_client_call_wants_the_key(calls: Calls) -> None:
    refused = (401, {"msg": "wrong API key, or none (body, ?api_key= or Authorization: Bearer)"})

    assert refused == await calls.post("/get_endpoint_workers/", {"id": 1})
    assert refused == await calls.post("/route/", {"endpoint": "local"})
    assert refused == await calls.get("/api/v0/endptjobs/")
    assert refused == await calls.get("/api/v0/endptjobs/1/")


# What clients look at...


async def test_the_endpoint_as_lists_show_it(calls: Calls) -> None:
    params = {"api_key": KEY}
    _, found = await calls.get("/api/v0/endptjobs/", params=params)
    _, one = await calls.get("/api/v0/endptjobs/1/", params=params)
    endpoint = one["result"]

    assert {"success": True, "results": [endpoint]} == found
    assert (1, "local", KEY, 1, "active") == tuple(
        endpoint[name] for name in ("id", "endpoint_name", "api_key", "user_id", "endpoint_state")
    )
    assert abs(endpoint["created_at"] - time.time()) < 60


@pytest.mark.parametrize("wanted", ["2", "local", "01"])
async def test_another_endpoint_is_not_there(calls: Calls, wanted: str) -> None:
    found = await calls.get(f"/api/v0/endptjobs/{wanted}/", params={"api_key": KEY})

    assert (404, {"msg": f"no endpoint with id {wanted!r}"}) == found


async def test_workers_as_clients_see_them(calls: Calls) -> None:
    await calls.report(
        loading(id=2), ready(cur_load=8.0, new_load=9.0, cur_perf=3.0, num_requests_working=2, disk_usage=7.0)
    )
    _, found = await calls.post("/get_endpoint_workers/", {"id": 1, "api_key": KEY})
    two, one = found
    now = time.time()

    assert (2, "model_loading", 0.0) == (two["id"], two["status"], two["loaded_at"])
    assert abs(one["started_at"] - now) < 60
    assert abs(one["loaded_at"] - now) < 60
    assert {
        "id": 1,
        "status": "idle",
        "cur_load": 8.0,
        "new_load": 9.0,
        "cur_load_rolling_avg": 8.0,
        "cur_perf": 3.0,
        "perf": 10.0,
        "measured_perf": 10.0,
        "dlperf": 0.0,
        "reliability": 0.0,
        "reqs_working": 2,
        "disk_usage": 7.0,
        "gpu_name": "",
    } == {name: value for name, value in one.items() if name not in {"started_at", "loaded_at"}}


async def test_workers_of_another_endpoint_are_an_error_text(calls: Calls) -> None:
    found = await calls.post("/get_endpoint_workers/", {"id": 7, "api_key": KEY})

    assert (200, {"error_msg": "no endpoint with id 7"}) == found


async def test_a_worker_gone_meanwhile_is_shown_as_gone() -> None:
    options = EngineOptions(port=0, api_key=KEY, gone_after=0.01)
    async with LocalEngine(options) as engine, aiohttp.ClientSession() as session:
        calls = Calls(engine, session)
        await calls.report(ready())
        time.sleep(0.02)  # noqa: ASYNC251 - the engine's own look at the time must not come first
        _, found = await calls.post("/get_endpoint_workers/", {"id": 1, "api_key": KEY})

    assert ["stopped"] == [one["status"] for one in found]


async def test_the_root_certificate_is_one(calls: Calls) -> None:
    root = x509.load_pem_x509_certificate(await calls.read("/static/jvastai_root.cer"))

    assert root.issuer == root.subject


async def test_health(calls: Calls) -> None:
    assert (200, {"ok": True}) == await calls.get("/healthz")


async def test_no_such_route_and_method_are_told_in_json(calls: Calls) -> None:
    missing = await calls.get("/nothing")
    async with calls.session.get(calls.engine.url + "/route/") as answer:
        wrong = answer.status, answer.headers["Allow"], json.loads(await answer.read())

    assert (404, {"msg": "GET /nothing: Not Found"}) == missing
    assert (405, "POST", {"msg": "GET /route/: Method Not Allowed"}) == wrong
