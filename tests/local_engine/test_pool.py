"""Who gets a request, who is gone, whose token counts."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyworker.local_engine.pool import MAX_COST, Pool, Routed, Waiting
from pyworker.local_engine.pool_worker import Status
from pyworker.local_engine.refusals import BadCall, PoolFull, UnknownEndpoint, WrongToken
from tests.local_engine.reports import ended, loading, ready


def pool_of(*ids: int, **options: Any) -> Pool:
    pool = Pool(endpoint="local", **options)
    for worker_id in ids:
        pool.report(ready(worker_id), 0.0)
    return pool


def route(pool: Pool, cost: float = 10.0, index: int | None = None, now: float = 0.0) -> Routed | Waiting:
    return pool.route(cost, index, "local", now)


def routed(pool: Pool, cost: float = 10.0, index: int | None = None, now: float = 0.0) -> Routed:
    found = route(pool, cost, index, now)
    assert isinstance(found, Routed)
    return found


# Who gets it...


def test_the_shortest_expected_queue_gets_it() -> None:
    pool = pool_of(1)
    pool.report(ready(2, max_perf=100.0), 0.0)
    first = [routed(pool, 50.0, now=float(turn)).worker_id for turn in range(4)]

    # Queues in seconds before each turn, (1, 2): (0, 0), (5, 0), (5, 0.5), (5, 1).
    assert [1, 2, 2, 2] == first


def test_among_equals_the_one_that_rested_longest() -> None:
    pool = pool_of(1, 2, 3)
    turns = [routed(pool, 0.0, now=float(turn)).worker_id for turn in range(6)]

    assert [1, 2, 3, 1, 2, 3] == turns


def test_a_route_names_worker_url_and_numbers() -> None:
    pool = pool_of(1, 2)
    routed(pool, now=0.0)

    assert Routed(worker_id=2, url="http://10.0.0.1:4001", request_idx=2, reqnum=1) == routed(pool, now=1.0)


def test_reqnum_grows_per_worker() -> None:
    pool = pool_of(1, 2)
    found = [routed(pool, now=float(turn)) for turn in range(4)]

    assert [(1, 1), (2, 1), (1, 2), (2, 2)] == [(one.worker_id, one.reqnum) for one in found]


def test_an_index_is_new_for_none_and_zero_and_kept_otherwise() -> None:
    pool = pool_of(1)

    assert [1, 2, 4711, 3] == [routed(pool, index=index).request_idx for index in (None, 0, 4711, None)]


@pytest.mark.parametrize(
    ("report", "why"),
    [
        pytest.param(loading(), "no worker is ready: 1 model_loading", id="loading"),
        pytest.param(ready(error_msg="x"), "no worker is ready: 1 error", id="errored"),
    ],
)
def test_who_is_not_ready_gets_nothing(report: Any, why: str) -> None:
    pool = Pool(endpoint="local")
    pool.report(report, 0.0)

    assert Waiting(1, why) == route(pool)


def test_with_no_worker_at_all_it_waits_and_keeps_its_index() -> None:
    pool = Pool(endpoint="local")

    assert [1, 1, 2] == [route(pool, index=index).request_idx for index in (0, 1, 0)]
    assert Waiting(9, "no worker has reported yet") == route(pool, index=9)


def test_what_waits_is_not_held() -> None:
    pool = Pool(endpoint="local")
    route(pool)
    pool.report(ready(), 0.0)

    assert 0 == pool.workers[1].held


def test_a_full_worker_gets_no_more() -> None:
    pool = pool_of(1, max_held=2)
    found = [route(pool) for _ in range(3)]

    assert [Routed, Routed, Waiting] == [type(one) for one in found]
    assert Waiting(3, "no worker is ready: 1 idle (full)") == found[2]


def test_an_unknown_endpoint_names_the_known() -> None:
    with pytest.raises(UnknownEndpoint, match="no endpoint 'mine'; known: local"):
        pool_of(1).route(1.0, None, "mine", 0.0)


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf, MAX_COST * 2])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    with pytest.raises(BadCall, match="cost must be"):
        route(pool_of(1), cost)


@pytest.mark.parametrize("index", [-1, 2**63])
def test_an_index_that_is_none_is_refused(index: int) -> None:
    with pytest.raises(BadCall, match="request_idx must be"):
        route(pool_of(1), index=index)


# What is held...


def test_an_end_releases_the_load() -> None:
    pool = pool_of(1)
    index = routed(pool).request_idx
    held = pool.end(ended(index))

    assert (1, 0.0, 0) == (held, pool.workers[1].held_load, pool.unknown_ends)


def test_an_end_at_another_worker_releases_nothing_here() -> None:
    pool = pool_of(1, 2)
    first = routed(pool)
    held = pool.end(ended(first.request_idx, worker_id=2))

    assert (0, 10.0, 1) == (held, pool.workers[1].held_load, pool.unknown_ends)


def test_ends_of_a_worker_never_heard_of_are_taken() -> None:
    pool = Pool(endpoint="local")
    held = pool.end(ended(1, 2, worker_id=99))

    assert (0, 2, 0) == (held, pool.unknown_ends, len(pool.workers))


def test_an_end_with_an_unknown_status_counts_for_nothing() -> None:
    pool = pool_of(1)
    index = routed(pool).request_idx
    good = ended(index)
    mixed = msgspec.structs.replace(good, requests=good.requests + ended(index, status="Lost").requests)
    with pytest.raises(BadCall, match="not 'Lost'"):
        pool.end(mixed)

    assert 10.0 == pool.workers[1].held_load


def test_a_client_that_never_came_is_given_up_after_the_timeout() -> None:
    pool = pool_of(1, gone_after=1000.0, hold_timeout=60.0)
    routed(pool, now=0.0)
    pool.advance(59.9)
    before = pool.workers[1].held_load
    pool.advance(60.0)

    assert (10.0, 0.0, 1) == (before, pool.workers[1].held_load, pool.timed_out)


def test_a_client_that_came_is_not_given_up() -> None:
    pool = pool_of(1, gone_after=1000.0, hold_timeout=60.0)
    index = routed(pool, now=0.0).request_idx
    pool.report(ready(working_request_idxs=(index,)), 50.0)
    pool.advance(100.0)

    assert 10.0 == pool.workers[1].held_load


# Who is there...


def test_a_silent_worker_is_gone_and_comes_back() -> None:
    pool = pool_of(1, gone_after=30.0)
    pool.advance(29.9)
    there = pool.workers[1].status
    gone = route(pool, now=30.0)
    pool.report(ready(), 31.0)

    assert (Status.READY, Waiting(1, "no worker is ready: 1 stopped")) == (there, gone)
    assert 1 == routed(pool, now=31.0).worker_id


def test_changes_of_state_are_told_once_and_in_order() -> None:
    pool = Pool(endpoint="local", gone_after=30.0)
    pool.report(loading(), 0.0)
    pool.report(loading(), 1.0)
    pool.report(ready(), 2.0)
    pool.report(ready(error_msg="lost its GPU"), 3.0)
    pool.advance(40.0)
    pool.advance(41.0)
    pool.report(ready(), 80.0)
    changes = [(one.before, one.after, one.error) for one in pool.take_changes()]

    assert [
        (None, Status.LOADING, ""),
        (Status.LOADING, Status.READY, ""),
        (Status.READY, Status.ERROR, "lost its GPU"),
        (Status.ERROR, Status.GONE, ""),
        (Status.GONE, Status.READY, ""),
    ] == changes
    assert [] == pool.take_changes()


def test_who_comes_back_after_its_time_was_gone_meanwhile() -> None:
    pool = pool_of(1, gone_after=30.0)
    pool.report(ready(), 100.0)

    assert [Status.READY, Status.GONE, Status.READY] == [one.after for one in pool.take_changes()]


def test_ready_at_is_the_first_time() -> None:
    pool = Pool(endpoint="local")
    for now, report in enumerate((loading(), ready(), ready(error_msg="x"), ready())):
        pool.report(report, float(now))

    assert (0.0, 1.0) == (pool.workers[1].started_at, pool.workers[1].ready_at)


def test_past_the_limit_the_longest_gone_is_forgotten() -> None:
    pool = Pool(endpoint="local", gone_after=30.0, max_workers=2)
    pool.report(ready(1), 1.0)
    pool.report(ready(2), 0.0)
    pool.report(ready(3), 100.0)

    assert [1, 3] == list(pool.workers)


def test_past_the_limit_nobody_who_reports_is_forgotten() -> None:
    pool = pool_of(1, 2, max_workers=2)
    with pytest.raises(PoolFull, match="2 workers report here already"):
        pool.report(ready(3), 1.0)

    assert [1, 2] == list(pool.workers)


# Whose token counts...


def test_the_first_report_binds_the_token() -> None:
    pool = pool_of(1)
    index = routed(pool).request_idx
    with pytest.raises(WrongToken, match="worker 1"):
        pool.report(ready(mtoken="other"), 1.0)
    with pytest.raises(WrongToken):
        pool.end(ended(index, mtoken="other"))

    assert (1, 10.0) == (pool.workers[1].totals.reports, pool.workers[1].held_load)


def test_another_worker_may_have_another_token() -> None:
    pool = pool_of(1)
    pool.report(ready(2, mtoken="other"), 1.0)

    assert [1, 2] == list(pool.workers)


def test_an_expected_token_binds_everyone() -> None:
    pool = Pool(endpoint="local", mtoken="secret")
    pool.report(ready(1), 0.0)
    for call in (
        lambda: pool.report(ready(2, mtoken="x"), 0.0),
        lambda: pool.end(ended(1, worker_id=9, mtoken="x")),
    ):
        with pytest.raises(WrongToken):
            call()

    assert [1] == list(pool.workers)


# And all of it at once...


class PoolMachine(RuleBasedStateMachine):
    """Workers report, change and fall silent while requests are routed, end, or are never heard of again.

    Loads are whole numbers, so that sums are exact.
    """

    GONE_AFTER = 30.0
    HOLD_TIMEOUT = 60.0

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(endpoint="local", gone_after=self.GONE_AFTER, hold_timeout=self.HOLD_TIMEOUT)
        self.now = 0.0
        self.told: dict[int, tuple[float, bool, float]] = {}  # worker → when, ready, perf
        self.held: dict[int, list[tuple[int, float, float]]] = {}  # worker → (index, load, last seen)
        self.index = 0

    def expire(self) -> None:
        self.held = {
            worker: [one for one in holds if self.now - one[2] < self.HOLD_TIMEOUT]
            for worker, holds in self.held.items()
        }

    @rule(
        worker=st.integers(1, 4),
        loaded=st.booleans(),
        errored=st.booleans(),
        perf=st.sampled_from([0, 1, 10, 300]),
        busy=st.booleans(),
    )
    def report(self, worker: int, loaded: bool, errored: bool, perf: int, busy: bool) -> None:
        self.expire()
        working = tuple(one[0] for one in self.held.get(worker, ())) if busy else ()
        report = ready(
            worker,
            loadtime=1.0 if loaded else 0.0,
            error_msg="x" if errored else "",
            max_perf=float(perf),
            working_request_idxs=working,
            cur_load=12345.0,
        )
        self.pool.report(report, self.now)
        self.told[worker] = (self.now, loaded and not errored, float(perf))
        if busy:
            self.held[worker] = [(index, load, self.now) for index, load, _ in self.held.get(worker, [])]

    @rule(load=st.integers(0, 1000), again=st.booleans())
    def route(self, load: int, again: bool) -> None:
        self.expire()
        queues = {
            worker: self.queue(worker, perf)
            for worker, (when, is_ready, perf) in self.told.items()
            if is_ready and self.now - when < self.GONE_AFTER
        }
        asked = self.index if again else 0
        found = self.pool.route(float(load), asked, "local", self.now)
        if not asked:
            self.index += 1

        assert (asked or self.index) == found.request_idx
        assert bool(queues) == isinstance(found, Routed)
        if isinstance(found, Routed):
            assert min(queues.values()) == queues[found.worker_id]
            self.held.setdefault(found.worker_id, []).append((found.request_idx, float(load), self.now))

    def queue(self, worker: int, perf: float) -> float:
        holds = self.held.get(worker, [])
        if not holds:
            return 0.0
        return sum(load for _, load, _ in holds) / perf if perf else math.inf

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.expire()
        worker = data.draw(st.sampled_from(sorted(self.held)))
        index = data.draw(st.integers(1, max(self.index, 1)))
        self.pool.advance(self.now)
        known = [one for one in self.held[worker] if one[0] == index]
        released = self.pool.end(ended(index, worker_id=worker))
        if known:
            self.held[worker].remove(known[0])

        assert min(len(known), 1) == released

    @rule(seconds=st.sampled_from([0.5, 10.0, 29.5, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def held_is_routed_less_released(self) -> None:
        self.expire()
        self.pool.advance(self.now)
        expected = {worker: sum(load for _, load, _ in holds) for worker, holds in self.held.items() if holds}

        assert expected == {id_: one.held_load for id_, one in self.pool.workers.items() if one.held}


TestPoolMachine = PoolMachine.TestCase
