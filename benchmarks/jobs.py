"""What the load process is told, and what it answers: JSON lines over its standard input and output."""

from typing import Final

import msgspec

SMALL = "/small"
STREAM = "/stream"
ANSWER = "/answer"
UPLOAD = "/upload"
ROUTES = (SMALL, STREAM, ANSWER, UPLOAD)
"""What the model server serves, and so each peer: a peer may be set up for each kind of traffic as its makers advise."""

SMALL_ANSWER = 300
"""Bytes of the model server's short answer."""

EVENT = 180
"""Bytes of one server-sent event, about what an OpenAI-like server says for a token."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request, sent again and again. ``%(n)d`` in ``lead`` becomes its number, always nine digits.

    ``tail`` follows ``fill`` bytes of filling. ``answer`` and ``events`` are what must come back: bytes of the body (0:
    not looked at), server-sent events.
    """

    path: str
    headers: dict[str, str]
    lead: str = ""
    fill: int = 0
    tail: str = ""
    answer: int = 0
    events: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """``connections`` of them ask, each again as soon as it is answered (after ``pause`` s), for ``seconds`` or ``each`` times.

    They begin evenly over ``spread`` s. ``warm`` is asked once on each before anything is timed, so that every pool is full.
    With ``hold`` it is done when each has the first byte of its answer, and then keeps them all open.
    """

    port: int
    ask: Ask
    warm: Ask | None = None
    tls: bool = False
    connections: int = 1
    seconds: float = 0.0
    each: int = 0
    pause: float = 0.0
    spread: float = 0.0
    hold: bool = False


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Times in seconds; ``first`` is to the first byte of an answer's body."""

    answers: int
    events: int
    up: int
    down: int
    took: float
    latency_p50: float
    latency_p99: float
    first_p50: float
    failures: int
    failure: str


NOTHING: Final = Result(
    answers=0,
    events=0,
    up=0,
    down=0,
    took=0.0,
    latency_p50=0.0,
    latency_p99=0.0,
    first_p50=0.0,
    failures=0,
    failure="",
)
