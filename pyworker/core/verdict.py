"""Why a worker is not ready: one sentence, and the evidence for it.

Ages and other times are in seconds, None where there is nothing to measure from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from pyworker.core.causes import Cause, cause
from pyworker.core.lifecycle import State
from pyworker.core.progress import Picture, Stage, span
from pyworker.core.redact import excerpt

MAX_LINE: Final = 400
"""Characters of the sentence: it goes into bodies of 503s."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """The model server's log: whether it is there, its newest lines, seconds since it grew and since a loaded line."""

    path: str
    patterns: tuple[str, ...]
    lines: tuple[str, ...] = ()
    still_for: float | None = None
    loaded: float | None = None


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """The health route: what it last said, and when."""

    path: str
    ok: bool = False
    said: str = "not asked yet"
    age: float | None = None


@dataclass(frozen=True, slots=True)
class ProofFacts:
    """The proving request: how often it was tried, what it said last (empty: it succeeded), and when."""

    tries: int = 0
    why: str = ""
    age: float | None = None
    asking_for: float | None = None
    """Seconds the one under way has been waiting."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that can keep a worker from being ready. ``key``: what fetching it says, empty when it is here."""

    state: State
    error: str
    seconds_in_state: float
    seconds_left: float | None
    """Of LOAD_TIMEOUT."""
    picture: Picture
    moved: str
    log: LogFacts | None
    health: HealthFacts | None
    proof: ProofFacts | None
    benchmark: str
    key: str
    blocked: str = ""


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing looked at: its value and how old that is, whether it is as it should be, and what would make it so."""

    name: str
    good: bool
    value: str
    age: float | None
    wants: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence (empty when ready), the signals it rests on, and the most likely cause from the log."""

    line: str
    signals: tuple[Signal, ...]
    cause: Cause | None


def verdict(facts: Facts) -> Verdict:
    found = cause(facts.log.lines) if facts.log is not None and facts.state is not State.READY else None
    return Verdict(_line(facts, found)[:MAX_LINE], tuple(_signals(facts)), found)


# The sentence...


def _line(facts: Facts, found: Cause | None) -> str:
    line = ""
    match facts.state:
        case State.READY:
            pass
        case State.DRAINING:
            line = "finishing what runs, then leaving"
        case State.ERRORED:
            line = _with_cause(facts.error, found)
        case State.LOADING:
            line = _with_cause(_loading(facts), found)
        case State.PROVING:
            line = _with_cause(_proving(facts.proof or ProofFacts()), found)
        case State.BENCHMARKING:
            line = f"measuring perf: {facts.benchmark}" if facts.benchmark else "measuring perf"
        case State.CONFIRMING:
            line = _confirming(facts)
        case _:
            assert_never(facts.state)
    return line


def _with_cause(line: str, found: Cause | None) -> str:
    return line if found is None or found.line in line else f"{line}; most likely {found}"


def _loading(facts: Facts) -> str:
    missing = []
    if facts.log is not None:
        missing.append("no loaded line in its log" if facts.log.lines else f"no log at {facts.log.path}")
    if facts.health is not None:
        missing.append("no 200 from its health route")
    line = f"waiting for the model server: {' and '.join(missing) or 'no sign of it'} yet"
    if facts.picture.stage in {Stage.DOWNLOAD, Stage.LOAD}:
        return f"{line} ({facts.picture.words()})"
    return line


def _proving(proof: ProofFacts) -> str:
    if proof.why:
        tries = f" ({proof.tries} tries)" if proof.tries > 1 else ""
        return f"the proving request has not succeeded yet: {proof.why}{tries}"
    return "the proving request has not succeeded yet: it is under way"


def _confirming(facts: Facts) -> str:
    waits = []
    if facts.key:
        waits.append(f"the engine's public key ({facts.key})")
    if facts.health is not None and not facts.health.ok:
        waits.append(f"a 200 from health route {facts.health.path} ({facts.health.said})")
    return f"waiting for {' and '.join(waits) or 'the last confirmation'}"


# The evidence...


def _signals(facts: Facts) -> Sequence[Signal]:
    found = [_movement(facts)]
    if facts.log is not None:
        found.append(_log(facts.log))
    if facts.health is not None:
        found.append(_health(facts.health))
    if facts.proof is not None:
        found.append(_proof(facts.proof, facts.state))
    found.append(_benchmark(facts))
    found.append(
        Signal("engine's public key", not facts.key, facts.key or "here", None, "an answer of the engine")
    )
    if facts.blocked:
        found.append(Signal("instance", good=False, value=facts.blocked, age=None, wants="it to be mended"))
    return found


def _movement(facts: Facts) -> Signal:
    left = "" if facts.seconds_left is None else f"; {span(facts.seconds_left)} of LOAD_TIMEOUT left"
    return Signal(
        "progress",
        facts.state is State.READY,
        f"{facts.picture.words()}; {facts.moved}{left}",
        facts.seconds_in_state,
        "the next stage",
    )


def _log(log: LogFacts) -> Signal:
    wants = "a line that has " + " or ".join(repr(one) for one in log.patterns) if log.patterns else "no line"
    if log.loaded is not None:
        return Signal("loaded line", good=True, value="seen", age=log.loaded, wants=wants)
    value = f"last line: {excerpt(log.lines[-1])}" if log.lines else f"{log.path} is not there, or empty"
    return Signal("loaded line", good=False, value=value, age=log.still_for, wants=wants)


def _health(health: HealthFacts) -> Signal:
    return Signal(f"health route {health.path}", health.ok, health.said, health.age, "status 200")


def _proof(proof: ProofFacts, state: State) -> Signal:
    proved = state in {State.BENCHMARKING, State.CONFIRMING, State.READY}
    value = "succeeded" if proved else proof.why or "not sent yet"
    if proof.asking_for is not None and not proved:
        value = f"{proof.why or 'sent'}; the present one waits for {span(proof.asking_for)}"
    return Signal("proving request", proved, value, proof.age, "one that succeeds")


def _benchmark(facts: Facts) -> Signal:
    done = facts.state in {State.CONFIRMING, State.READY}
    value = facts.benchmark or ("done" if done else "not begun")
    return Signal("benchmark", done, value, None, "runs that succeed")
