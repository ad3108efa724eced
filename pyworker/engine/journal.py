"""Keeps the ledger's undelivered part in a file, so that a killed worker's successor can deliver it.

The file is a table of fixed size in shared memory (mmap): a store survives the death of the process without a system
call, and the table cannot outgrow its bound. It is for process death, not for power loss.

A slot is one request: free, in flight, or ended and not acknowledged. The state is one byte, written last, so that a
process killed in the middle of a store leaves the slot as it was or as it should be. The head carries the load that the
engine has not acknowledged. Times are Unix seconds, as monotonic ones mean nothing to a successor.
"""

import fcntl
import logging
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyworker.core.ledger import Entry, Ledger, Report, SessionEntry
from pyworker.core.outcome import Outcome
from pyworker.core.redact import excerpt

log = logging.getLogger(__name__)

SLOTS: Final = 100_000
"""Requests the table holds unless told otherwise: in flight and unacknowledged together."""

INSANE: Final = 1e15
"""A load beyond it was not written by us."""

_MAGIC: Final = b"PYWJRNL1"
_HEAD: Final = struct.Struct("<8sQQddd")  # magic, instance id, slots, load new, rejected, served
_HEAD_LOADS: Final = struct.Struct("<ddd")
_HEAD_LOADS_AT: Final = 24
_HEAD_SIZE: Final = 64
_SLOT: Final = struct.Struct("<Qqddd")  # sequence, request_idx, entered, started, ended; then the state byte
_SLOT_SIZE: Final = 48
_STATE_AT: Final = _SLOT.size
_NEVER: Final = 0.0

_FREE: Final = 0
_IN_FLIGHT: Final = 1
_STATES: Final = {Outcome.SERVED: 2, Outcome.FAILED: 3, Outcome.CANCELLED: 4, Outcome.REJECTED: 5}
_OUTCOMES: Final = {state: outcome for outcome, state in _STATES.items()}


@dataclass(frozen=True, slots=True)
class Left:
    """What a killed worker left undelivered. Entries' times are monotonic seconds of this process."""

    ends: tuple[Entry, ...]
    cut_off: int
    loads: tuple[float, float, float]


NOTHING: Final = Left((), 0, (0.0, 0.0, 0.0))


class JournalError(Exception):
    """The journal cannot be used; says why. The worker goes on without one, but with what the predecessor ``left``."""

    def __init__(self, why: str, left: Left = NOTHING) -> None:
        super().__init__(why)
        self.left = left


