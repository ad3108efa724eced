"""The journal: whatever instant a worker is killed at, its successor delivers what it had not."""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from pyworker.core.ledger import Entry, SessionEntry
from pyworker.core.outcome import Outcome
from pyworker.engine import journal
from pyworker.engine.journal import Journal, JournaledLedger, JournalError, LoudLedger, ledger_at, slots_in

OFFSET = 1_000_000.0
LOADS = st.integers(0, 2**20).map(lambda n: n / 8)
ENDS = st.sampled_from(list(Outcome))


def ledger(
    folder: Path, *, container_id: int = 5, offset: float = OFFSET, slots: int = 200
) -> JournaledLedger:
    made = ledger_at(folder, container_id=container_id, unix_offset=offset, slots=slots)
    assert isinstance(made, JournaledLedger)
    return made


def killed(folder: Path) -> Path:
    """A copy of the folder as a kill at this instant leaves it."""
    copy = Path(tempfile.mkdtemp(dir=folder.parent))
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


class Watched:
    """A struct that shows the table after every store; the state byte of a slot is stored by the table itself."""

    def __init__(self, real: struct.Struct, stored: Callable[[mmap.mmap], None]) -> None:
        self._real = real
        self._stored = stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def pack_into(self, table: mmap.mmap, *values: Any) -> None:
        self._real.pack_into(table, *values)
        self._stored(table)


class JournalMachine(RuleBasedStateMachine):
    """Requests come, end and are delivered; a successor of a worker killed after any step, and any store, is asked."""

    entries: Bundle[Entry] = Bundle("entries")
    sessions: Bundle[SessionEntry] = Bundle("sessions")

    @initialize()
    def begin(self) -> None:
        self.root = tempfile.TemporaryDirectory()
        self.folder = Path(self.root.name) / "work"
        self.stores: list[bytes] = []
        self.patch = pytest.MonkeyPatch()
        machine = self

        class Table(mmap.mmap):
            def __setitem__(self, at: Any, value: Any) -> None:
                super().__setitem__(at, value)
                machine.stored(self)

        self.patch.setattr(mmap, "mmap", Table)
        for name in ("_SLOT", "_HEAD_LOADS"):
            watched = Watched(getattr(journal, name), self.stored)
            self.patch.setattr(journal, name, watched)
        self.ledger = ledger(self.folder)
        self.stores.clear()
        self.known: dict[int, Outcome] = {}
        self.loads = (0.0, 0.0, 0.0)
        self.number = 0
        self.in_flight: list[int] = []
        self.ended: list[tuple[int, Outcome]] = []

    def stored(self, table: mmap.mmap) -> None:
        if hasattr(self, "ledger") and table is self.ledger._journal._table:  # a successor's is another
            self.stores.append(table[:])

    @rule(target=entries, load=LOADS)
    def enter(self, load: float) -> Entry:
        self.number += 1
        self.in_flight.append(self.number)
        return self.ledger.enter(self.number, load, 1.0)

    @rule(entry=consumes(entries), outcome=ENDS)
    def settle(self, entry: Entry, outcome: Outcome) -> None:
        self.ledger.start(entry, 2.0)
        self.ledger.settle(entry, outcome, 3.0)
        self.in_flight.remove(entry.request_idx)
        self.ended.append((entry.request_idx, outcome))

    @rule(load=LOADS, known=st.booleans())
    def reject(self, load: float, known: bool) -> None:
        self.number += 1
        self.ledger.reject(self.number if known else None, load, 1.0)
        if known:
            self.ended.append((self.number, Outcome.REJECTED))

    @rule(target=sessions, cost=LOADS)
    def open_session(self, cost: float) -> SessionEntry:
        self.number += 1
        self.in_flight.append(self.number)
        return self.ledger.open_session(self.number, cost, 1.0)

    @rule(session=sessions, load=LOADS, outcome=ENDS)
    def inside(self, session: SessionEntry, load: float, outcome: Outcome) -> None:
        if session.outcome is None:
            entry = self.ledger.enter(0, load, 1.0, session=session)
            self.a_worker_killed_between_two_stores_knew_each_request_as_before_or_after()
            self.ledger.settle(entry, outcome, 2.0)

    @rule(session=consumes(sessions))
    def close_session(self, session: SessionEntry) -> None:
        self.ledger.close_session(session, 9.0)
        self.in_flight.remove(session.request_idx)
        self.ended.append((session.request_idx, Outcome.SERVED))

    @rule(most=st.integers(1, 3))
    def deliver_ends(self, most: int) -> None:
        ends = self.ledger.ends(most)
        self.ledger.ends_taken(ends)
        del self.ended[: len(ends)]

    @rule()
    def deliver_report(self) -> None:
        self.ledger.taken(self.ledger.report())

    @invariant()
    def a_worker_killed_between_two_stores_knew_each_request_as_before_or_after(self) -> None:
        if not hasattr(self, "ledger"):
            return
        before, loads = self.known, self.loads
        self.known = {**dict.fromkeys(self.in_flight, Outcome.FAILED), **dict(self.ended)}
        self.loads = self.ledger.undelivered
        for table in self.stores:
            left = self.ledger._journal._undelivered(table)
            found = [(end.request_idx, end.outcome) for end in left.ends]

            assert len(dict(found)) == len(found)
            assert before.keys() & self.known.keys() <= dict(found).keys()
            for index, outcome in found:
                assert outcome in {before.get(index), self.known.get(index)}
            for now, *known in zip(left.loads, loads, self.loads, strict=True):
                assert now in known
        self.stores.clear()

    @invariant()
    def a_successor_delivers_what_was_not(self) -> None:
        if not hasattr(self, "ledger"):
            return
        successor = ledger(killed(self.folder), offset=OFFSET + 50)
        left = successor.ends(1000)

        assert sorted(e.request_idx for e in left if e.outcome is Outcome.FAILED) == sorted(
            self.in_flight + [index for index, outcome in self.ended if outcome is Outcome.FAILED]
        )
        assert [(e.request_idx, e.outcome) for e in left if e.request_idx not in self.in_flight] == self.ended
        assert successor.undelivered == self.ledger.undelivered
        successor.close()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            self.ledger.close()
            self.patch.undo()
            self.root.cleanup()


