"""Measuring perf against a real server: warm-up, plausibility, budget, retries, concurrency, what is kept."""

import asyncio
import json

import pytest
from aiohttp import web

from pyworker import BenchmarkConfig, HandlerConfig
from pyworker.handler import Handler
from pyworker.model.benchmark import BenchmarkRunner, NoPerf
from pyworker.model.identity import identity
from pyworker.model.measure import Measure
from pyworker.model.pool import ModelServer
from tests.system import PAYLOAD, Model, Start, config_for, handler

PARALLEL = {"allow_parallel_requests": True}


def runner_for(model: Model, *, budget: float = 60.0, **benchmark: object) -> BenchmarkRunner:
    config = BenchmarkConfig(dataset=[PAYLOAD], **benchmark)  # type: ignore[arg-type] # as an author writes it
    carrier = Handler(HandlerConfig(route="/x", benchmark_config=config))
    assert carrier.benchmark is not None
    measure = Measure(carrier, ModelServer(f"http://127.0.0.1:{model.port}"))
    return BenchmarkRunner(measure, carrier.benchmark, parallel=True, budget=budget)


async def test_a_route_that_streams_for_a_second_takes_a_second(model: Model) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(10):
            await response.write(b"data: x\n\n")
            await asyncio.sleep(0.1)
        return response

    model.respond = stream
    found = await runner_for(model, runs=1, concurrency=1).perf("application/octet-stream")

    assert 1.0 <= found.p50 < 1.3
    assert 100 / 1.3 < found.perf <= 100.0


async def test_the_warm_up_is_as_wide_as_the_runs_and_not_counted(model: Model) -> None:
    async def cold(_: web.Request) -> web.StreamResponse:
        if len(model.heard) <= 4:
            await asyncio.sleep(0.3)
        return web.json_response({"ok": 1})

    model.respond = cold
    found = await runner_for(model, runs=2, concurrency=4).perf("application/json")

    assert len(model.heard) == 4 + 2 * 4
    assert min(found.runs) > 400 / 0.3


async def test_a_warm_up_that_fails_is_no_start(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyworker.model.benchmark.PAUSES", (0.01,))

    async def not_yet(_: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": 1}, status=200 if len(model.heard) > 4 else 503)

    model.respond = not_yet
    found = await runner_for(model, runs=1, concurrency=4).perf("application/json")

    assert len(model.heard) == 4 + 4 + 4
    assert found.failures == ()


async def test_without_warm_up_only_the_runs_are_sent(model: Model) -> None:
    await runner_for(model, runs=2, concurrency=3, do_warmup=False).perf("application/json")

    assert len(model.heard) == 2 * 3


async def test_the_budget_counts_the_warm_up_and_what_a_run_will_take(model: Model) -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return web.json_response({"ok": 1})

    model.respond = slow
    found = await runner_for(model, runs=50, concurrency=2, budget=0.5).perf("application/json")

    assert len(found.runs) == 1

    found = await runner_for(model, runs=50, concurrency=2, budget=0.1).perf("application/json")

    assert len(found.runs) == 1  # the warm-up itself: longer than the budget, but all there is
    assert found.perf == pytest.approx(1000, rel=0.3)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"status": 502, "text": "bad gateway\nmore"}, "answered 502: bad gateway"),
        ({"status": 502}, "answered 502: (no body)"),
        ({"text": " \n"}, "answered 200 with an empty body"),
        ({"text": '{"error":{"code":500}}'}, "answered 200 with an error inside: {"),
        (
            {"text": "<html>", "content_type": "text/html"},
            "answered with text/html, where the proving request",
        ),
    ],
    ids=["fast_502", "fast_502_without_body", "empty", "error_inside", "another_kind"],
)
async def test_what_is_no_success_is_explained_and_retried(
    model: Model, monkeypatch: pytest.MonkeyPatch, answer: dict[str, object], why: str
) -> None:
    monkeypatch.setattr("pyworker.model.benchmark.PAUSES", (0.01,))

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(**answer)  # type: ignore[arg-type] # as the case says

    model.respond = respond
    runner = runner_for(model, runs=1, concurrency=1, budget=0.1)
    with pytest.raises(NoPerf) as error:
        await runner.perf("application/json")

    assert why in str(error.value)
    assert len(model.heard) > 1
    assert runner.now_doing.startswith("nothing succeeded, trying again: ")


