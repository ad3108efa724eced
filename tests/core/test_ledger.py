"""The ledger's promises: it always balances, and a report that fails loses nothing."""

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pyworker.core.ledger import Entry, Ledger, Report, SessionEntry
from pyworker.core.outcome import Outcome
from tests.core.test_reckoning import figures

LOADS = st.integers(min_value=0, max_value=2**20).map(lambda n: n / 8)  # exact in binary, so sums are exact
ADMITTED_ENDS = st.sampled_from([Outcome.SERVED, Outcome.FAILED, Outcome.CANCELLED, Outcome.REJECTED])


class LedgerMachine(RuleBasedStateMachine):
    """Requests come and end in any order while reports are delivered, lost, or acknowledged late."""

    entries: Bundle[Entry] = Bundle("entries")
    sessions: Bundle[SessionEntry] = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.on_its_way: Report | None = None
        self.acknowledged = {"new": 0.0, "rejected": 0.0, "served": 0.0}
        self.truth = dict.fromkeys(Outcome, 0.0)
        self.ends_due: list[int] = []
        self.ends_seen: list[int] = []
        self.number = 0
        self.served_inside: dict[int, float] = {}
        self.sessions_served = 0.0
        self.closed: list[SessionEntry] = []

    @rule(target=entries, load=LOADS)
    def enter(self, load: float) -> Entry:
        self.number += 1
        return self.ledger.enter(self.number, load, float(self.number))

    @rule(entry=consumes(entries), outcome=ADMITTED_ENDS)
    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self.ledger.settle(entry, outcome, entry.entered_at + 1)
        self.truth[outcome] += entry.load
        self.ends_due.append(entry.request_idx)

    @rule(target=sessions, cost=LOADS)
    def open_session(self, cost: float) -> SessionEntry:
        self.number += 1
        return self.ledger.open_session(self.number, cost, float(self.number))

    @rule(session=sessions, load=LOADS, outcome=st.one_of(st.none(), ADMITTED_ENDS))
    def enter_inside(self, session: SessionEntry, load: float, outcome: Outcome | None) -> None:
        """A request inside of a session; without an outcome it stays in flight until the session closes."""
        if session.outcome is not None:
            return
        entry = self.ledger.enter(0, load, 0.0, session=session)
        if outcome is not None:
            self._settle_inside(entry, outcome)

    def _settle_inside(self, entry: Entry, outcome: Outcome) -> None:
        assert entry.session is not None
        self.ledger.settle(entry, outcome, 1.0)
        if outcome is Outcome.SERVED:
            self.served_inside[id(entry.session)] = (
                self.served_inside.get(id(entry.session), 0.0) + entry.load
            )
        if outcome is Outcome.REJECTED:
            self.truth[Outcome.REJECTED] += entry.load

    @rule(session=consumes(sessions), outcome=st.sampled_from([Outcome.SERVED, Outcome.CANCELLED]))
    def close_session(self, session: SessionEntry, outcome: Outcome) -> None:
        for entry in self.ledger.in_flight:
            if entry.session is session:
                self._settle_inside(entry, outcome)
        self.ledger.close_session(session, 9.0)
        self.sessions_served += max(session.load, self.served_inside.get(id(session), 0.0))
        self.closed.append(session)  # kept, so that no other takes its id
        self.ends_due.append(session.request_idx)

    @rule(load=LOADS, known=st.booleans())
    def reject(self, load: float, known: bool) -> None:
        self.number += 1
        self.ledger.reject(self.number if known else None, load, float(self.number))
        self.truth[Outcome.REJECTED] += load
        if known:
            self.ends_due.append(self.number)

    @rule()
    def send_report(self) -> None:
        self.on_its_way = self.ledger.report()

    @rule()
    def acknowledge_report(self) -> None:
        if self.on_its_way is None:
            return
        report, self.on_its_way = self.on_its_way, None
        self.acknowledged["new"] += report.new_load
        self.acknowledged["rejected"] += report.rejected_load
        self.acknowledged["served"] += report.served_load
        self.ledger.taken(report)

    @rule(most=st.integers(1, 5), arrives=st.booleans())
    def send_ends(self, most: int, arrives: bool) -> None:
        ends = self.ledger.ends(most)
        if arrives:
            self.ledger.ends_taken(ends)
            self.ends_seen += [entry.request_idx for entry in ends]

    @invariant()
    def balances(self) -> None:
        ledger = self.ledger
        requests = [entry for entry in ledger.in_flight if not isinstance(entry, SessionEntry)]
        ended = [ledger.ended[outcome] for outcome in (Outcome.SERVED, Outcome.FAILED, Outcome.CANCELLED)]

        assert ledger.received.load == ledger.rejected.load + ledger.admitted.load
        assert ledger.received.count == ledger.rejected.count + ledger.admitted.count
        assert ledger.admitted.load == sum(sums.load for sums in ended) + ledger.held_load
        assert ledger.admitted.count == sum(sums.count for sums in ended) + len(ledger.in_flight)
        assert ledger.load_in_flight == math.fsum(entry.load for entry in requests)
        assert ledger.requests_in_flight == len(requests)
        assert ledger.rejected.load == self.truth[Outcome.REJECTED]

    @invariant()
    def never_reports_below_zero(self) -> None:
        report = self.ledger.report()

        assert report.new_load >= 0
        assert report.served_load >= 0
        assert report.rejected_load >= 0

    @invariant()
    def figures_are_the_sums_of_their_terms(self) -> None:
        report = self.ledger.report()
        terms = {
            name: sum(term.value for term in figure.terms)
            for name, figure in figures(report).items()
            if figure.terms
        }

        assert max(0.0, terms["new_load"]) == report.new_load
        assert terms["cur_perf"] == report.served_load
        assert terms["rej_load"] == report.rejected_load
        assert terms["cur_load"] == report.current_load
        assert terms["num_requests_working"] == len(report.working)
        assert terms["num_requests_recieved"] == report.received

    def teardown(self) -> None:
        """Once everything is delivered, what the engine acknowledged is the truth to the last unit."""
        for session in [entry for entry in self.ledger.in_flight if isinstance(entry, SessionEntry)]:
            self.close_session(session, Outcome.SERVED)
        self.on_its_way = self.ledger.report()
        self.acknowledge_report()
        while ends := self.ledger.ends(1000):
            self.ledger.ends_taken(ends)
            self.ends_seen += [entry.request_idx for entry in ends]
        net = self.ledger.admitted.load - self.ledger.ended[Outcome.CANCELLED].load

        assert self.acknowledged["served"] == self.truth[Outcome.SERVED] + self.sessions_served
        assert self.acknowledged["rejected"] == self.truth[Outcome.REJECTED]
        assert (
            self.acknowledged["new"] + self.ledger.undelivered[0] == net
        )  # the rest is what is carried below zero
        assert self.ends_seen == self.ends_due


