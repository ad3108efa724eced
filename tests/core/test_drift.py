"""Perf in service against perf of the benchmark."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.drift import Drift

PERF, AT_ONCE = 100.0, 10


def after(seconds: int, *, working: int, rate: float, dropped: float = 0.0, in_flight: float = 0.0) -> Drift:
    drift = Drift()
    for now in range(seconds + 1):
        drift.observe(
            float(now),
            perf=PERF,
            concurrency=AT_ONCE,
            working=working,
            served=rate * now,
            dropped=dropped * now,
            in_flight=in_flight,
        )
    return drift


def test_as_promised_is_no_gap() -> None:
    for rate in (75.0, 100.0, 125.0):
        assert after(600, working=AT_ONCE, rate=rate).gap is None


def test_a_lasting_gap_is_told_with_both_figures() -> None:
    gap = after(600, working=AT_ONCE, rate=60.0).gap

    assert gap is not None
    assert [gap.promised, gap.served] == pytest.approx([100.0, 60.0])
    assert gap.words().startswith(
        "in service this worker does 60.0 load/s where its benchmark promised 100.0 (40 % less)"
    )


def test_more_than_promised_is_a_gap_too_where_all_was_asked_for() -> None:
    gap = after(600, working=AT_ONCE, rate=150.0).gap

    assert gap is not None
    assert "(50 % more): the traffic is unlike the benchmark" in gap.words()
    assert after(600, working=1, rate=150.0).gap is None


def test_a_short_gap_is_none() -> None:
    drift = after(100, working=AT_ONCE, rate=10.0)

    assert drift.gap is None
    assert drift.seen is not None


def test_few_requests_at_once_are_not_expected_to_use_the_whole_machine() -> None:
    assert after(600, working=1, rate=12.0).gap is None
    assert after(600, working=1, rate=6.0).gap is not None


def test_an_idle_worker_promises_nothing() -> None:
    drift = after(600, working=0, rate=0.0)

    assert (drift.gap, drift.seen) == (None, None)


def test_what_is_under_way_or_was_given_up_may_be_work_done() -> None:
    assert after(600, working=AT_ONCE, rate=60.0, in_flight=30_000.0).gap is None
    assert after(600, working=AT_ONCE, rate=60.0, dropped=40.0).gap is None


def test_what_was_under_way_before_may_be_all_that_more_was_served() -> None:
    assert after(600, working=AT_ONCE, rate=150.0, in_flight=20_000.0).gap is None


def test_time_out_of_service_is_nobodys() -> None:
    drift = after(600, working=AT_ONCE, rate=60.0)
    drift.pause()

    assert (drift.gap, drift.seen) == (None, None)


def test_a_gap_goes_when_it_has_gone() -> None:
    drift = Drift()
    served = 0.0
    for now in range(1200):
        served += 50.0 if now < 600 else 100.0
        drift.observe(
            float(now),
            perf=PERF,
            concurrency=AT_ONCE,
            working=AT_ONCE,
            served=served,
            dropped=0.0,
            in_flight=0.0,
        )
        if now == 599:
            assert drift.gap is not None

    assert drift.gap is None


def test_two_looks_in_one_instant_say_nothing() -> None:
    drift = Drift()
    for _ in range(3):
        drift.observe(1.0, perf=PERF, concurrency=AT_ONCE, working=1, served=0.0, dropped=0.0, in_flight=0.0)

    assert drift.seen is None


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0.75, 1.25)), min_size=1, max_size=400))
def test_a_worker_that_keeps_its_promise_is_never_accused(seconds: list[tuple[int, float]]) -> None:
    drift = Drift()
    served = 0.0
    for now, (working, pace) in enumerate(seconds):
        if now:
            served += PERF * min(1.0, working / AT_ONCE) * pace
        drift.observe(
            float(now),
            perf=PERF,
            concurrency=AT_ONCE,
            working=working,
            served=served,
            dropped=0.0,
            in_flight=0.0,
        )

        assert drift.gap is None
