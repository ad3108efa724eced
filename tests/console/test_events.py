"""What a watcher hears of a worker, as it happens."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.system import Model, Start, System, config_for, eventually

NO_HEALTH = {"model_healthcheck_url": None}


async def events(answer: ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    name = ""
    async for line in answer.content:
        key, _, value = line.decode().rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def watch(system: System) -> Any:
    return system.session.get(f"http://127.0.0.1:{system.settings.admin_port}/pyworker/events")


async def until(
    told: AsyncIterator[tuple[str, dict[str, Any]]], state: str
) -> list[tuple[str, dict[str, Any]]]:
    """Events up to the one that says ``state``."""
    found = []
    async with asyncio.timeout(10):
        async for event in told:
            found.append(event)
            if event[0] == "state" and event[1]["state"] == state:
                return found
    raise AssertionError(found)


async def test_states_and_stages_are_told_in_order_with_reasons(start: Start, model: Model) -> None:
    system = await start(config_for(model, **NO_HEALTH), ready=False)
    await system.until_state("loading")
    async with watch(system) as answer:
        told = events(answer)

        assert answer.content_type == "text/event-stream"
        assert (await until(told, "loading"))[-1][1]["why"].startswith(
            "waiting for the model server: no log at"
        )

        model.say("model loaded")
        found = await until(told, "ready")

        assert [one["state"] for name, one in found if name == "state"] == [
            "proving", "benchmarking", "confirming", "ready",
        ]  # fmt: skip
        assert [one["stage"] for name, one in found if name == "progress"][-1] == "ready"
        times = [one["at"] for name, one in found if name == "state"]
        assert times == sorted(times)

        model.say("Error: token=veryprivate")

        assert (await until(told, "errored"))[-1][1]["why"] == "log: Error: token=***"

        system.stop.set()

        assert (await until(told, "draining"))[-1][1]["why"] == "finishing what runs, then leaving"


async def test_another_reason_is_news_and_silence_is_filled(
    start: Start, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyworker.console.events.COMMENT_EVERY", 0.3)
    monkeypatch.setattr("pyworker.model.probe.EVERY", 0.02)
    monkeypatch.setattr("pyworker.model.probe.AFTER_A_MISS", 0.02)
    system = await start()
    async with watch(system) as answer:
        told = events(answer)
        await until(told, "ready")
        async with asyncio.timeout(5):
            while (await answer.content.readline()) != b": nothing new\n":
                pass
        model.health = 500
        first = (await until(told, "errored"))[-1][1]["why"]
        model.say("Error: it died")
        second = (await until(told, "errored"))[-1][1]["why"]

    assert first == "health route /health failed 3 times: status 500"
    assert second == "log: Error: it died"


async def test_a_watcher_that_leaves_is_let_go(start: Start) -> None:
    system = await start()
    for _ in range(3):
        async with watch(system) as answer:
            await anext(events(answer))
    system.stop.set()
    assert system.task is not None
    async with asyncio.timeout(3):
        await system.task
    await eventually(lambda: system.engine.reports[-1].error_msg.startswith("draining"))