TestLedger = LedgerMachine.TestCase


def test_what_settles_while_a_report_is_on_its_way_belongs_to_the_next() -> None:
    ledger = Ledger()
    first = ledger.enter(1, 100.0, 0.0)
    on_its_way = ledger.report()
    ledger.settle(first, Outcome.SERVED, 1.0)
    ledger.enter(2, 50.0, 1.5)
    ledger.taken(on_its_way)

    report = ledger.report()

    assert (100.0, 0.0) == (on_its_way.new_load, on_its_way.served_load)
    assert (50.0, 100.0) == (report.new_load, report.served_load)


def test_a_report_that_failed_loses_nothing() -> None:
    ledger = Ledger()
    ledger.settle(ledger.enter(1, 100.0, 0.0), Outcome.SERVED, 1.0)
    ledger.report()

    assert ledger.report().served_load == 100.0


def test_cancelled_load_is_taken_from_the_next_admitted() -> None:
    ledger = Ledger()
    entry = ledger.enter(1, 100.0, 0.0)
    ledger.taken(ledger.report())
    ledger.settle(entry, Outcome.CANCELLED, 1.0)
    below_zero = ledger.report()
    ledger.taken(below_zero)
    ledger.enter(2, 130.0, 2.0)

    assert below_zero.new_load == 0.0
    assert ledger.report().new_load == 30.0


def test_two_requests_with_one_index_are_two() -> None:
    ledger = Ledger()
    one, two = ledger.enter(7, 10.0, 0.0), ledger.enter(7, 10.0, 0.0)
    ledger.settle(one, Outcome.SERVED, 1.0)

    assert ledger.report().current_load == 10.0
    assert ledger.report().working == (7,)

    ledger.settle(two, Outcome.SERVED, 1.0)

    assert [7, 7] == [entry.request_idx for entry in ledger.ends(10)]


def test_settling_twice_is_our_bug() -> None:
    ledger = Ledger()
    entry = ledger.enter(1, 1.0, 0.0)
    ledger.settle(entry, Outcome.SERVED, 1.0)

    with pytest.raises(KeyError):
        ledger.settle(entry, Outcome.SERVED, 2.0)


def test_ends_are_bounded_and_what_is_lost_is_counted() -> None:
    ledger = Ledger(max_ended=3)
    for number in range(5):
        ledger.settle(ledger.enter(number, 1.0, 0.0), Outcome.SERVED, 1.0)

    assert [2, 3, 4] == [entry.request_idx for entry in ledger.ends(10)]
    assert ledger.lost_ends == 2


