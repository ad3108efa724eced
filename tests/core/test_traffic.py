from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.outcome import Outcome
from pyworker.core.traffic import BOUNDS, Durations, Traffic

_seconds = st.floats(0, 4000)


@given(st.lists(_seconds))
def test_buckets_say_how_many_took_at_most_so_long(seconds: list[float]) -> None:
    durations = Durations()
    for one in seconds:
        durations.observe(one)
    found = durations.cumulative()

    assert found == [(bound, sum(one <= bound for one in seconds)) for bound in (*BOUNDS, float("inf"))]
    assert durations.count == len(seconds)
    assert durations.sum == sum(seconds)


def test_a_request_that_was_answered() -> None:
    traffic = Traffic()
    traffic.ended("/x", Outcome.SERVED, 5.0, entered=1.0, started=1.5, answered=2.0, ended=4.0)
    route = traffic.routes["/x"]

    assert (route.counts[Outcome.SERVED], route.loads[Outcome.SERVED]) == (1, 5.0)
    assert (route.queued.sum, route.first_byte.sum, route.total.sum) == (0.5, 0.5, 3.0)


def test_what_was_never_reached_is_not_measured() -> None:
    traffic = Traffic()
    traffic.ended("/x", Outcome.CANCELLED, 5.0, entered=1.0, started=None, answered=None, ended=4.0)
    traffic.ended("/x", Outcome.FAILED, 5.0, entered=1.0, started=1.0, answered=None, ended=2.0)
    traffic.rejected("/y", 7.0)
    route, other = traffic.routes["/x"], traffic.routes["/y"]

    assert (route.queued.count, route.first_byte.count, route.total.count) == (1, 0, 2)
    assert (other.counts[Outcome.REJECTED], other.loads[Outcome.REJECTED], other.total.count) == (1, 7.0, 0)
