"""What each request cost and what became of it.

The promise, at every instant, in load and in count:
``received = rejected + admitted`` and ``admitted = served + failed + cancelled + in flight``.

Totals count from the start; what the engine has acknowledged is a second set of totals, and a report is the
difference. So a report that fails loses nothing, and what settles while one is on its way belongs to the next.

A session counts as one request of its cost from create to close. Requests inside it use that cost up: they appear in
no list that the engine gets, enter the admitted load only beyond the cost, and count as served as they are; at close the
rest of the cost counts as served. So a session is served for the larger of its cost and what its requests were served,
and the books balance at every instant.

Loads are in the handler's unit, every ``now`` is monotonic seconds. Entries are told apart by themselves: two requests
with one ``request_idx`` are two.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pyworker.core.outcome import Outcome
from pyworker.core.traffic import Traffic

MAX_ENDED: Final = 100_000
"""Ends kept while the engine cannot be reached (some 20 MB); past it the oldest go and are counted in ``lost_ends``."""


MAX_LOAD: Final = 1e9
"""Load of one request at most: sums of loads stay far from where floats get coarse, or infinite."""


@dataclass(slots=True, eq=False)
class Entry:
    """One request from the moment it was admitted. Times are monotonic seconds, None where never reached."""

    request_idx: int
    load: float
    entered_at: float
    route: str = ""
    started_at: float | None = None
    answered_at: float | None = None
    """When the first byte of its answer's body went to the client, where someone has noted it."""
    ended_at: float | None = None
    outcome: Outcome | None = None
    session: "SessionEntry | None" = None
    """The session the request is inside of, if it is."""


@dataclass(slots=True, eq=False)
class SessionEntry(Entry):
    """A session: one request of load ``load`` (its cost), and what the requests inside it came to."""

    admitted_inside: float = 0.0
    served_inside: float = 0.0

    @property
    def admitted(self) -> float:
        """Load this session and its requests were admitted for, together."""
        return max(self.load, self.admitted_inside)


@dataclass(slots=True)
class Sums:
    """A load and a count for each thing that can become of a request."""

    load: float = 0.0
    count: int = 0

    def add(self, load: float) -> None:
        self.load += load
        self.count += 1

    def take_back(self, load: float) -> None:
        self.load -= load
        self.count -= 1


@dataclass(frozen=True, slots=True)
class Totals:
    """Loads since the start, by what they consist of."""

    admitted: float = 0.0
    sessions: float = 0.0
    """Of what was admitted: sessions, by their cost."""
    beyond: float = 0.0
    """Of what was admitted: what requests inside of sessions came to beyond the cost."""
    cancelled: float = 0.0
    rejected: float = 0.0
    served: float = 0.0
    inside: float = 0.0
    """Of what was served: requests inside of sessions."""
    rests: float = 0.0
    """Of what was served: what was left of sessions' costs when they closed."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the engine is told: increments since the last acknowledged report, and what is in flight now."""

    new_load: float
    rejected_load: float
    served_load: float
    current_load: float
    working: tuple[int, ...]
    received: int
    # The totals this report brings the engine up to: what `Ledger.taken` needs.
    totals: tuple[float, float, float] = field(repr=False)
    # Why the figures are what they are: for `core.reckoning`.
    sums: Totals = field(repr=False)
    known: Totals = field(repr=False)
    """The same sums at the last acknowledged report."""
    carried: tuple[float, float, float] = field(repr=False)
    """Of new, rejected and served: below 0 what was told too much, above what a predecessor had not delivered."""
    working_outside: int = field(repr=False)
    sessions_load: float = field(repr=False)
    turned_away: int = field(repr=False)


