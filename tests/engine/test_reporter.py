"""The reporter against engines that fail: what is acknowledged equals the truth."""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.core.ledger import Ledger
from pyworker.core.lifecycle import Event, Lifecycle
from pyworker.core.outcome import Outcome
from pyworker.engine.client import EngineClient, EngineError, pause
from pyworker.engine.reporter import HomeLoop, Identity, Reporter
from tests.engine.scripted_engine import engine_up
from tests.scripted import Conversation, scripted
from tests.system import eventually


@dataclass
class Rig:
    """A reporter at work and what it reports on."""

    ledger: Ledger
    lifecycle: Lifecycle
    reporter: Reporter

    def serve(self, number: int, load: float = 10.0) -> None:
        now = time.monotonic()
        entry = self.ledger.enter(number, load, now)
        self.ledger.start(entry, now)
        self.ledger.settle(entry, Outcome.SERVED, now)


@contextlib.asynccontextmanager
async def reporting(*addresses: str) -> AsyncIterator[Rig]:
    ledger, lifecycle = Ledger(), Lifecycle(time.monotonic())
    async with EngineClient(addresses) as client, asyncio.TaskGroup() as group:
        reporter = Reporter(
            identity=Identity(5, "master", "http://1.2.3.4:5"),
            client=client,
            home=HomeLoop(asyncio.get_running_loop()),
            ledger=ledger,
            lifecycle=lifecycle,
            unix_offset=1000.0,
            disk_usage=lambda: 50.0,
        )
        task = group.create_task(reporter.run())
        yield Rig(ledger, lifecycle, reporter)
        task.cancel()


async def test_the_first_report_leaves_at_once_and_says_who() -> None:
    async with engine_up() as engine, reporting(engine.url) as _:
        await eventually(lambda: engine.statuses, within=0.5)

        report = engine.statuses[0]

        assert (report["id"], report["mtoken"], report["url"]) == (5, "master", "http://1.2.3.4:5")
        assert (report["loadtime"], report["disk_usage"], report["additional_disk_usage"]) == (0.0, 50.0, 0.0)


async def test_a_change_of_state_leaves_within_50_ms() -> None:
    delays = []
    async with engine_up() as engine, reporting(engine.url) as rig:
        await eventually(lambda: engine.statuses)
        for number in range(5):
            reason = f"broken {number}"
            changed = time.monotonic()
            rig.lifecycle.handle(Event.FAILED, changed, reason=reason)
            rig.reporter.announce()
            await eventually(lambda reason=reason: engine.statuses[-1]["error_msg"] == reason, within=1)  # type: ignore[misc]
            delays.append(engine.at[-1] - changed)

    assert sorted(delays)[2] < 0.05


async def test_figures_leave_at_most_once_a_second() -> None:
    async with engine_up() as engine, reporting(engine.url) as rig:
        await eventually(lambda: engine.statuses)
        for number in range(20):
            rig.serve(number)
            await asyncio.sleep(0.1)
        await eventually(lambda: engine.sum("cur_perf") == 200.0)
        gaps = [later - earlier for earlier, later in zip(engine.at, engine.at[1:], strict=False)]

        assert len(gaps) >= 2
        assert min(gaps) > 0.9


async def test_while_nothing_changes_only_the_heart_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyworker.engine.reporter.HEARTBEAT", 0.4)
    monkeypatch.setattr("pyworker.engine.reporter.LEAST_PAUSE", 0.05)
    async with engine_up() as engine, reporting(engine.url) as _:
        await eventually(lambda: len(engine.at) == 4)
        gaps = [later - earlier for earlier, later in zip(engine.at, engine.at[1:], strict=False)]

    assert all(0.35 < gap < 0.8 for gap in gaps), gaps


async def test_every_end_is_told_once_in_order_with_unix_times() -> None:
    async with engine_up() as engine, reporting(engine.url) as rig:
        for number in range(2500):  # more than a batch
            rig.serve(number)
        rig.ledger.reject(9999, 1.0, time.monotonic())
        await eventually(lambda: len(engine.ends) == 2501)

        assert engine.largest_batch == 1000
        assert [*range(2500), 9999] == [end["request_idx"] for end in engine.ends]
        assert abs(engine.ends[0]["work_completed_at"] - 1000.0 - time.monotonic()) < 10
        assert engine.ends[-1]["work_started_at"] == 0.0
        assert engine.ends[-1]["status"] == "Rejected"


@pytest.mark.parametrize("trouble", ["500", "slow"])
async def test_nothing_is_lost_around_an_engine_in_trouble(trouble: str) -> None:
    async with engine_up() as engine, reporting(engine.url) as rig:
        await eventually(lambda: engine.statuses)
        if trouble == "500":
            engine.status = 500
        else:
            engine.delay = 0.3
        for number in range(30):
            rig.serve(number)
            await asyncio.sleep(0.03)
            if number == 20:
                engine.status, engine.delay = 200, 0.0
        await eventually(lambda: len(engine.ends) == 30, within=10)
        await eventually(lambda: engine.sum("cur_perf") == 300.0, within=10)

        assert engine.sum("new_load") == 300.0
        assert [*range(30)] == [end["request_idx"] for end in engine.ends]


async def test_the_next_address_is_tried_and_remembered(unused_tcp_port: int) -> None:
    async with (
        engine_up() as engine,
        reporting(f"http://127.0.0.1:{unused_tcp_port}/", engine.url + "/") as rig,
    ):
        await eventually(lambda: engine.statuses)

        assert rig.reporter.statuses.failures == 0


