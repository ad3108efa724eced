"""One worker: what its reports add up to, and what is held against it."""

import math

import pytest

from pyworker.core.wire import WorkerStatus
from pyworker.local_engine.pool_worker import PoolWorker, Status, same_secret, status_of
from tests.local_engine.reports import ended, loading, ready


def worker(report: WorkerStatus | None = None, now: float = 0.0) -> PoolWorker:
    first = report or ready()
    made = PoolWorker(first, now)
    made.take(first, now)
    return made


@pytest.mark.parametrize(
    ("report", "status"),
    [
        pytest.param(loading(), Status.LOADING, id="not-loaded-yet"),
        pytest.param(ready(), Status.READY, id="loaded"),
        pytest.param(ready(error_msg="out of memory"), Status.ERROR, id="errored-after-loading"),
        pytest.param(loading(error_msg="no model"), Status.ERROR, id="errored-before"),
    ],
)
def test_a_report_describes_a_state(report: WorkerStatus, status: Status) -> None:
    assert status is status_of(report)


def test_increments_add_up_and_the_first_report_counts() -> None:
    one = worker(ready(new_load=3.0, cur_perf=1.0, rej_load=0.5, num_requests_recieved=2))
    one.take(ready(new_load=4.0, cur_perf=2.0, rej_load=0.25, num_requests_recieved=5), 1.0)

    totals = one.totals
    assert (2, 7.0, 3.0, 0.75, 5) == (
        totals.reports,
        totals.new_load,
        totals.served_load,
        totals.rejected_load,
        totals.received,
    )


def test_requests_received_count_on_when_the_worker_starts_again() -> None:
    one = worker(ready(num_requests_recieved=7))
    one.take(ready(num_requests_recieved=7), 1.0)
    one.take(ready(num_requests_recieved=2), 2.0)

    assert 9 == one.totals.received


def test_ends_are_counted_by_status() -> None:
    one = worker()
    for status in ("Success", "Success", "Error", "Cancelled", "Rejected"):
        one.end(ended(1, status=status).requests[0])

    assert {"Success": 2, "Error": 1, "Cancelled": 1, "Rejected": 1} == one.totals.ended


def test_the_average_moves_by_a_weight_of_time() -> None:
    one = worker(ready(cur_load=100.0))
    one.take(ready(cur_load=0.0), 60.0)

    assert pytest.approx(100.0 / math.e) == one.load_average


def test_expected_queue_is_held_load_over_perf_whatever_the_report_says_is_queued() -> None:
    one = worker(ready(max_perf=10.0, cur_load=1000.0))
    one.hold(5, 40.0, 0.0)

    assert (4.0, 40.0, 1) == (one.expected_queue, one.held_load, one.held)


def test_without_perf_the_queue_is_empty_or_endless() -> None:
    one = worker(ready(max_perf=0.0))
    before = one.expected_queue
    one.hold(5, 40.0, 0.0)

    assert (0.0, math.inf) == (before, one.expected_queue)


def test_each_end_releases_one_hold_of_its_index() -> None:
    one = worker()
    one.hold(5, 1.0, 0.0)
    one.hold(5, 2.0, 1.0)
    one.hold(6, 4.0, 2.0)
    seen = [(one.end(ended(5).requests[0]), one.held_load) for _ in range(3)]

    assert [(True, 6.0), (True, 4.0), (False, 4.0)] == seen


def test_an_empty_worker_holds_exactly_nothing() -> None:
    one = worker()
    for index, load in ((1, 0.1), (2, 0.2), (3, 0.3)):
        one.hold(index, load, 0.0)
    for index in (1, 2, 3):
        one.end(ended(index).requests[0])

    assert (0.0, 0) == (one.held_load, one.held)


def test_what_nobody_names_is_released_after_its_time() -> None:
    one = worker()
    one.hold(1, 1.0, 0.0)
    one.hold(2, 2.0, 5.0)

    assert (0, 1, 2.0) == (one.release_unseen(-0.1), one.release_unseen(4.9), one.held_load)


def test_a_request_being_worked_on_is_kept() -> None:
    one = worker()
    one.hold(1, 1.0, 0.0)
    one.hold(2, 2.0, 0.0)
    one.take(ready(working_request_idxs=(1, 77)), 50.0)
    released = one.release_unseen(10.0)

    assert (1, 1.0) == (released, one.held_load)
    assert (1, 0.0) == (one.release_unseen(50.0), one.held_load)


def test_one_mention_speaks_for_one_hold() -> None:
    one = worker()
    one.hold(1, 1.0, 0.0)
    one.hold(1, 2.0, 0.0)
    one.take(ready(working_request_idxs=(1,)), 50.0)

    assert (1, 1.0) == (one.release_unseen(0.0), one.held_load)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("secret", "secret", True, id="same"),
        pytest.param("secret", "Secret", False, id="other"),
        pytest.param("schlüssel", "schlüssel", True, id="beyond-ascii"),
        pytest.param("a", "\udcff", False, id="not-text-at-all"),
        pytest.param("a", "", False, id="empty"),
    ],
)
def test_secrets_are_compared_whole(one: str, other: str, same: bool) -> None:
    assert same is same_secret(one, other)
