"""A report's figures are the sums of the terms they are explained with."""

import pytest

from pyworker.core.ledger import Entry, Ledger, Report
from pyworker.core.outcome import Outcome
from pyworker.core.reckoning import HIDDEN, MOST_INDEXES, Figure, Term, reckoning
from pyworker.core.wire import WorkerStatus


def figures(report: Report, *, told_disk: float | None = 50.0) -> dict[str, Figure]:
    status = WorkerStatus(
        id=7,
        mtoken="secret",
        loadtime=5.0,
        cur_load=report.current_load,
        rej_load=report.rejected_load,
        new_load=report.new_load,
        max_perf=100.0,
        cur_perf=report.served_load,
        num_requests_working=len(report.working),
        num_requests_recieved=report.received,
        error_msg="",
        additional_disk_usage=0.0 if told_disk is None else 60.0 - told_disk,
        disk_usage=60.0,
        working_request_idxs=report.working,
        url="http://x",
    )
    return reckoning(report, status, told_disk=told_disk)


def a_busy_ledger() -> Ledger:
    """Something of everything since a report that was acknowledged."""
    ledger = Ledger()
    old, session = ledger.enter(1, 64.0, 0.0), ledger.open_session(2, 100.0, 0.0)
    ledger.taken(ledger.report())
    ledger.settle(old, Outcome.CANCELLED, 1.0)
    ledger.settle(ledger.enter(3, 30.0, 1.0), Outcome.SERVED, 2.0)
    ledger.settle(ledger.enter(4, 500.0, 1.0), Outcome.SERVED, 2.0)
    ledger.settle(ledger.enter(0, 130.0, 1.0, session=session), Outcome.SERVED, 2.0)
    ledger.settle(ledger.enter(0, 7.0, 1.0, session=session), Outcome.REJECTED, 2.0)
    ledger.close_session(ledger.open_session(5, 8.0, 2.0), 3.0)
    ledger.reject(6, 11.0, 3.0)
    ledger.enter(7, 16.0, 3.0)
    return ledger


def test_every_field_has_a_meaning_and_no_secret_is_shown() -> None:
    found = figures(Ledger().report())

    assert set(found) == set(WorkerStatus.__struct_fields__)
    assert all(figure.means for figure in found.values())
    assert found["mtoken"].value == HIDDEN
    assert found["error_msg"] == Figure("", "why the worker is errored or draining; empty otherwise")


@pytest.mark.parametrize(
    ("field", "formula"),
    [
        ("new_load", ("admitted outside of sessions 546 + sessions opened, their cost 8 + admitted beyond sessions' cost 30 "
                     "- cancelled 64 - carried from the last report 0")),
        ("cur_perf", ("served outside of sessions 530 + served inside of sessions 130 + rest of the cost of sessions that "
                     "closed 8 - carried from the last report 0")),
        ("rej_load", "turned away 18 - carried from the last report 0"),
        ("cur_load", "requests outside of sessions 16 + open sessions, their cost 100"),
        ("num_requests_working", "requests outside of sessions 1 + open sessions 1"),
        ("num_requests_recieved", "admitted 7 + turned away 2"),
        ("additional_disk_usage", "used now 60 - used then 50"),
        ("max_perf", ""),
    ],
)  # fmt: skip
def test_terms_and_their_numbers(field: str, formula: str) -> None:
    found = figures(a_busy_ledger().report())[field]

    assert found.formula == formula
    assert not found.terms or sum(term.value for term in found.terms) == found.value


def test_what_is_below_zero_is_carried_and_said() -> None:
    ledger = Ledger()
    entry = ledger.enter(1, 64.0, 0.0)
    ledger.taken(ledger.report())
    ledger.settle(entry, Outcome.CANCELLED, 1.0)
    below = ledger.report()
    ledger.taken(below)
    ledger.enter(2, 100.0, 2.0)
    after = figures(ledger.report())["new_load"]

    assert figures(below)["new_load"].value == 0.0
    assert figures(below)["new_load"].formula.endswith(
        "= -64: told as 0, the rest is carried into the next report"
    )
    assert after.value == 36.0
    assert after.terms[-1] == Term("carried from the last report", -64.0)


def test_what_a_predecessor_left_is_told_apart() -> None:
    ledger = Ledger()
    ledger.restore([Entry(1, 0.0, 0.0)], new=5.0, rejected=6.0, served=7.0)
    found = figures(ledger.report())

    assert [found[name].terms[-1].value for name in ("new_load", "rej_load")] == [5.0, 6.0]
    assert found["cur_perf"].terms[-1] == Term("left by the worker before this one", 7.0)
    assert (found["new_load"].value, found["rej_load"].value, found["cur_perf"].value) == (5.0, 6.0, 7.0)

    ledger.taken(ledger.report())

    assert figures(ledger.report())["new_load"].terms[-1].value == 0.0


def test_the_first_report_knows_no_earlier_disk() -> None:
    assert (
        figures(Ledger().report(), told_disk=None)["additional_disk_usage"].formula
        == "used now 60 - used then 60"
    )


def test_a_long_list_is_cut() -> None:
    ledger = Ledger()
    for number in range(2 * MOST_INDEXES):
        ledger.enter(number, 1.0, 0.0)

    assert len(figures(ledger.report())["working_request_idxs"].value) == MOST_INDEXES