class Ledger:
    """The accounts of one worker."""

    def __init__(self, *, max_ended: int = MAX_ENDED) -> None:
        # What happened since the start; never reset.
        self.admitted = Sums()
        self.rejected = Sums()
        self.ended = {outcome: Sums() for outcome in (Outcome.SERVED, Outcome.FAILED, Outcome.CANCELLED)}
        self._served, self._cancelled = self.ended[Outcome.SERVED], self.ended[Outcome.CANCELLED]
        self.lost_ends = 0
        """Ends given up as too many waited for the engine."""
        self.unjournaled = 0
        """Requests that found the journal full: a kill would lose them."""
        self.without_journal = ""
        """Why nothing of this outlives the process; empty where a journal does, or none was asked for."""
        self.changes = 0
        """Grows with every change: whoever remembers it can tell whether a report would say something new."""
        self.traffic = Traffic()
        self._sessions = self._beyond = self._inside = self._rests = 0.0  # as in `Totals`
        # What is true now.
        self._in_flight: dict[Entry, None] = {}
        self._load_in_flight = 0.0
        self._load_inside = 0.0
        self.requests_in_flight = 0
        """Requests queued and working, inside of sessions too; sessions as such are none."""
        # What the engine has not acknowledged yet.
        self.max_ended = max_ended
        self._acknowledged = (0.0, 0.0, 0.0)
        self._known = Totals()
        self._unreported: deque[Entry] = deque()

    def close(self) -> None:
        """Let go of whatever a ledger holds outside of memory: this one nothing."""

    # The life of a request...

    def enter(
        self,
        request_idx: int,
        load: float,
        now: float,
        *,
        route: str = "",
        session: SessionEntry | None = None,
    ) -> Entry:
        """Admit a request of ``load``, inside of ``session`` if one is given; it is in flight until `settle`."""
        entry = Entry(request_idx, load, now, route, session=session)
        self.admitted.add(load if session is None else self._beyond_cost(session, load))
        self._in_flight[entry] = None
        self._load_in_flight += load
        if session is not None:
            self._load_inside += load
        self.requests_in_flight += 1
        self.changes += 1
        return entry

    def open_session(self, request_idx: int, cost: float, now: float) -> SessionEntry:
        """Admit a session of load ``cost``; it is in flight until `close_session`."""
        entry = SessionEntry(request_idx, cost, now, started_at=now)
        self.admitted.add(cost)
        self._sessions += cost
        self._in_flight[entry] = None
        self.changes += 1
        return entry

    def _beyond_cost(self, session: SessionEntry, load: float) -> float:
        """Admit ``load`` inside of a session; what that comes to beyond its cost."""
        beyond = self._use(session, load)
        self._beyond += beyond
        return beyond

    @staticmethod
    def _use(session: SessionEntry, load: float) -> float:
        """Admit ``load`` (below 0: take it back) inside of a session; what that adds to what is admitted in all."""
        before = session.admitted
        session.admitted_inside += load
        return session.admitted - before

    def start(self, entry: Entry, now: float) -> None:
        """The request left the queue: the model server works on it from ``now``."""
        entry.started_at = now

    def settle(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """End an admitted request; REJECTED: it was turned away after all. A second settling is our bug (KeyError)."""
        del self._in_flight[entry]
        self.requests_in_flight -= 1
        self._load_in_flight -= entry.load
        if entry.session is not None:
            self._load_inside -= entry.load
        if not self.requests_in_flight:  # what rounding has left over
            self._load_in_flight = self._load_inside = 0.0
        entry.outcome = outcome
        entry.ended_at = now
        self.traffic.ended(
            entry.route,
            outcome,
            entry.load,
            entered=entry.entered_at,
            started=entry.started_at,
            answered=entry.answered_at,
            ended=now,
        )
        if entry.session is not None:
            self._settle_inside(entry.session, entry.load, outcome)
            return
        if outcome is Outcome.REJECTED:
            self.admitted.take_back(entry.load)
            self.rejected.add(entry.load)
        else:
            self.ended[outcome].add(entry.load)
        self._remember(entry)

    def _settle_inside(self, session: SessionEntry, load: float, outcome: Outcome) -> None:
        """A request inside of a session ended: the engine hears of it by the session's figures alone."""
        self.changes += 1
        if outcome is Outcome.SERVED:
            session.served_inside += load
            self._inside += load
            self.ended[outcome].add(load)
            return
        if outcome is Outcome.FAILED:  # its load stays admitted, and is told apart when the session closes
            self.ended[outcome].add(0.0)
            return
        given_back = -self._use(session, -load)
        if outcome is Outcome.REJECTED:
            self.admitted.take_back(given_back)
            self._beyond -= given_back
            self.rejected.add(load)
        else:
            self.ended[outcome].add(given_back)

    def close_session(self, session: SessionEntry, now: float) -> None:
        """End a session, after its requests: the rest of its cost counts as served, what failed beyond it as failed."""
        assert not any(entry.session is session for entry in self._in_flight)
        del self._in_flight[session]
        session.outcome = Outcome.SERVED
        session.ended_at = now
        rest = max(0.0, session.load - session.served_inside)
        self._rests += rest
        self.ended[Outcome.SERVED].add(rest)
        self.ended[Outcome.FAILED].load += session.admitted - session.served_inside - rest
        self._remember(session)

    def reject(self, request_idx: int | None, load: float, now: float, *, route: str = "") -> None:
        """Count a signed request that was turned away; without a usable index only its load can be told."""
        self.rejected.add(load)
        self.traffic.rejected(route, load)
        self.changes += 1
        if request_idx is not None:
            entry = Entry(request_idx, load, now, route, ended_at=now, outcome=Outcome.REJECTED)
            self._remember(entry)

    def _remember(self, entry: Entry) -> None:
        self.changes += 1
        self._unreported.append(entry)
        if len(self._unreported) > self.max_ended:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._dropped(self._unreported.popleft())
        self.lost_ends += 1

    def _dropped(self, entry: Entry) -> None:
        """An end was given up, as too many wait: for whoever keeps a copy."""

    # What is in flight...

    @property
    def load_in_flight(self) -> float:
        """Load of the requests queued and working now: what the model server has before it. Sessions as such have none."""
        return self._load_in_flight

    @property
    def load_outside_sessions(self) -> float:
        """Load of the requests queued and working now that are in no session."""
        return max(0.0, self._load_in_flight - self._load_inside)

    @property
    def held_load(self) -> float:
        """Load admitted and not ended, by the books: of a session, what neither it nor its requests were served for."""
        outside = (entry for entry in self._in_flight if entry.session is None)
        return math.fsum(
            entry.admitted - entry.served_inside if isinstance(entry, SessionEntry) else entry.load
            for entry in outside
        )

    @property
    def in_flight(self) -> tuple[Entry, ...]:
        return tuple(self._in_flight)

    @property
    def received(self) -> Sums:
        return Sums(self.admitted.load + self.rejected.load, self.admitted.count + self.rejected.count)

    # What the engine is told...

    def report(self) -> Report:
        """What is true now and what is new since the last report `taken`; changes nothing."""
        totals = self._totals()
        new, rejected, served = self.undelivered
        if new < 0:
            # More was cancelled or turned away than admitted: the wire has no negative, the rest is carried over.
            totals = (self._acknowledged[0], *totals[1:])
            new = 0.0
        working = [entry for entry in self._in_flight if entry.session is None]
        sessions = [entry for entry in working if isinstance(entry, SessionEntry)]
        return Report(
            new_load=new,
            rejected_load=rejected,
            served_load=served,
            current_load=math.fsum(entry.load for entry in working),
            working=tuple(entry.request_idx for entry in working),
            received=self.received.count,
            totals=totals,
            sums=self._sums(),
            known=self._known,
            carried=self._carried(),
            working_outside=len(working) - len(sessions),
            sessions_load=math.fsum(entry.load for entry in sessions),
            turned_away=self.rejected.count,
        )

    def _sums(self) -> Totals:
        return Totals(
            admitted=self.admitted.load,
            sessions=self._sessions,
            beyond=self._beyond,
            cancelled=self._cancelled.load,
            rejected=self.rejected.load,
            served=self._served.load,
            inside=self._inside,
            rests=self._rests,
        )

    def _carried(self) -> tuple[float, float, float]:
        new, rejected, served = self._acknowledged
        known = self._known
        return known.admitted - known.cancelled - new, known.rejected - rejected, known.served - served

    def taken(self, report: Report) -> None:
        """The engine has acknowledged ``report``: the next one starts where it ended."""
        self._acknowledged = report.totals
        self._known = report.sums

    @property
    def unreported_ends(self) -> int:
        return len(self._unreported)

    def ends(self, most: int) -> tuple[Entry, ...]:
        """The oldest requests whose end the engine has not acknowledged, in order; changes nothing."""
        return tuple(entry for entry, _ in zip(self._unreported, range(most), strict=False))

    def restore(self, ends: Iterable[Entry], *, new: float, rejected: float, served: float) -> None:
        """Take over what an earlier process had not delivered: ended requests, and load by what became of it."""
        self._unreported.extendleft(reversed(list(ends)))
        while len(self._unreported) > self.max_ended:
            self._drop_oldest()
        admitted, known_rejected, known_served = self._acknowledged
        self._acknowledged = (admitted - new, known_rejected - rejected, known_served - served)
        self.changes += 1

    @property
    def undelivered(self) -> tuple[float, float, float]:
        """Load admitted (less cancelled; may be below 0), rejected and served that the engine has not acknowledged."""
        total, known = self._totals(), self._acknowledged
        return total[0] - known[0], total[1] - known[1], total[2] - known[2]

    def _totals(self) -> tuple[float, float, float]:
        return self.admitted.load - self._cancelled.load, self.rejected.load, self._served.load

    def ends_taken(self, ends: tuple[Entry, ...]) -> None:
        """The engine has acknowledged these ends. Some may have been dropped meanwhile."""
        taken = set(map(id, ends))
        while self._unreported and id(self._unreported[0]) in taken:
            self._unreported.popleft()
