"""Perf from samples."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.benchmark import Run, Sample, Statistic, affords, judged, percentile, result

GOOD = Sample(100.0, ok=True, seconds=0.5, size=1000, kind="application/json")
BAD = Sample(100.0, ok=False, why="POST /x answered 500: oops")


def test_perf_is_load_of_successes_over_seconds() -> None:
    assert Run(2.0, (GOOD, GOOD, BAD)).perf == 100.0
    assert Run(0.0, (GOOD,)).perf == 0.0
    assert Run(2.0, (GOOD, GOOD, BAD)).concurrency == 3


def test_the_median_is_reported_and_the_best_kept() -> None:
    runs = [Run(1.0, (GOOD,)), Run(2.0, (GOOD,)), Run(4.0, (GOOD,))]
    found = result(runs)

    assert (50.0, 50.0, 100.0, 1.5) == (found.perf, found.median, found.best, found.spread)
    assert result(runs, Statistic.MAX).perf == 100.0
    assert found.by(Statistic.MAX).by(Statistic.MEDIAN) == found


def test_a_run_without_success_does_not_count_but_is_explained() -> None:
    found = result([Run(1.0, (GOOD,)), Run(0.001, (BAD,))])

    assert found.runs == (100.0,)
    assert found.failures == (BAD.why,)


def test_latencies_are_those_of_successes() -> None:
    samples = tuple(replace(GOOD, seconds=float(number)) for number in range(1, 21))
    found = result([Run(20.0, (*samples, BAD))])

    assert (found.p50, found.p95, found.concurrency) == (10.0, 19.0, 21)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_percentile_is_one_of_the_values_that_enough_are_not_above(
    values: list[float], percent: int
) -> None:
    found = percentile(sorted(values), percent)

    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


@pytest.mark.parametrize(("runs", "why"), [([Run(1.0, (BAD,))], "answered 500: oops"), ([], "none was sent")])
def test_no_success_at_all_is_an_error_that_says_why(runs: list[Run], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        result(runs)


def test_another_kind_of_answer_is_no_success() -> None:
    page = replace(GOOD, kind="text/html")
    [run] = judged([Run(1.0, (GOOD, page, BAD))], "application/json")

    assert [sample.ok for sample in run.samples] == [True, False, False]
    assert run.samples[1].why == "answered with text/html, where the proving request got application/json"


def test_next_to_no_body_is_no_success() -> None:
    [run] = judged([Run(1.0, (GOOD, GOOD, replace(GOOD, size=99)))], "application/json")

    assert [sample.ok for sample in run.samples] == [True, True, False]
    assert run.samples[2].why == "answered with 99 bytes, where others got 1000"


def test_short_answers_are_not_compared() -> None:
    short = [replace(GOOD, size=size) for size in (40, 40, 2)]
    [run] = judged([Run(1.0, tuple(short))], "application/json")

    assert all(sample.ok for sample in run.samples)
    assert judged([], "") == []


def test_what_is_no_success_has_no_part_in_perf() -> None:
    runs = [Run(1.0, (GOOD, replace(GOOD, kind="text/html")))]

    assert result(judged(runs, GOOD.kind)).perf == 100.0


def test_another_run_must_be_likely_to_end_within_the_budget() -> None:
    run = Run(20.0, (GOOD,))

    assert affords([], 100.0, 60.0)  # one there must be
    assert affords([run], 40.0, 60.0)
    assert not affords([run], 41.0, 60.0)
