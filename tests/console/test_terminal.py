"""What `pyworker status` shows of a worker, ready or not."""

import asyncio
import io
from typing import Any

from rich.console import Console

from pyworker.console.terminal import report, show
from tests.system import Model, Start, config_for, eventually


def shown(picture: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(picture, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_why_not_ready_is_shown_with_its_evidence(start: Start, model: Model) -> None:
    model.health = 503
    model.say("Starting", "[Errno 28] No space left on device")
    system = await start(ready=False)
    await system.until_state("loading")
    async with system.session.get(f"http://127.0.0.1:{system.settings.admin_port}/readyz") as answer:
        assert answer.status == 503
    seen = False
    found: dict[str, Any] = {}
    while not seen:
        found = await system.status()
        seen = bool(found["why_not_ready"]["likely_cause"]) and "status 503" in str(found["why_not_ready"])
    text = shown(found)

    assert text.startswith("LOADING")
    assert (
        "no loaded line in its log and no 200 from its health route yet; most likely the disk is full" in text
    )
    assert "health route /health  status 503" in text
    assert "a line that has 'model loaded'" in text
    assert "likely cause" in text

    async with system.client.post() as answer:
        body = await answer.json()

        assert answer.status == 503
        assert body["error"].startswith(f"the model is not ready (loading: {found['why']}")


async def test_a_ready_worker_shows_benchmark_and_stages(start: Start, model: Model) -> None:
    system = await start(BENCHMARK_PERF="")
    await eventually(lambda: system.engine.reports[-1].loadtime > 0)
    async with system.session.get(f"http://127.0.0.1:{system.settings.admin_port}/pyworker/status") as answer:
        found = await answer.json()
    text = shown(found)

    assert text.startswith("READY")
    assert "1 at once" in text
    assert "measured by this start" in text
    assert [one["stage"] for one in found["progress"]["stages"]] == [
        "start", "prove", "benchmark", "confirm", "ready",
    ]  # fmt: skip
    assert [one["stage"] for one in found["progress"]["events"]] == ["prove", "benchmark", "confirm", "ready"]
    assert "start 0.0 s > prove " in text
    assert "turns green with" not in text


async def test_a_gap_and_a_download_are_shown(start: Start, model: Model) -> None:
    system = await start(config_for(model))
    found = await system.status()
    found["in_service"] = {
        "promised": 100.0,
        "served": 60.0,
        "warning": "in service this worker does 60.0 load/s",
    }
    found["progress"] |= {"percent": 41.0, "words": "downloading, 41 % of 5 GB"}
    text = shown(found)

    assert "in service this worker does 60.0 load/s" in text
    assert "60.0 load/s served, 100.0 promised" in text
    assert "downloading, 41 % of 5 GB" in text


async def test_the_last_report_is_shown_with_its_terms_and_what_is_pending(start: Start) -> None:
    system = await start()
    assert await system.client.status() == 200
    await eventually(lambda: system.last_report["num_requests_recieved"] == 1)
    async with asyncio.timeout(5):
        while (found := await system.status())["last_report"]["fields"]["num_requests_recieved"][
            "value"
        ] != 1:
            await asyncio.sleep(0.01)
    text = shown(found)

    assert f"by {system.engine.url} after 0.0" in text
    assert "admitted outside of sessions 100 + sessions opened, their cost 0" in text
    assert "pending" in text
    assert "new_load 0  cur_perf 0  rej_load 0  ended_requests 0" in text


def test_a_worker_that_no_engine_answers_has_nothing_to_show_of_reports() -> None:
    pending = {"report_under_way_for": 1.5, "failing_for": 20.0}
    pending |= dict.fromkeys(("new_load", "cur_perf", "rej_load", "ended_requests"), 7.0)
    told: dict[str, Any] = {
        "seconds_since_acknowledged": 30.0,
        "address": "http://e",
        "answered_after": 0.1,
        "fields": {"working_request_idxs": {"value": list(range(9)), "formula": "", "means": "them"}},
    }
    console = Console(file=io.StringIO(), width=200)
    console.print(report({"last_report": told, "pending": pending}))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()

    assert report({"last_report": None, "pending": pending}) is None
    assert "0, 1, 2, 3, 4, … (9)" in text
    assert "a report is under way for 1.5 s; the engine has taken none for 20 s" in text
