"""How long the model server may take: four clocks, and which of them runs out first."""

from dataclasses import dataclass, field
from math import inf
from typing import Final

CONNECT: Final = 10.0
"""The model server is next door: ten seconds without a connection is a full backlog or a wrong address."""

FIRST_BYTE: Final = 3600.0
"""A generous end for what would hang for ever: silent jobs (a video, a batch) answer only when they are done."""

IDLE: Final = 600.0
"""Between two pieces of an answer that has begun."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds, None for no limit. ``first_byte`` runs from the end of the request, ``total`` from its beginning."""

    connect: float | None = CONNECT
    first_byte: float | None = FIRST_BYTE
    idle: float | None = IDLE
    total: float | None = None
    shortest: float = field(init=False, repr=False, compare=False)
    """Seconds until anything can have run out; inf when nothing can."""

    def __post_init__(self) -> None:
        running = [clock for clock in (self.first_byte, self.idle, self.total) if clock is not None]
        object.__setattr__(self, "shortest", min(running, default=inf))

    def soonest(self, *, asked: float, since: float, answering: bool, models_turn: bool) -> tuple[float, str]:
        """When the next clock runs out (inf: never) and what to say then.

        ``asked`` is when the request began, ``since`` when anything last moved, ``answering`` whether the answer has begun.
        While it is not the model's turn (its client has to send, or to read) only ``total`` runs.
        """
        found = (inf, "")
        if self.total is not None:
            found = (asked + self.total, f"was not done within total_timeout={self.total:g} s")
        if not models_turn:
            return found
        if answering and self.idle is not None:
            found = min(found, (since + self.idle, f"sent nothing for idle_timeout={self.idle:g} s"))
        if not answering and self.first_byte is not None:
            found = min(
                found,
                (since + self.first_byte, f"did not answer within first_byte_timeout={self.first_byte:g} s"),
            )
        return found
