"""Perf from samples."""

import pytest

from pyworker.core.benchmark import Run, Sample, Statistic, result

GOOD = Sample(100.0, ok=True)
BAD = Sample(100.0, ok=False, why="POST /x answered 500: oops")


def test_perf_is_load_of_successes_over_seconds() -> None:
    assert Run(2.0, (GOOD, GOOD, BAD)).perf == 100.0
    assert Run(0.0, (GOOD,)).perf == 0.0


def test_the_median_is_reported_and_the_best_kept() -> None:
    runs = [Run(1.0, (GOOD,)), Run(2.0, (GOOD,)), Run(4.0, (GOOD,))]
    found = result(runs)

    assert (50.0, 50.0, 100.0, 1.5) == (found.perf, found.median, found.best, found.spread)
    assert result(runs, Statistic.MAX).perf == 100.0


def test_a_run_without_success_does_not_count_but_is_explained() -> None:
    found = result([Run(1.0, (GOOD,)), Run(0.001, (BAD,))])

    assert found.runs == (100.0,)
    assert found.failures == (BAD.why,)


@pytest.mark.parametrize(("runs", "why"), [([Run(1.0, (BAD,))], "answered 500: oops"), ([], "none was sent")])
def test_no_success_at_all_is_an_error_that_says_why(runs: list[Run], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        result(runs)