async def test_failures_are_kept_for_status() -> None:
    async with engine_up() as engine, reporting(engine.url) as rig:
        engine.status = 503
        await eventually(lambda: rig.reporter.statuses.failures > 0)

        assert rig.reporter.statuses.last_error == f"{engine.url}/worker_status/: status 503"

        engine.status = 200
        await eventually(lambda: rig.reporter.statuses.failures == 0)


async def test_flush_delivers_what_is_left() -> None:
    async with engine_up() as engine, EngineClient([engine.url]) as client:
        ledger = Ledger()
        reporter = Reporter(
            identity=Identity(5, "m", "http://x"),
            client=client,
            home=HomeLoop(asyncio.get_running_loop()),
            ledger=ledger,
            lifecycle=Lifecycle(0.0),
            unix_offset=0.0,
        )
        Rig(ledger, Lifecycle(0.0), reporter).serve(1)
        engine.status = 500
        async with asyncio.TaskGroup() as group:
            group.create_task(reporter.flush())
            await eventually(lambda: engine.asked)
            engine.status = 200

        assert len(engine.ends) == 1
        assert engine.sum("cur_perf") == 10.0


async def test_an_address_to_skip_gets_no_ends() -> None:
    async with EngineClient(["https://cloud.vast.ai/api/v0"]) as client:
        with pytest.raises(EngineError, match="no address to call"):
            await client.post("/delete_requests/", b"{}", skip=frozenset({"https://cloud.vast.ai/api/v0"}))


async def test_a_key_that_is_none_is_an_error() -> None:
    async with engine_up() as engine, EngineClient([engine.url]) as client:
        with pytest.raises(EngineError, match="/pubkey/ gave no public key"):
            await client.fetch_key()


async def test_an_engine_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyworker.engine.client.TIMEOUT", 0.05)
    async with engine_up() as engine, EngineClient([engine.url]) as client:
        engine.delay = 1.0
        with pytest.raises(EngineError, match="no answer in 0.05 s"):
            await client.post("/x", b"{}")


def test_pauses_grow_and_are_bounded() -> None:
    assert 0.3 < pause(1) <= 0.5
    assert 7.5 <= pause(50) <= 10.0


async def test_a_key_in_two_pieces_is_read_whole() -> None:
    pem = rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(pem), pem[:100])
        await asyncio.sleep(0.05)
        await conversation.send(pem[100:])

    async with scripted(script) as server, EngineClient([server.url]) as client:
        key = await client.fetch_key()

    assert key.public_bytes(Encoding.PEM, PublicFormat.PKCS1) == pem


def nothing() -> None:
    """Nothing happens meanwhile."""


class Unreliable(EngineClient):
    """An engine that takes, refuses, or takes and is not heard; requests end while a post is on its way."""

    def __init__(self) -> None:
        super().__init__(["http://unused"])
        self.outcomes: list[str] = []
        self.meanwhile: Callable[[], None] = nothing
        self.acknowledged: list[dict[str, Any]] = []
        self.ends: list[int] = []
        self.ends_unheard: list[int] = []

    async def post(self, path: str, body: bytes, *, skip: frozenset[str] = frozenset()) -> str:
        assert isinstance(skip, frozenset)
        told = json.loads(body)
        meanwhile, self.meanwhile = self.meanwhile, nothing
        meanwhile()
        outcome = self.outcomes.pop() if self.outcomes else "takes"
        indexes = [end["request_idx"] for end in told.get("requests", [])]
        if outcome == "takes" and path == "/worker_status/":
            self.acknowledged.append(told)
        elif outcome == "takes":
            self.ends += indexes
        elif outcome == "unheard":
            self.ends_unheard += indexes
        if outcome != "takes":
            raise EngineError(outcome)
        return "http://unused"


ENDINGS = st.sampled_from(list(Outcome))
STEPS = st.lists(
    st.tuples(
        st.lists(st.tuples(ENDINGS, st.integers(0, 1000)), max_size=3),
        st.sampled_from(["takes", "refuses", "unheard"]),
        st.sampled_from(["takes", "refuses", "unheard"]),
    ),
    max_size=12,
)


@given(STEPS)
@settings(deadline=None, max_examples=60)
def test_whatever_the_engine_does_what_it_acknowledged_is_the_truth(
    steps: list[tuple[list[tuple[Outcome, int]], str, str]],
) -> None:
    async def play() -> None:
        ledger, client = Ledger(), Unreliable()
        reporter = Reporter(
            identity=Identity(5, "m", "http://x"),
            client=client,
            ledger=ledger,
            lifecycle=Lifecycle(0.0),
            unix_offset=0.0,
            home=HomeLoop(asyncio.get_running_loop()),
            disk_usage=lambda: 1.0,
        )
        truth = dict.fromkeys(Outcome, 0.0)
        due: list[int] = []

        def end(outcome: Outcome, load: int) -> None:
            due.append(len(due))
            truth[outcome] += load
            ledger.settle(ledger.enter(due[-1], float(load), 0.0), outcome, 1.0)

        for endings, status, ends in steps:
            client.meanwhile = functools.partial(end, *endings[0]) if endings else nothing
            for one in endings[1:]:
                end(*one)
            client.outcomes = [ends, status]
            await reporter._send_status()
            await reporter._send_ends()
        client.outcomes, client.meanwhile = [], nothing
        await reporter.flush()

        assert sum(report["cur_perf"] for report in client.acknowledged) == truth[Outcome.SERVED]
        assert sum(report["rej_load"] for report in client.acknowledged) == truth[Outcome.REJECTED]
        assert (
            sum(report["new_load"] for report in client.acknowledged)
            == truth[Outcome.SERVED] + truth[Outcome.FAILED]
        )
        assert client.ends == due
        assert set(client.ends_unheard) <= set(due)

    asyncio.run(play())
