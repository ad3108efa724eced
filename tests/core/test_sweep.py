"""Doubling until throughput stops growing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.benchmark import Run, Sample
from pyworker.core.sweep import MOST, Point, knee, next_concurrency, point


def curve(*perfs: float) -> list[Point]:
    return [Point(2**number, perf, 1.0, 1.0) for number, perf in enumerate(perfs)]


@pytest.mark.parametrize(
    ("perfs", "following"),
    [((), 1), ((10,), 2), ((10, 19), 4), ((10, 19, 20), None), ((10, 9), None), ((10, 19, 35, 60), 16)],
)
def test_what_is_tried_next(perfs: tuple[float, ...], following: int | None) -> None:
    assert next_concurrency(curve(*perfs)) == following


def test_there_is_an_end_to_it() -> None:
    growing = curve(*(2.0**number for number in range(9)))

    assert growing[-1].concurrency == MOST
    assert next_concurrency(growing) is None


def test_the_knee_is_the_least_that_is_next_to_the_best() -> None:
    assert knee(curve(10, 19, 30, 31)).concurrency == 4
    assert knee(curve(10, 5)).concurrency == 1


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=10))
def test_nothing_smaller_than_the_knee_is_next_to_the_best(perfs: list[float]) -> None:
    found = knee(curve(*perfs))

    assert found.perf >= 0.9 * max(perfs)
    assert all(one.perf < 0.9 * max(perfs) for one in curve(*perfs) if one.concurrency < found.concurrency)


def test_a_point_of_a_run() -> None:
    good, bad = Sample(10.0, ok=True, seconds=2.0), Sample(10.0, ok=False)

    assert point(Run(2.0, (good, good, bad))) == Point(3, 10.0, 2.0, 2.0)
    assert point(Run(2.0, (bad,))) is None
    assert point(Run(0.0, (good,))) is None
