"""A model server whose health route says 200 while nothing comes out of it."""

import asyncio
import time
from typing import Any

import pytest
from aiohttp import web

from pyworker.core.benchmark import Sample
from pyworker.core.liveness import Working
from pyworker.model.proof import Proof
from pyworker.model.serve_watch import ServeWatch
from tests.system import Model, Start, config_for, eventually, handler

PARALLEL = {"allow_parallel_requests": True}


class Frozen:
    """A model server's answers: those of a frozen vLLM have a head and no body."""

    def __init__(self, model: Model, *, heads: bool) -> None:
        self._model = model
        self._heads = heads
        self.thawed = asyncio.Event()
        self.thawed.set()
        model.respond = self.respond

    async def respond(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if self._heads:
            await response.prepare(request)
        await self.thawed.wait()
        if not self._heads:
            await response.prepare(request)
        await response.write(b"data: x\n\n")
        return response


@pytest.mark.parametrize("heads", [False, True], ids=["silent", "heads_only"])
async def test_a_frozen_server_is_errored_though_healthy_and_its_recovery_is_reported(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch, heads: bool
) -> None:
    monkeypatch.setattr("pyworker.model.startup.RETRY_FIRST", 0.2)
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.05)
    frozen = Frozen(model, heads=heads)
    system = await start(config_for(model, handler(**PARALLEL)), SERVE_STALL_TIMEOUT="0.4")
    frozen.thawed.clear()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(system.client.status()) for _ in range(3)]
        found = await system.until_state("errored")

        assert found["why"].startswith(
            "the model server is frozen: no byte for 0 s with 3 requests in flight, and"
        )
        assert "no whole answer in 1 s" in found["why"]
        await eventually(lambda: "frozen" in system.engine.reports[-1].error_msg)
        frozen.thawed.set()
        await system.until_state("ready")
        await eventually(lambda: not system.engine.reports[-1].error_msg)

        assert [await one for one in waiting] == [200, 200, 200]


async def through_a_hook(request: web.Request, answer: Any) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    async for piece in answer.content.iter_any():
        await response.write(piece)
    return response


@pytest.mark.parametrize("hook", [None, through_a_hook], ids=["relayed", "through_a_hook"])
async def test_bytes_on_any_request_are_life(start: Start, model: Model, hook: Any) -> None:
    silent = asyncio.Event()

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if (await request.read()) == b'{"slow":1}':
            await silent.wait()
        for _ in range(10):
            await response.write(b"data: x\n\n")
            await asyncio.sleep(0.08)
        return response

    model.respond = respond
    config = config_for(model, handler(response_generator=hook, **PARALLEL))
    system = await start(config, SERVE_STALL_TIMEOUT="0.3")
    heard = len(model.heard)
    async with asyncio.TaskGroup() as group:
        slow = group.create_task(system.client.status("/x", system.client.envelope({"slow": 1})))

        assert await system.client.status() == 200  # a stream of 0.8 s
        assert len(model.heard) == heard + 2  # no proving request

        silent.set()

        assert await slow == 200
    assert (await system.status())["state"] == "ready"


async def test_without_a_benchmark_a_silence_is_suspected_and_said(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    release = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response(text="ok")

    model.respond = respond
    system = await start(config_for(model, handler(benchmark_config=None)), SERVE_STALL_TIMEOUT="0.2")
    [told] = (await system.status())["warnings"]

    assert told.startswith("no handler carries a benchmark, so no request of ours proves")

    async with asyncio.TaskGroup() as group:
        slow = group.create_task(system.client.status())
        async with asyncio.timeout(5):
            while len(found := (await system.status())["warnings"]) == 1:
                await asyncio.sleep(0.02)
        release.set()

        assert await slow == 200
    assert found[0].startswith("no byte from the model server for ")
    assert found[0].endswith("with 1 requests in flight: it may be frozen")
    assert (await system.status())["state"] == "ready"
    assert caplog.text.count("it may be frozen, but no handler carries a benchmark to prove it with") == 1
    async with asyncio.timeout(5):
        while (await system.status())["warnings"] != [told]:
            await asyncio.sleep(0.02)


async def test_with_a_benchmark_there_is_nothing_to_warn_of(start: Start) -> None:
    assert (await (await start()).status())["warnings"] == []


async def test_a_handler_with_silent_jobs_has_its_own_allowance(start: Start, model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.6)
        return web.Response(text="done")

    config = config_for(model, handler(stall_timeout=30.0, **PARALLEL))
    system = await start(config, SERVE_STALL_TIMEOUT="0.2")
    heard = len(model.heard)
    model.respond = respond

    assert await system.client.status() == 200
    assert len(model.heard) == heard + 1


class Scripted(Proof):
    """A proof that gives what it is told to, when it is told to."""

    def __init__(self, *, ok: bool) -> None:
        self._ok = ok
        self.limits: list[float] = []
        self.free = asyncio.Event()

    async def once(self, limit: float = 0.0) -> Sample:
        self.limits.append(limit)
        await self.free.wait()
        return Sample(1.0, ok=self._ok, why="" if self._ok else "no")


class Told:
    ready = True

    def __init__(self) -> None:
        self.failures: list[str] = []

    def may_retry(self) -> bool:
        return False

    def hint(self) -> None:
        raise AssertionError("nobody asked")

    def fail(self, reason: str) -> None:
        self.failures.append(reason)


async def watched(proof: Scripted, told: Told, heard: list[float], seconds: float) -> None:
    watch = ServeWatch(
        working=lambda: [Working(0.0, 0.2)],
        last_byte_at=lambda: heard[-1] if heard else None,
        proof=proof,
        allowance=0.2,
    )
    async with asyncio.TaskGroup() as group:
        task = group.create_task(watch.run(told))
        await asyncio.sleep(seconds)
        task.cancel()


async def test_a_proof_that_succeeds_is_life_for_as_long_as_silence_is_allowed() -> None:
    proof, told = Scripted(ok=True), Told()
    proof.free.set()
    await watched(proof, told, [], 0.7)

    assert told.failures == []
    assert 2 <= len(proof.limits) <= 4


async def test_a_byte_for_anyone_while_the_proof_waits_is_life() -> None:
    proof, told = Scripted(ok=False), Told()
    heard: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(watched(proof, told, heard, 0.8))
        await eventually(lambda: proof.limits)
        heard.append(time.monotonic())

    assert told.failures == []
    assert len(proof.limits) == 2  # it is suspected again once it has been silent for as long again


async def test_a_proof_that_fails_is_the_end() -> None:
    proof, told = Scripted(ok=False), Told()
    proof.free.set()
    await watched(proof, told, [], 0.15)

    assert told.failures
    assert told.failures[0].endswith("and the proving request failed: no")