async def test_auto_finds_the_knee_and_measures_there(model: Model) -> None:
    slots = asyncio.Semaphore(4)

    async def respond(_: web.Request) -> web.StreamResponse:
        async with slots:
            await asyncio.sleep(0.05)
        return web.json_response({"ok": 1})

    model.respond = respond
    runner = runner_for(model, runs=2, concurrency="auto")
    found = await runner.perf("application/json")

    assert found.concurrency == 4
    assert [point.concurrency for point in runner.curve] == [1, 2, 4, 8]
    assert found.perf == pytest.approx(4 * 100 / 0.05, rel=0.3)


async def test_auto_keeps_to_its_budget(model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.1)
        return web.json_response({"ok": 1})

    model.respond = respond
    runner = runner_for(model, runs=1, concurrency="auto", budget=0.6)
    await runner.perf("application/json")

    assert 1 <= len(runner.curve) <= 3


async def test_auto_stops_where_nothing_succeeds_and_says_why_where_nothing_ever_did(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        crowded = 2 < len(model.heard) <= 6  # two at once, tried twice
        return web.json_response({"ok": 1}, status=429 if crowded else 200)

    model.respond = respond
    runner = runner_for(model, runs=1, concurrency="auto")
    found = await runner.perf("application/json")

    assert (found.concurrency, [point.concurrency for point in runner.curve]) == (1, [1])

    async def broken(_: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": 1}, status=500)

    model.respond = broken
    with pytest.raises(NoPerf, match="answered 500"):
        await runner_for(model, concurrency="auto", budget=0.1).perf("application/json")


# What is kept...


async def test_the_next_start_need_not_measure(start: Start, model: Model) -> None:
    model.models = {"data": [{"id": "m", "created": 1}]}
    system = await start(BENCHMARK_PERF="")
    perf = (await system.status())["perf"]
    heard = len(model.heard)
    model.models = {"data": [{"id": "m", "created": 2}]}  # vLLM says the time of day
    again = await start(BENCHMARK_PERF="")
    found = await again.status()

    assert found["perf"] == perf
    assert found["benchmark"]["source"].startswith("kept from an earlier start (")
    assert len(model.heard) == heard + 1  # proved, not measured


async def test_another_model_is_measured(start: Start, model: Model) -> None:
    model.models = {"data": [{"id": "m"}]}
    await start(BENCHMARK_PERF="")
    model.models = {"data": [{"id": "other"}]}
    found = await (await start(BENCHMARK_PERF="")).status()

    assert found["benchmark"]["source"] == "measured by this start"


async def test_the_statistic_may_change_without_measuring(start: Start, model: Model) -> None:
    config = config_for(model, handler(benchmark_config=BenchmarkConfig(dataset=[PAYLOAD], runs=5)))
    await start(config, BENCHMARK_PERF="")
    found = await (await start(config, BENCHMARK_PERF="", BENCHMARK_STATISTIC="max")).status()

    assert found["perf"] == found["benchmark"]["best"]
    assert found["benchmark"]["source"].startswith("kept")


async def test_pinned_perf_is_neither_measured_nor_kept(start: Start, model: Model) -> None:
    system = await start(BENCHMARK_PERF="77")

    assert (await system.status())["perf"] == 77.0
    assert not (system.settings.workspace / "perf.json").exists()


async def test_identity_is_what_lasts(model: Model) -> None:
    server = ModelServer(f"http://127.0.0.1:{model.port}")
    model.models = {"data": [{"id": "m", "created": 1, "permission": [{"id": "p1"}]}]}
    one = await identity(server)
    model.models = {"data": [{"id": "m", "created": 2, "permission": [{"id": "p2"}]}]}

    assert await identity(server) == one
    assert json.loads(one)[0][2] == {"data": [{"id": "m"}]}

    model.models = {"data": [{"id": "n", "created": 2}]}

    assert await identity(server) != one
    assert await identity(None) == ""

    await model.stop()

    assert await identity(ModelServer(f"http://127.0.0.1:{model.port}")) == ""


async def test_a_server_that_says_something_else_has_an_identity_all_the_same(model: Model) -> None:
    model.models = "no object"
    found = await identity(ModelServer(f"http://127.0.0.1:{model.port}"))

    assert "aiohttp" in found
