"""Alive, busy or dead; and silent for too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.liveness import MISSES, Life, Probes, Silence, Working, stalled


def test_three_misses_are_dead_one_is_not() -> None:
    probes = Probes(fresh=10.0)

    assert [probes.probed(ok=False, now=float(now), last_byte_at=None) for now in range(3)] == [
        Life.BUSY, Life.BUSY, Life.DEAD,
    ]  # fmt: skip
    assert (probes.misses, probes.in_a_row) == (3, True)
    assert probes.probed(ok=True, now=4.0, last_byte_at=None) is Life.ALIVE


def test_three_of_five_are_dead_too() -> None:
    probes = Probes(fresh=10.0)
    lives = [probes.probed(ok=ok, now=0.0, last_byte_at=None) for ok in (False, True, False, True, False)]

    assert lives[-1] is Life.DEAD
    assert not probes.in_a_row


def test_old_misses_are_forgotten() -> None:
    probes = Probes(fresh=10.0)
    lives = [
        probes.probed(ok=ok, now=0.0, last_byte_at=None)
        for ok in (False, False, True, True, True, False, False, True, True, True, False)
    ]

    assert Life.DEAD not in lives


def test_whoever_sends_bytes_is_busy_not_dead() -> None:
    probes = Probes(fresh=10.0)
    lives = [probes.probed(ok=False, now=now, last_byte_at=now - 9.9) for now in (0.0, 10.0, 20.0, 30.0)]

    assert set(lives) == {Life.BUSY}

    lives = [probes.probed(ok=False, now=now, last_byte_at=30.0) for now in (40.0, 50.0, 60.0)]

    assert lives[-1] is Life.DEAD


def test_another_server_starts_with_no_misses() -> None:
    probes = Probes(fresh=10.0)
    for _ in range(3):
        probes.probed(ok=False, now=0.0, last_byte_at=None)
    probes.forget()

    assert probes.probed(ok=False, now=0.0, last_byte_at=None) is Life.BUSY


@given(st.lists(st.booleans(), max_size=40))
def test_dead_needs_as_many_misses_as_promised(answers: list[bool]) -> None:
    probes = Probes(fresh=10.0)
    for number, ok in enumerate(answers):
        life = probes.probed(ok=ok, now=0.0, last_byte_at=None)
        newest = answers[max(0, number - 4) : number + 1]

        assert (life is Life.DEAD) == (not ok and newest.count(False) >= MISSES)


@pytest.mark.parametrize(
    ("working", "last_byte_at", "expected"),
    [
        ([], None, None),
        ([Working(0.0, 120.0)], None, Silence(200.0, 1)),
        ([Working(81.0, 120.0)], None, None),
        ([Working(0.0, 120.0)], 100.0, None),
        ([Working(0.0, 120.0)], 80.0, Silence(120.0, 1)),
        ([Working(0.0, 120.0), Working(190.0, 120.0)], None, Silence(200.0, 2)),
        ([Working(0.0, 120.0), Working(10.0, 3600.0)], None, None),
    ],
    ids=[
        "idle", "silent", "not_for_long", "a_byte_since", "a_byte_long_ago", "new_ones_change_nothing",
        "a_silent_job_may_hold_up_others",
    ],
)  # fmt: skip
def test_silence(working: list[Working], last_byte_at: float | None, expected: Silence | None) -> None:
    assert stalled(working, last_byte_at=last_byte_at, now=200.0) == expected
