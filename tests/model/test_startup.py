"""Life of a model load through a real worker: hints, proof, benchmark, trouble, recovery."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from pyworker import BenchmarkConfig, fence
from pyworker.model import startup
from tests.system import PAYLOAD, Model, Start, config_for, eventually, handler

NO_HEALTH = {"model_healthcheck_url": None}


async def test_a_loaded_line_leads_to_ready_and_the_engine_knows_at_once(start: Start, model: Model) -> None:
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    await system.until_state("loading")
    await eventually(lambda: len(system.engine.reports) > 0)

    assert all(report.loadtime == 0 for report in system.engine.reports)

    model.say("x model loaded x")
    await eventually(lambda: system.engine.reports and system.engine.reports[-1].loadtime > 0, within=1.0)

    assert system.last_report["max_perf"] == 1000.0
    assert system.last_report["error_msg"] == ""


async def test_from_a_loaded_line_to_the_engine_it_takes_a_tenth_of_a_second(
    start: Start, model: Model
) -> None:
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    model.say("model loaded")
    await system.until_state("ready")
    waits = []
    for _ in range(4):
        model.say("Error: crashed")
        await eventually(lambda: system.engine.reports[-1].error_msg)
        said = time.monotonic()
        model.say("model loaded")
        await eventually(lambda: not system.engine.reports[-1].error_msg)
        waits.append(time.monotonic() - said)

    assert min(waits) < 0.1, waits  # the best, as other work on the machine only ever adds


async def test_of_the_lines_of_one_trouble_the_first_is_the_reason(start: Start, model: Model) -> None:
    system = await start()
    model.say("Error: out of memory", "Error: engine died", "Error: shutting down")
    await eventually(lambda: system.engine.reports[-1].error_msg)
    found = await system.status()
    async with asyncio.timeout(5):
        while found["model_log"]["last_line"] != "Error: shutting down":
            found = await system.status()
    found = await system.status()  # the line is told after it is read

    assert found["why"].startswith("log: Error: out of memory")


async def test_without_a_health_route_an_errored_worker_proves_itself_again(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.startup.RETRY_FIRST", 0.1)
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    model.say("model loaded")
    await system.until_state("ready")
    model.say("Error: a request went wrong")
    await eventually(lambda: system.engine.reports[-1].error_msg)
    await system.until_state("ready")
    await eventually(lambda: not system.engine.reports[-1].error_msg)


async def test_a_health_route_is_as_good_a_hint(start: Start) -> None:
    system = await start()

    assert (await system.status())["state"] == "ready"


async def test_without_log_and_health_the_proof_finds_out(start: Start, model: Model) -> None:
    port = model.port
    await model.stop()
    config = config_for(model, model_log_file=None, **NO_HEALTH)
    system = await start(config, ready=False)
    found = await system.until_state("proving")

    assert found["state"] == "proving"

    model.port = port
    await model.start()
    await system.until_state("ready")


async def test_a_stale_loaded_line_makes_nothing_ready(start: Start, model: Model) -> None:
    model.say("model loaded")
    await model.stop()
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    found = await system.until_state("proving")
    async with asyncio.timeout(5):
        while "no connection to the model server" not in found["why"]:
            found = await system.status()

    assert all(report.loadtime == 0 for report in system.engine.reports)


async def test_a_model_server_that_is_only_up_is_waited_for(start: Start, model: Model) -> None:
    async def loading(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "Loading model"}}, status=503)

    model.respond = loading
    system = await start(ready=False)
    found = await system.until_state("proving")
    async with asyncio.timeout(5):
        while "Loading model" not in found["why"]:
            found = await system.status()

    assert found["why"].startswith("the proving request has not succeeded yet: POST /x answered 503")

    model.respond = None
    await system.until_state("ready")


async def test_the_benchmark_reads_bodies_to_their_end(start: Start, model: Model) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b"data: x\n\n")
            await asyncio.sleep(0.05)
        return response

    model.respond = stream
    benchmark = BenchmarkConfig(dataset=[PAYLOAD], runs=2, concurrency=4)
    system = await start(
        config_for(model, handler(benchmark_config=benchmark, allow_parallel_requests=True)),
        BENCHMARK_PERF="",
    )
    found = await system.status()

    assert 400 / 0.6 < found["perf"] <= 400 / 0.25
    assert len(found["benchmark"]["runs"]) == 2
    assert len(model.heard) == 1 + 4 + 2 * 4  # proved, warmed up, measured


async def test_a_serial_handler_is_measured_one_at_a_time(start: Start, model: Model) -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        assert model.working == 1
        await asyncio.sleep(0.01)
        return web.Response(text="ok")

    model.respond = slow
    await start(
        config_for(model, handler(benchmark_config=BenchmarkConfig(dataset=[PAYLOAD], runs=3))),
        BENCHMARK_PERF="",
    )

    assert len(model.heard) == 1 + 3


async def test_the_budget_shortens_the_benchmark(start: Start, model: Model) -> None:
    async def slow(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.06)
        return web.Response(text="ok")

    model.respond = slow
    config = config_for(model, handler(benchmark_config=BenchmarkConfig(dataset=[PAYLOAD], runs=50)))
    system = await start(config, BENCHMARK_PERF="", BENCHMARK_BUDGET="0.1")

    assert 1 <= len((await system.status())["benchmark"]["runs"]) < 5


async def test_an_error_inside_a_200_is_no_success(start: Start, model: Model) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(text='data: {"error":{"code":500}}\n\n')

    model.respond = broken
    system = await start(ready=False)
    found = await system.until_state("proving")
    async with asyncio.timeout(5):
        while '{"error":{"code":500}}' not in found["why"]:
            found = await system.status()


async def test_an_error_line_while_loading_is_told_at_once(start: Start, model: Model) -> None:
    model.health = 503
    system = await start(ready=False)
    await system.until_state("loading")
    model.say("Error: no such file")
    await eventually(lambda: system.engine.reports and system.engine.reports[-1].error_msg, within=1.0)

    assert system.last_report["error_msg"] == "log: Error: no such file"
    assert (await system.status())["why"] == "log: Error: no such file"


async def test_no_secret_of_the_model_server_s_log_gets_out_and_the_error_goes_with_the_trouble(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model.health = 503
    system = await start(ready=False)
    await system.until_state("loading")
    model.say("info: HF_TOKEN=hf_veryprivate0123456789", f"Error: 401 for ?token=veryprivate {'word ' * 500}")
    await eventually(lambda: system.engine.reports and system.engine.reports[-1].error_msg, within=1.0)
    told = system.last_report["error_msg"]
    async with system.client.post() as answer:
        refused = await answer.text()

    assert told.startswith("log: Error: 401 for ?token=*** word")
    assert len(told) < 250
    assert answer.status == 503
    for text in (told, refused, json.dumps(await system.status()), caplog.text):
        assert "veryprivate" not in text
    assert "info: HF_TOKEN=***" in caplog.text

    model.health = 200
    await system.until_state("ready", within=20)
    await eventually(lambda: system.engine.reports[-1].error_msg == "")


async def test_no_secret_of_a_model_server_s_answer_gets_out(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuses(_: web.Request) -> web.StreamResponse:
        return web.json_response({"detail": "no such key", "api_key": "veryprivate"}, status=401)

    model.respond = refuses
    system = await start(ready=False, BENCHMARK_PERF="")
    found = await system.until_state("proving")
    async with asyncio.timeout(5):
        while "no such key" not in found["why"]:
            found = await system.status()

    assert 'POST /x answered 401: {"detail": "no such key", "api_key": "***"}' in found["why"]
    assert "veryprivate" not in json.dumps(found)
    assert "veryprivate" not in caplog.text


async def test_an_error_line_stops_a_benchmark_at_once(start: Start, model: Model) -> None:
    stuck = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        if len(model.heard) > 1:
            await stuck.wait()
        return web.Response(text="ok")

    model.respond = respond
    system = await start(ready=False, BENCHMARK_PERF="")
    await system.until_state("benchmarking")
    model.say("Error: lost the device")
    await system.until_state("errored")
    await eventually(lambda: model.working == 0)


async def test_a_ready_worker_that_fails_comes_back_proved_and_with_its_perf(
    start: Start, model: Model
) -> None:
    system = await start(config_for(model, **NO_HEALTH), ready=False, BENCHMARK_PERF="")
    model.say("model loaded")
    await eventually(lambda: system.engine.reports and system.engine.reports[-1].loadtime > 0)
    first = system.last_report
    heard = len(model.heard)
    model.say("Error: crashed")
    await eventually(lambda: system.engine.reports[-1].error_msg)

    assert await system.client.status() == 503

    model.say("model loaded")
    await system.until_state("ready")
    await eventually(lambda: not system.engine.reports[-1].error_msg)

    assert len(model.heard) == heard + 1  # proved again, not measured again
    assert (system.last_report["loadtime"], system.last_report["max_perf"]) == (
        first["loadtime"],
        first["max_perf"],
    )


async def test_one_missed_probe_condemns_nobody_three_do_and_health_heals(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.02)
    monkeypatch.setattr("pyworker.model.probe.AFTER_A_MISS", 0.02)
    system = await start()
    model.health = 500
    found = await system.until_state("errored")

    assert found["why"] == "health route /health failed 3 times: status 500"

    model.health = 200
    await system.until_state("ready")
    await eventually(lambda: system.engine.reports[-1].error_msg == "")


async def test_a_404_health_route_is_a_configuration_error(start: Start, model: Model) -> None:
    model.health = 404
    system = await start(ready=False)
    found = await system.until_state("errored")

    assert "health route /health answered 404: set MODEL_HEALTH_ENDPOINT" in found["why"]


async def test_an_error_line_while_health_stays_fine_is_tried_again_after_a_pause(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.startup.RETRY_FIRST", 0.1)
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.02)
    monkeypatch.setattr("pyworker.model.probe.AFTER_A_MISS", 0.02)
    system = await start()
    model.say("Error: a request went wrong")
    await eventually(lambda: system.engine.reports[-1].error_msg == "log: Error: a request went wrong")
    await system.until_state("ready")
    await eventually(lambda: system.engine.reports[-1].error_msg == "")


async def test_on_the_way_back_the_engine_still_hears_why_not(start: Start, model: Model) -> None:
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    model.say("model loaded")
    await system.until_state("ready")
    await model.stop()
    model.say("Error: crashed", "model loaded")
    await system.until_state("proving")
    await eventually(lambda: system.engine.reports[-1].error_msg == "log: Error: crashed")


async def test_a_single_404_condemns_nobody(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.05)
    system = await start()
    model.health = 404
    await asyncio.sleep(0.07)
    model.health = 200
    await asyncio.sleep(0.2)

    assert (await system.status())["state"] == "ready"
    assert not any(report.error_msg for report in system.engine.reports)


async def test_an_absolute_health_url(start: Start, model: Model) -> None:
    config = config_for(
        model, model_healthcheck_url=f"http://127.0.0.1:{model.port}/health?x=1", model_log_file=None
    )

    assert (await (await start(config)).status())["state"] == "ready"


async def test_a_benchmark_without_success_is_explained(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.model.benchmark.PAUSES", (0.05,))

    async def respond(_: web.Request) -> web.StreamResponse:
        if len(model.heard) > 1:
            return web.Response(status=500, text="out of memory\nmore")
        return web.Response(text="ok")

    model.respond = respond
    system = await start(ready=False, BENCHMARK_PERF="", BENCHMARK_BUDGET="0.12")
    found = await system.until_state("errored")

    assert found["why"] == (
        "benchmark: no benchmark request succeeded: POST /x answered 500: out of memory (tried for 0 s)"
    )
    assert 1 + 2 <= len(model.heard) <= 1 + 3  # tried again as long as the budget lasts


async def test_a_benchmark_generator_that_raises_is_named(start: Start, model: Model) -> None:
    def generator() -> dict[str, str]:
        raise KeyError("word list")

    system = await start(
        config_for(model, handler(benchmark_config=BenchmarkConfig(generator=generator))), ready=False
    )
    found = await system.until_state("proving")
    async with asyncio.timeout(5):
        while "the benchmark generator of /x raised KeyError" not in found["why"]:
            found = await system.status()


async def test_not_ready_in_time_is_an_error_that_says_the_stage(start: Start, model: Model) -> None:
    model.health = 503
    system = await start(ready=False, LOAD_TIMEOUT="0.2")
    found = await system.until_state("errored")

    assert found["why"] == (
        "not ready after 0.2 s (LOAD_TIMEOUT): still starting; last seen: health route: status 503"
    )

    model.health = 200
    await system.until_state("ready")


async def test_info_lines_are_echoed(start: Start, model: Model, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pyworker"):
        await start()
        model.say("info: 5 GB downloaded")
        await eventually(lambda: "model server: info: 5 GB downloaded" in caplog.messages)


async def test_patterns_of_the_environment_win(start: Start, model: Model) -> None:
    system = await start(
        config_for(model, **NO_HEALTH), ready=False, MODEL_LOAD_LOG_MSG="re:up in \\d+ s\nother"
    )
    await system.until_state("loading")
    model.say("model loaded", "up in 5 s")
    await system.until_state("ready")


async def test_a_lifecycle_stands_in_place_of_a_log(start: Start, model: Model) -> None:
    told: list[str] = []

    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        told.append("entered")
        yield
        told.append("left")

    system = await start(config_for(model, lifecycle=lifecycle(), **NO_HEALTH))

    assert told == ["entered"]
    assert system.task is not None

    system.stop.set()
    await system.task

    assert told == ["entered", "left"]


async def test_a_lifecycle_that_fails_is_the_reason(start: Start, model: Model) -> None:
    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        if model.health == 200:
            raise RuntimeError("no weights")
        yield

    system = await start(config_for(model, lifecycle=lifecycle(), **NO_HEALTH), ready=False)
    found = await system.until_state("errored")

    assert found["why"] == "lifecycle failed to start: RuntimeError: no weights"


async def test_a_remote_function_is_benchmarked(start: Start, model: Model) -> None:
    calls: list[str] = []

    async def work(prompt: str) -> str:
        calls.append(prompt)
        await asyncio.sleep(0.01)
        return prompt

    config = config_for(
        model,
        handler(remote_function=work),
        model_server_url=None,
        model_log_file=None,
        model_healthcheck_url=None,
    )
    system = await start(config, BENCHMARK_PERF="")

    assert calls == ["hi", "hi"]
    assert 0 < (await system.status())["perf"] <= 100 / 0.008  # a timer may be early by a tick
    assert json.dumps(await system.status())


@pytest.mark.parametrize("how", ["raises", "exits", "hangs"])
async def test_a_lifecycle_that_does_not_end_well_holds_up_nothing(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(startup, "LEAVE", 0.1)
    monkeypatch.setattr(fence, "PATIENCE", 0.1)
    release = asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        yield
        while how == "hangs" and not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()
        if how != "hangs":
            raise {"raises": ValueError, "exits": SystemExit}[how]

    system = await start(config_for(model, lifecycle=lifecycle(), **NO_HEALTH))
    system.stop.set()
    assert system.task is not None
    async with asyncio.timeout(5):
        await system.task
    release.set()

    told = {
        "raises": "lifecycle failed at its end: ValueError",
        "exits": "lifecycle failed at its end: SystemExit",
        "hangs": "the handler's lifecycle goes on though it was cancelled",
    }
    assert told[how] in caplog.text


async def test_a_lifecycle_that_wants_to_exit_is_the_reason(start: Start, model: Model) -> None:
    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        if model.health == 200:
            raise SystemExit("no weights")
        yield

    system = await start(config_for(model, lifecycle=lifecycle(), **NO_HEALTH), ready=False)
    found = await system.until_state("errored")

    assert found["why"] == "lifecycle failed to start: SystemExit: no weights"