def test_ends_acknowledged_after_some_were_dropped_take_nothing_newer() -> None:
    ledger = Ledger(max_ended=2)
    for number in range(2):
        ledger.settle(ledger.enter(number, 1.0, 0.0), Outcome.SERVED, 1.0)
    on_their_way = ledger.ends(2)
    ledger.settle(ledger.enter(2, 1.0, 0.0), Outcome.SERVED, 1.0)  # drops 0
    ledger.ends_taken(on_their_way)

    assert [2] == [entry.request_idx for entry in ledger.ends(10)]
    assert ledger.unreported_ends == 1


def test_start_is_remembered_and_requests_are_counted() -> None:
    ledger = Ledger()
    entry = ledger.enter(1, 1.0, 0.0, route="/x")
    ledger.start(entry, 0.5)

    assert ledger.requests_in_flight == 1
    assert entry.started_at == 0.5

    ledger.settle(entry, Outcome.FAILED, 1.0)

    assert ledger.requests_in_flight == 0


def test_a_session_counts_once_and_its_requests_use_it_up() -> None:
    ledger = Ledger()
    session = ledger.open_session(1, 100.0, 0.0)
    first = ledger.enter(2, 60.0, 1.0, session=session)
    report = ledger.report()

    assert (report.new_load, report.current_load, report.working) == (100.0, 100.0, (1,))
    assert ledger.load_in_flight == 60.0

    ledger.settle(first, Outcome.SERVED, 2.0)
    second = ledger.enter(3, 60.0, 3.0, session=session)
    report = ledger.report()

    assert (report.new_load, report.served_load, report.current_load) == (120.0, 60.0, 100.0)

    ledger.settle(second, Outcome.FAILED, 4.0)
    ledger.close_session(session, 5.0)
    report = ledger.report()

    assert (report.new_load, report.served_load, report.current_load, report.working) == (
        120.0,
        100.0,
        0.0,
        (),
    )
    assert ledger.ended[Outcome.FAILED].load == 20.0
    assert [1] == [entry.request_idx for entry in ledger.ends(10)]


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.REJECTED])
def test_what_was_not_worked_on_inside_of_a_session_is_given_back(outcome: Outcome) -> None:
    ledger = Ledger()
    session = ledger.open_session(1, 10.0, 0.0)
    ledger.settle(ledger.enter(2, 30.0, 1.0, session=session), outcome, 2.0)
    ledger.close_session(session, 3.0)
    report = ledger.report()

    assert (report.new_load, report.served_load) == (10.0, 10.0)
    assert ledger.ended[Outcome.FAILED].load == 0.0


def test_what_a_predecessor_left_is_told_first() -> None:
    ledger = Ledger()
    ledger.settle(ledger.enter(2, 10.0, 0.0), Outcome.SERVED, 1.0)
    left = Entry(1, 0.0, 0.0, outcome=Outcome.FAILED)
    ledger.restore([left], new=5.0, rejected=6.0, served=7.0)
    report = ledger.report()

    assert [1, 2] == [entry.request_idx for entry in ledger.ends(10)]
    assert (report.new_load, report.rejected_load, report.served_load) == (15.0, 6.0, 17.0)
    assert ledger.undelivered == (15.0, 6.0, 17.0)

    ledger.taken(report)
    ledger.close()

    assert ledger.undelivered == (0.0, 0.0, 0.0)


def test_a_predecessor_that_left_more_than_there_is_room_for_loses_its_oldest() -> None:
    ledger = Ledger(max_ended=2)
    ledger.restore([Entry(number, 0.0, 0.0) for number in range(5)], new=0.0, rejected=0.0, served=0.0)

    assert [3, 4] == [entry.request_idx for entry in ledger.ends(10)]
    assert ledger.lost_ends == 3


def test_load_outside_of_sessions() -> None:
    ledger = Ledger()
    session = ledger.open_session(1, 50.0, 0.0)
    outside, inside = ledger.enter(2, 5.0, 0.0), ledger.enter(3, 7.0, 0.0, session=session)

    assert (ledger.load_in_flight, ledger.load_outside_sessions) == (12.0, 5.0)
    ledger.settle(outside, Outcome.SERVED, 1.0)
    assert (ledger.load_in_flight, ledger.load_outside_sessions) == (7.0, 0.0)
    ledger.settle(inside, Outcome.SERVED, 1.0)
    assert (ledger.load_in_flight, ledger.load_outside_sessions) == (0.0, 0.0)