class Journal:
    """The table at ``path``, for instance ``container_id``. ``unix_offset`` turns monotonic into Unix seconds.

    Raises `JournalError` when the file cannot be had. A file that is none of ours is put aside, never written over.
    """

    def __init__(self, path: Path, *, container_id: int, unix_offset: float, slots: int = SLOTS) -> None:
        self.path = path
        self._offset = unix_offset
        self.slots = slots
        self._sequence = 0
        self._new = path.with_name(path.name + ".new")
        self._files: list[int] = []
        self._free: list[int] = []
        self._never_used = 0
        """The first of the slots that nothing has been in yet."""
        self.left = NOTHING
        try:
            file = self._open(path)
            self.left = self._undelivered(self._read_old(file, container_id))
            self._table = self._table_beside(file, container_id)
        except OSError as error:
            self.close()
            raise JournalError(f"{path}: {error.strerror or error}", self.left) from error

    def _table_beside(self, file: int, container_id: int) -> mmap.mmap:
        """A fresh table while ``file``, the predecessor's, stands; on a full disk in its place, as what it held is known now."""
        new = self._open(self._new)
        try:
            return self._fresh(new, container_id)
        except OSError:
            os.ftruncate(file, 0)
            try:
                return self._fresh(new, container_id)
            except OSError:
                self._new.unlink(missing_ok=True)
                raise

    def commit(self) -> None:
        """Take the place of the predecessor's file. Until then it stands, should this process be killed too."""
        self._new.replace(self.path)

    def _open(self, path: Path) -> int:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._files.append(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(error.errno, "another worker uses it") from error
        return file

    def _read_old(self, file: int, container_id: int) -> bytes:
        """The table a predecessor left; empty when there is none, or none that is ours."""
        old = os.pread(file, os.fstat(file).st_size, 0)
        if not old:
            return b""
        if len(old) >= _HEAD_SIZE:
            magic, owner, slots, *loads = _HEAD.unpack_from(old)
            sane = all(abs(load) < INSANE for load in loads)  # false for NaN, too
            whole = len(old) == _HEAD_SIZE + slots * _SLOT_SIZE
            if magic == _MAGIC and owner == container_id and whole and sane:
                return old
        aside = self.path.with_name(self.path.name + ".bad")
        aside.write_bytes(old)
        log.warning("journal is torn or not ours: put aside as %s, nothing taken from it", aside)
        return b""

    def _fresh(self, file: int, container_id: int) -> mmap.mmap:
        """An empty table, with the disk space it needs taken now: a full disk must not end the process later."""
        size = _HEAD_SIZE + self.slots * _SLOT_SIZE
        os.ftruncate(file, 0)
        os.posix_fallocate(file, 0, size)
        table = mmap.mmap(file, size)
        _HEAD.pack_into(table, 0, _MAGIC, container_id, self.slots, 0.0, 0.0, 0.0)
        return table

    # What was left...

    def _undelivered(self, old: bytes) -> Left:
        if not old:
            return NOTHING
        found = sorted(_slots_of(old))
        ends = []
        cut_off = 0
        for _, state, index, entered, started, ended in found:
            entry = Entry(index, 0.0, entered - self._offset)
            entry.started_at = started - self._offset if started != _NEVER else None
            entry.ended_at = (ended if ended != _NEVER else started or entered) - self._offset
            entry.outcome = _OUTCOMES.get(state, Outcome.FAILED)
            cut_off += state == _IN_FLIGHT
            ends.append(entry)
        return Left(tuple(ends), cut_off, _HEAD_LOADS.unpack_from(old, _HEAD_LOADS_AT))

    # Writing...

    def enter(self, entry: Entry, state: int = _IN_FLIGHT) -> int | None:
        """A slot for a request, in flight unless ``state`` says otherwise; None when the table is full."""
        if self._free:
            slot = self._free.pop()
        elif self._never_used < self.slots:
            slot = self._never_used
            self._never_used += 1
        else:
            return None
        self._write(slot, entry, state)
        return slot

    def end(self, slot: int, entry: Entry) -> None:
        """The request ended and is to be delivered."""
        assert entry.outcome is not None
        self._write(slot, entry, _STATES[entry.outcome])

    def _write(self, slot: int, entry: Entry, state: int) -> None:
        table, offset = self._table, self._offset
        at = _HEAD_SIZE + slot * _SLOT_SIZE
        self._sequence += 1
        started, ended = entry.started_at, entry.ended_at
        _SLOT.pack_into(
            table,
            at,
            self._sequence,
            entry.request_idx,
            entry.entered_at + offset,
            _NEVER if started is None else started + offset,
            _NEVER if ended is None else ended + offset,
        )
        table[at + _STATE_AT] = state

    def free(self, slot: int) -> None:
        """The end is acknowledged."""
        self._table[_HEAD_SIZE + slot * _SLOT_SIZE + _STATE_AT] = _FREE
        self._free.append(slot)

    def loads(self, loads: tuple[float, float, float]) -> None:
        """Load admitted, rejected and served that the engine has not acknowledged."""
        _HEAD_LOADS.pack_into(self._table, _HEAD_LOADS_AT, *loads)

    def close(self) -> None:
        """Let go of the file; what it holds stays."""
        for file in self._files:
            fcntl.flock(file, fcntl.LOCK_UN)  # the mapping holds the file open longer than we do
            os.close(file)
        self._files.clear()


def _slots_of(table: bytes) -> Iterator[tuple[int, int, int, float, float, float]]:
    """Sequence, state, index and times of every slot in use."""
    for at in range(_HEAD_SIZE, len(table) - _SLOT_SIZE + 1, _SLOT_SIZE):
        state = table[at + _STATE_AT]
        if state == _IN_FLIGHT or state in _OUTCOMES:
            sequence, index, entered, started, ended = _SLOT.unpack_from(table, at)
            yield sequence, state, index, entered, started, ended


class LoudLedger(Ledger):
    """A ledger that says, once, that it has to give ends up."""

    def _drop_oldest(self) -> None:
        if self.lost_ends == 0:
            log.error(
                "more than %d ended requests wait for the engine: the oldest are given up from now on (JOURNAL_MAX_SIZE)",
                self.max_ended,
            )
        super()._drop_oldest()

    def take_over(self, left: Left) -> None:
        """What a predecessor left is this one's to deliver."""
        if left.ends or any(left.loads):
            log.warning(
                "taking over from a worker that was killed: undelivered_ends=%d cut_off=%d",
                len(left.ends),
                left.cut_off,
            )
        new, rejected, served = left.loads
        self.restore(left.ends, new=new, rejected=rejected, served=served)


class JournaledLedger(LoudLedger):
    """A ledger whose undelivered part survives the process. Requests inside of a session have no end to deliver."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(max_ended=journal.slots)
        self._journal = journal
        self._slot_of: dict[Entry, int] = {}
        left = journal.left
        self.take_over(left)
        for entry in self.ends(len(left.ends)):
            self._journal_end(entry)
        self._journal_loads()
        journal.commit()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def enter(
        self,
        request_idx: int,
        load: float,
        now: float,
        *,
        route: str = "",
        session: SessionEntry | None = None,
    ) -> Entry:
        entry = super().enter(request_idx, load, now, route=route, session=session)
        if session is None:
            self._journal_enter(entry)
        self._journal_loads()
        return entry

    def open_session(self, request_idx: int, cost: float, now: float) -> SessionEntry:
        entry = super().open_session(request_idx, cost, now)
        self._journal_enter(entry)
        self._journal_loads()
        return entry

    def settle(self, entry: Entry, outcome: Outcome, now: float) -> None:
        super().settle(entry, outcome, now)
        self._journal_loads()

    def close_session(self, session: SessionEntry, now: float) -> None:
        super().close_session(session, now)
        self._journal_loads()

    def reject(self, request_idx: int | None, load: float, now: float, *, route: str = "") -> None:
        super().reject(request_idx, load, now, route=route)
        self._journal_loads()

    def _remember(self, entry: Entry) -> None:
        super()._remember(entry)  # first, as it may drop an older end and so make room
        self._journal_end(entry)

    def _dropped(self, entry: Entry) -> None:
        self._journal_free(entry)

    def taken(self, report: Report) -> None:
        super().taken(report)
        self._journal_loads()

    def ends_taken(self, ends: tuple[Entry, ...]) -> None:
        super().ends_taken(ends)
        for entry in ends:
            self._journal_free(entry)

    def _journal_enter(self, entry: Entry, state: int = _IN_FLIGHT) -> None:
        slot = self._journal.enter(entry, state)
        if slot is not None:
            self._slot_of[entry] = slot
            return
        if self.unjournaled == 0:
            log.error("journal is full: a kill would lose what comes now; JOURNAL_MAX_SIZE makes it larger")
        self.unjournaled += 1

    def _journal_end(self, entry: Entry) -> None:
        slot = self._slot_of.get(entry)
        if slot is not None:
            self._journal.end(slot, entry)
        else:  # rejected at the door, or left by a predecessor
            assert entry.outcome is not None
            self._journal_enter(entry, _STATES[entry.outcome])

    def _journal_free(self, entry: Entry) -> None:
        slot = self._slot_of.pop(entry, None)
        if slot is not None:
            self._journal.free(slot)

    def _journal_loads(self) -> None:
        self._journal.loads(self.undelivered)


def slots_in(size: int) -> int:
    """Requests that a journal of ``size`` bytes holds, at least one."""
    return max(1, (size - _HEAD_SIZE) // _SLOT_SIZE)


def ledger_at(folder: Path, *, container_id: int, unix_offset: float, slots: int = SLOTS) -> Ledger:
    """The ledger of a worker, journaled in ``folder`` where that can be; a worker without a journal works all the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / "journal", container_id=container_id, unix_offset=unix_offset, slots=slots)
    except (JournalError, OSError) as error:
        log.warning("no journal: %s; if this worker is killed, what it had not reported is lost", error)
        ledger = LoudLedger(max_ended=slots)
        ledger.without_journal = excerpt(str(error))
        ledger.take_over(error.left if isinstance(error, JournalError) else NOTHING)
        return ledger
    return JournaledLedger(journal)
