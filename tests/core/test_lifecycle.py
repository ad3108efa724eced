"""The worker's states: what the table allows, and nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.lifecycle import Event, Lifecycle, State

TO_READY = (Event.LOADED, Event.PROVED, Event.MEASURED, Event.CONFIRMED)


def led(*events: Event) -> Lifecycle:
    life = Lifecycle(100.0)
    for number, event in enumerate(events, 1):
        life.handle(event, 100.0 + number, reason="why")
    return life


def test_the_way_to_ready() -> None:
    life = led(*TO_READY)

    assert life.ready
    assert life.load_time == 4.0
    assert [phase.state for phase in life.history] == [
        State.LOADING, State.PROVING, State.BENCHMARKING, State.CONFIRMING, State.READY,
    ]  # fmt: skip
    assert life.seconds_in_state(110.0) == 6.0


@pytest.mark.parametrize("steps", range(5))
def test_failure_is_possible_everywhere_and_carries_its_reason(steps: int) -> None:
    life = led(*TO_READY[:steps], Event.FAILED)

    assert (State.ERRORED, "why") == (life.state, life.error)


def test_what_comes_back_is_proved_again_and_the_error_is_cleared() -> None:
    life = led(*TO_READY, Event.FAILED, Event.LOADED)

    assert (State.PROVING, "why", "why") == (life.state, life.error, life.told_error)

    for event in TO_READY[1:]:
        life.handle(event, 200.0)

    assert life.ready
    assert life.error == ""
    assert life.load_time == 4.0


def test_what_was_mended_elsewhere_clears_the_error() -> None:
    life = led(Event.FAILED, Event.CLEARED)

    assert (life.state, life.error) == (State.LOADING, "")


def test_a_proof_cannot_be_skipped() -> None:
    life = led(Event.LOADED, Event.MEASURED, Event.CONFIRMED)

    assert life.state is State.PROVING


def test_handle_says_whether_anything_changed() -> None:
    life = led(Event.LOADED)

    assert not life.handle(Event.LOADED, 103.0)
    assert life.handle(Event.FAILED, 104.0, reason="a")
    assert not life.handle(Event.FAILED, 105.0, reason="a")
    assert life.handle(Event.FAILED, 106.0, reason="b")
    assert life.seconds_in_state(107.0) == 3.0


def test_measured_keeps_the_figure() -> None:
    life = led(Event.LOADED, Event.PROVED)

    assert life.measured(12.5, 110.0)
    assert (12.5, State.CONFIRMING) == (life.perf, life.state)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_any_events_keep_the_rules(events: list[Event]) -> None:
    life = Lifecycle(0.0)
    stopped = False
    for now, event in enumerate(events, 1):
        life.handle(event, float(now), reason="r")
        stopped = stopped or event is Event.STOP

        assert stopped == (life.state is State.DRAINING)
        assert bool(life.error) or life.state is not State.ERRORED
        assert not (life.error and life.ready)
        assert life.load_time is not None or not life.ready


def test_history_is_bounded() -> None:
    life = led(*[Event.FAILED, Event.LOADED] * 200)

    assert len(life.history) == 100