TestJournal = JournalMachine.TestCase


def test_times_are_told_in_the_successor_s_own_clock(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    entry = first.enter(1, 5.0, 10.0)
    first.start(entry, 11.0)
    first.settle(entry, Outcome.SERVED, 12.0)
    first.close()
    [end] = ledger(tmp_path, offset=OFFSET + 100.0).ends(10)

    assert (end.entered_at, end.started_at, end.ended_at) == (-90.0, -89.0, -88.0)


def test_a_successor_that_is_killed_too_loses_nothing(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    first.enter(1, 5.0, 10.0)
    first.close()
    for _ in range(3):
        again = ledger(tmp_path)
        assert [(1, Outcome.FAILED)] == [(end.request_idx, end.outcome) for end in again.ends(10)]
        assert again.report().new_load == 5.0
        again.close()


def test_a_store_cut_anywhere_leaves_the_slot_as_it_was_or_as_it_should_be(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    first = ledger(folder, slots=4)
    entry = first.enter(7, 5.0, 10.0)
    before = (folder / "journal").read_bytes()
    first.settle(entry, Outcome.SERVED, 12.0)
    after = (folder / "journal").read_bytes()
    changed = [at for at in range(len(after)) if before[at] != after[at]]
    head = [at for at in changed if at < 64]
    slot = [at for at in changed if at >= 64]

    for cut in range(len(slot) + 1):  # a slot's bytes are stored in order, its state last
        torn = bytearray(before)
        for at in slot[:cut]:
            torn[at] = after[at]
        copy = tmp_path / str(cut)
        copy.mkdir()
        (copy / "journal").write_bytes(torn)
        successor = ledger(copy, slots=4)
        [end] = successor.ends(10)

        assert (end.request_idx, end.outcome) == (7, Outcome.SERVED if cut == len(slot) else Outcome.FAILED)
        successor.close()
    assert head


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"x" * 1000,
        b"PYWJRNL1" + b"\0" * 100,
        struct.pack("<8sQQddd", b"PYWJRNL1", 5, 1, float("nan"), 0.0, 0.0) + bytes(64),
        struct.pack("<8sQQddd", b"PYWJRNL1", 5, 1, 1e300, 0.0, 0.0) + bytes(64),
    ],
    ids=["short", "foreign", "torn", "no_number", "no_load"],
)
def test_a_file_that_is_not_ours_costs_a_warning_and_is_put_aside(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "journal").write_bytes(content)
    made = ledger(tmp_path)

    assert made.ends(10) == ()
    assert (tmp_path / "journal.bad").read_bytes() == content
    assert "journal is torn or not ours" in caplog.text


def test_a_truncated_one_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = ledger(tmp_path)
    first.enter(1, 5.0, 1.0)
    first.close()
    os.truncate(tmp_path / "journal", 1000)
    made = ledger(tmp_path)

    assert (made.ends(10), made.undelivered) == ((), (0.0, 0.0, 0.0))
    assert "journal is torn or not ours" in caplog.text


def test_a_smaller_one_takes_the_newest_of_a_larger_one(tmp_path: Path) -> None:
    first = ledger(tmp_path, slots=10)
    for number in range(10):
        first.settle(first.enter(number, 1.0, 1.0), Outcome.SERVED, 2.0)
    first.close()
    second = ledger(tmp_path, slots=4)

    assert [6, 7, 8, 9] == [end.request_idx for end in second.ends(10)]
    assert (second.lost_ends, second.unjournaled, second.report().served_load) == (6, 0, 10.0)
    second.close()
    assert [6, 7, 8, 9] == [end.request_idx for end in ledger(tmp_path, slots=20).ends(10)]


def test_how_many_requests_a_size_holds(tmp_path: Path) -> None:
    first = ledger(tmp_path, slots=slots_in(16 * 1024))

    assert 16 * 1024 - 48 < (tmp_path / "journal").stat().st_size <= 16 * 1024
    assert slots_in(5 * 2**20) > 100_000
    first.close()


def test_another_instance_s_journal_is_not_ours(tmp_path: Path) -> None:
    first = ledger(tmp_path, container_id=5)
    first.enter(1, 5.0, 1.0)
    first.close()

    assert ledger(tmp_path, container_id=6).ends(10) == ()


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("x")
    made = ledger_at(tmp_path / "file", container_id=5, unix_offset=0.0)

    assert isinstance(made, LoudLedger)
    assert made.without_journal
    assert "no journal" in caplog.text
    (tmp_path / "folder" / "journal").mkdir(parents=True)
    assert ledger_at(tmp_path / "folder", container_id=5, unix_offset=0.0).without_journal


def test_two_workers_do_not_share_one(tmp_path: Path) -> None:
    first = ledger(tmp_path)
    with pytest.raises(JournalError, match="another worker uses it"):
        Journal(tmp_path / "journal", container_id=5, unix_offset=0.0)

    first.close()


def test_it_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = ledger(tmp_path, slots=3)
    size = (tmp_path / "journal").stat().st_size
    for number in range(5):
        made.settle(made.enter(number, 1.0, 1.0), Outcome.SERVED, 2.0)
    in_flight = [made.enter(number, 1.0, 1.0) for number in range(10, 14)]

    assert (tmp_path / "journal").stat().st_size == size
    assert [2, 3, 4] == [end.request_idx for end in made.ends(10)]
    assert (made.lost_ends, made.unjournaled) == (2, 4 + 2)
    assert caplog.text.count("more than 3 ended requests wait for the engine: the oldest are given up") == 1
    assert caplog.text.count("journal is full") == 1

    for entry in in_flight:
        made.settle(entry, Outcome.SERVED, 3.0)

    assert len(made.ends(10)) == 3
