"""How far a model load is: stages with times, bytes, bytes per second, percent, time left.

Bytes come from the growth of the disk, and from the log where it says them. Every ``now`` is monotonic seconds.
"""

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pyworker.core.download_lines import Kind, Reading
from pyworker.core.lifecycle import State

WINDOW: Final = 10.0
"""Seconds over which bytes per second are taken."""

DOWNLOADING: Final = 1e6
"""Bytes per second of disk growth that are a download: logs and caches grow more slowly."""


class Stage(Enum):
    """Where a model load is. Download and load are told apart by what the disk and the log do."""

    START = "start"
    DOWNLOAD = "download"
    LOAD = "load"
    PROVE = "prove"
    BENCHMARK = "benchmark"
    CONFIRM = "confirm"
    READY = "ready"
    ERRORED = "errored"


_OF_STATE: Final = {
    State.PROVING: Stage.PROVE,
    State.BENCHMARKING: Stage.BENCHMARK,
    State.CONFIRMING: Stage.CONFIRM,
    State.READY: Stage.READY,
    State.DRAINING: Stage.READY,
    State.ERRORED: Stage.ERRORED,
}


_WORDS: Final = {
    Stage.START: "starting",
    Stage.DOWNLOAD: "downloading",
    Stage.LOAD: "loading the model",
    Stage.PROVE: "proving",
    Stage.BENCHMARK: "measuring perf",
    Stage.CONFIRM: "confirming",
    Stage.READY: "ready",
    Stage.ERRORED: "errored",
}


@dataclass(frozen=True, slots=True)
class Leg:
    """A stage and the monotonic second it began."""

    stage: Stage
    since: float


@dataclass(frozen=True, slots=True)
class Picture:
    """How far it is. Sizes in bytes, ``left`` in seconds; None for what is not known."""

    stage: Stage
    done: float
    per_second: float
    total: float | None = None
    percent: float | None = None
    left: float | None = None

    def words(self) -> str:
        """For a person, in one line."""
        parts = [_WORDS[self.stage]]
        if self.percent is not None:
            parts.append(f"{self.percent:.0f} %" + (f" of {size(self.total)}" if self.total else ""))
        elif self.stage is Stage.DOWNLOAD and self.done:
            parts.append(size(self.done))
        if self.stage is Stage.DOWNLOAD and self.per_second:
            parts.append(f"{size(self.per_second)}/s")
        if self.left is not None:
            parts.append(f"{span(self.left)} left")
        return ", ".join(parts)


class Progress:
    """Fed with what the disk and the log show. ``size`` is that of the model in bytes, None when nobody knows."""

    def __init__(self, now: float, *, size: float | None = None) -> None:
        self._size = size
        self._first_disk: float | None = None
        self._disk: deque[tuple[float, float]] = deque()
        self._reading: Reading | None = None
        self._loading_since: float | None = None
        self.legs: list[Leg] = [Leg(Stage.START, now)]

    def observe(self, now: float, *, state: State, disk: float | None, reading: Reading | None) -> bool:
        """Take in what is so at ``now``: ``disk`` in bytes used, ``reading`` of the log's newest lines. True: a new stage."""
        if disk is not None:
            self._first_disk = disk if self._first_disk is None else self._first_disk
            self._disk.append((now, disk))
            while len(self._disk) > 2 and now - self._disk[1][0] >= WINDOW:  # noqa: PLR2004 - the ends of a span
                self._disk.popleft()
        self._reading = reading
        return self.enter(now, state)

    def enter(self, now: float, state: State) -> bool:
        """The worker is in ``state`` at ``now``. True: that is a new stage."""
        stage = _OF_STATE.get(state) or self._guess()
        if stage is self.legs[-1].stage:
            return False
        self.legs = [*self.legs[-49:], Leg(stage, now)]
        return True

    def _guess(self) -> Stage:
        """Before there is anything to prove: by what the log said last, else by what the disk does."""
        reading = self._reading
        if reading is not None and (reading.kind is Kind.LOAD or reading.done < reading.total):
            return Stage.LOAD if reading.kind is Kind.LOAD else Stage.DOWNLOAD
        if self._growth() >= DOWNLOADING:
            return Stage.DOWNLOAD
        was = self.legs[-1].stage
        return Stage.LOAD if was in {Stage.DOWNLOAD, Stage.LOAD} else Stage.START

    def _growth(self) -> float:
        """Bytes per second that the disk grows by."""
        if len(self._disk) < 2:  # noqa: PLR2004 - one place is no growth
            return 0.0
        (began, first), (now, last) = self._disk[0], self._disk[-1]
        return max(0.0, last - first) / (now - began) if now > began else 0.0

    @property
    def grown(self) -> float:
        """Bytes the disk has grown by since the start."""
        return max(0.0, self._disk[-1][1] - self._first_disk) if self._first_disk is not None else 0.0

    def picture(self) -> Picture:
        """How far it is now."""
        stage = self.legs[-1].stage
        if stage not in {Stage.DOWNLOAD, Stage.LOAD, Stage.START}:
            return Picture(stage, self.grown, self._growth())
        reading = self._reading
        if reading is not None and reading.counts:
            return Picture(stage, self.grown, self._growth(), percent=reading.percent)
        if reading is not None and stage is Stage.DOWNLOAD and reading.total:
            return _of(stage, reading.done, reading.total, reading.rate or self._growth())
        if self._size and stage is not Stage.LOAD:
            return _of(stage, self.grown, self._size, self._growth())
        return Picture(stage, self.grown, self._growth())


def _of(stage: Stage, done: float, total: float, rate: float) -> Picture:
    done = min(done, total)
    left = (total - done) / rate if rate > 0 else None
    return Picture(stage, done, rate, total, 100 * done / total, left)


def size(count: float | None) -> str:
    """Bytes as a person reads them: 4.98 GB."""
    value = count or 0.0
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - units of a thousand
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def span(seconds: float) -> str:
    """Seconds as a person reads them: 45 s, 2 min, 1.5 h."""
    if seconds < 90:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"  # noqa: PLR2004
