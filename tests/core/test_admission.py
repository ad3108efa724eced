"""Lanes: order, width, the expected wait, and refusal at the door."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.admission import Lane, Ticket, retry_after
from pyworker.core.errors import QueueFull


def enter(
    lane: Lane, load: float = 10.0, *, perf: float = 10.0, in_flight: float = 0.0, most: float | None = None
) -> Ticket:
    return lane.enter(load, perf=perf, in_flight=in_flight, max_wait=most)


def test_one_runs_the_rest_wait_in_order() -> None:
    lane = Lane(1)
    first, second, third = enter(lane), enter(lane), enter(lane)

    assert [True, False, False] == [first.running, second.running, third.running]
    assert lane.leave(first) is second
    assert lane.leave(second) is third
    assert lane.leave(third) is None


def test_who_leaves_the_queue_closes_the_gap() -> None:
    lane = Lane(1)
    first, second, third = enter(lane), enter(lane), enter(lane)

    assert lane.leave(second) is None
    assert lane.leave(first) is third
    assert (1, 0, 10.0) == (lane.running, lane.waiting, lane.load)


def test_an_unbounded_lane_runs_everyone() -> None:
    lane = Lane(None)
    tickets = [enter(lane) for _ in range(100)]

    assert all(ticket.running for ticket in tickets)
    assert lane.running == 100


@pytest.mark.parametrize("width", [0, -1])
def test_a_width_below_one_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Lane(width)


def test_expected_wait_is_load_ahead_over_perf() -> None:
    lane = Lane(1)
    enter(lane, 30.0)
    enter(lane, 20.0)

    assert lane.expected_wait(perf=10.0, in_flight=999.0) == 5.0
    assert Lane(None).expected_wait(perf=10.0, in_flight=40.0) == 4.0
    assert Lane(None).expected_wait(perf=10.0, in_flight=0.0) == 0.0
    assert lane.expected_wait(perf=0.0, in_flight=0.0) == float("inf")


def test_over_max_wait_is_refused_with_a_retry_after_that_means_it() -> None:
    lane = Lane(1)
    enter(lane, 100.0, perf=10.0)

    with pytest.raises(QueueFull, match="expected wait 10.0 s") as refusal:
        enter(lane, perf=10.0, most=3.0)

    assert refusal.value.status == 429
    assert refusal.value.retry_after == 7.0
    assert lane.load == 100.0


def test_zero_max_wait_means_no_waiting() -> None:
    lane = Lane(1)
    enter(lane, most=0.0)

    with pytest.raises(QueueFull):
        enter(lane, most=0.0)


def test_retry_after_is_bounded() -> None:
    assert [1.0, 5.0, 3600.0] == [retry_after(0.1), retry_after(5.0), retry_after(float("inf"))]


@given(
    st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 50), st.integers(1, 64)), max_size=60)
)
def test_never_wider_than_its_width_never_idle_while_someone_waits(
    width: int, steps: list[tuple[bool, int, int]]
) -> None:
    lane = Lane(width)
    inside: list[Ticket] = []
    for comes, which, load in steps:
        if comes or not inside:
            inside.append(enter(lane, float(load)))
        else:
            lane.leave(inside.pop(which % len(inside)))
        running = [ticket for ticket in inside if ticket.running]

        assert lane.running == len(running) <= width
        assert lane.waiting == len(inside) - len(running)
        assert not lane.waiting or lane.running == width
        assert lane.load == sum(ticket.load for ticket in inside)
        assert running == inside[: len(running)]  # first come, first served


def test_a_full_queue_is_refused_whatever_the_wait() -> None:
    lane = Lane(1, longest=2)
    tickets = [lane.enter(1.0, perf=1.0, in_flight=0.0, max_wait=None) for _ in range(3)]

    with pytest.raises(QueueFull, match="2 requests wait already"):
        lane.enter(1.0, perf=1.0, in_flight=0.0, max_wait=None)
    lane.leave(tickets[2])
    assert not lane.enter(1.0, perf=1.0, in_flight=0.0, max_wait=None).running


def test_whether_there_is_room() -> None:
    narrow, wide = Lane(1), Lane()
    for lane in (narrow, wide):
        assert lane.has_room
        lane.enter(1.0, perf=1.0, in_flight=0.0, max_wait=None)

    assert not narrow.has_room
    assert wide.has_room
