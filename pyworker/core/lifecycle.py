"""States of the worker as one enum and one table.

Rule: whatever changes the state of the worker is in this table. An event that the table does not name for a state is
harmless there and changes nothing.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final


class State(Enum):
    LOADING = "loading"
    """The model server is not known to be up."""
    PROVING = "proving"
    """Something says it is loaded; one real request must succeed."""
    BENCHMARKING = "benchmarking"
    """Measuring perf."""
    CONFIRMING = "confirming"
    """Measured; waiting for the health route and the engine's public key."""
    READY = "ready"
    ERRORED = "errored"
    """Out of service, with a reason; left when the model server comes back."""
    DRAINING = "draining"
    """Told to stop: finishing what runs. The last state."""


class Event(Enum):
    LOADED = "loaded"
    PROVED = "proved"
    MEASURED = "measured"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    CLEARED = "cleared"
    """What made it errored is mended, and it was not the model server."""
    STOP = "stop"


_TABLE: Final[dict[State, dict[Event, State]]] = {
    State.LOADING: {
        Event.LOADED: State.PROVING,
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.PROVING: {
        Event.PROVED: State.BENCHMARKING,
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.BENCHMARKING: {
        Event.MEASURED: State.CONFIRMING,
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.CONFIRMING: {
        Event.CONFIRMED: State.READY,
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.READY: {
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.ERRORED: {
        Event.LOADED: State.PROVING,
        Event.CLEARED: State.LOADING,
        Event.FAILED: State.ERRORED,
        Event.STOP: State.DRAINING,
    },
    State.DRAINING: {},
}


_CLEARS: Final = frozenset({State.READY, State.LOADING})


@dataclass(frozen=True, slots=True)
class Phase:
    """A state and the monotonic second it began."""

    state: State
    since: float


class Lifecycle:
    """Where the worker is, since when, and why it is errored. ``now`` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.state = State.LOADING
        self.error = ""
        """Why the worker is, or was last, errored; empty once it is ready again: on the way there it is no use yet."""
        self.load_time: float | None = None
        """Seconds from start to the first READY; None until then. A later recovery does not change it."""
        self.perf = 0.0
        """Load per second the benchmark measured (or the pinned figure); 0 until then."""
        self.history = [Phase(self.state, now)]

    def handle(self, event: Event, now: float, *, reason: str = "") -> bool:
        """Move by the table; says whether anything changed (the state, or the reason of an error)."""
        target = _TABLE[self.state].get(event)
        if target is None:
            return False
        error = reason if target is State.ERRORED else "" if target in _CLEARS else self.error
        changed = (target, error) != (self.state, self.error)
        if target is not self.state:
            self.history = [*self.history[-99:], Phase(target, now)]
        self.state = target
        self.error = error
        if target is State.READY and self.load_time is None:
            self.load_time = now - self.started_at
        return changed

    def measured(self, perf: float, now: float) -> bool:
        """The benchmark found ``perf`` (load per second): handle `Event.MEASURED` and keep the figure."""
        self.perf = perf
        return self.handle(Event.MEASURED, now)

    @property
    def told_error(self) -> str:
        """What the engine is told: a draining worker must get no more requests, and the wire has no other word for it."""
        return "draining: this worker was told to stop" if self.state is State.DRAINING else self.error

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    def seconds_in_state(self, now: float) -> float:
        return now - self.history[-1].since
