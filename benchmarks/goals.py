"""Medians, spreads, goals and what became of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Final

OURS: Final = "pyworker"
"""The peer that goals are about."""


@dataclass(frozen=True, slots=True)
class Bound:
    """At most ``limit`` times what ``peer`` has; without a peer at most ``limit``, in the figure's unit."""

    limit: float
    peer: str | None = None

    def text(self, unit: str) -> str:
        return f"≤ {self.limit:g} {unit}" if self.peer is None else f"≤ {self.limit:g} x {self.peer}"

    def share(self, medians: Mapping[str, float]) -> float | None:
        """Our figure in units of the bound's base; None where there is nothing to compare."""
        ours = medians.get(OURS)
        if ours is None or self.peer is None:
            return ours
        theirs = medians.get(self.peer)
        return None if theirs is None or theirs <= 0 else ours / theirs


@dataclass(frozen=True, slots=True)
class Goal:
    """What our figure should be, and what it must at least be."""

    bound: Bound
    floor: Bound | None = None

    def text(self, unit: str) -> str:
        return self.bound.text(unit) + (f" (floor {self.floor.text(unit)[2:]})" if self.floor else "")


class Kind(Enum):
    """How a goal ended."""

    MET = "met"
    FLOOR = "floor met"
    MISSED = "missed"
    UNKNOWN = "not judged"


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    text: str


def judge(goal: Goal, medians: Mapping[str, float], unit: str) -> Verdict:
    """What became of ``goal``, in words a table has room for."""
    share = goal.bound.share(medians)
    if share is None:
        return Verdict(Kind.UNKNOWN, f"not judged: no figure of {_missing(goal.bound, medians)}")
    shown = _shown(share, goal.bound, unit)
    if share <= goal.bound.limit:
        return Verdict(Kind.MET, f"met: {shown}")
    over = f"{share / goal.bound.limit - 1:.0%}"
    if goal.floor is None:
        return Verdict(Kind.MISSED, f"MISSED by {over}: {shown}")
    return _on_the_floor(goal.floor, medians, unit, f"goal missed by {over}: {shown}")


def _on_the_floor(floor: Bound, medians: Mapping[str, float], unit: str, missed: str) -> Verdict:
    share = floor.share(medians)
    if share is None:
        return Verdict(Kind.MISSED, f"{missed}; floor not judged: no figure of {_missing(floor, medians)}")
    shown = _shown(share, floor, unit)
    if share <= floor.limit:
        return Verdict(Kind.FLOOR, f"{missed}; floor met: {shown}")
    return Verdict(Kind.MISSED, f"{missed}; FLOOR MISSED by {share / floor.limit - 1:.0%}: {shown}")


def _missing(bound: Bound, medians: Mapping[str, float]) -> str:
    return OURS if OURS not in medians or bound.peer is None else bound.peer


def _shown(share: float, bound: Bound, unit: str) -> str:
    return f"{number(share)} {unit}" if bound.peer is None else f"{number(share)} x {bound.peer}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one case: a sample a round for each peer. Lower is better."""

    case: str
    figure: str
    unit: str
    samples: Mapping[str, Sequence[float]]
    goals: Sequence[Goal] = ()
    amount: tuple[str, int] | None = None
    """Of what there was how much, in a row that is one point of a curve."""

    @property
    def medians(self) -> dict[str, float]:
        return {peer: median(found) for peer, found in self.samples.items() if found}

    @property
    def spreads(self) -> dict[str, float]:
        """Half the way from the least to the greatest sample, as a share of the median."""
        return {peer: spread(found) for peer, found in self.samples.items() if found}

    def verdicts(self) -> list[Verdict]:
        return [judge(goal, self.medians, self.unit) for goal in self.goals]


def spread(samples: Sequence[float]) -> float:
    """Half the way from the least to the greatest, as a share of the median; 0 for a single sample."""
    middle = median(samples)
    return (max(samples) - min(samples)) / 2 / abs(middle) if middle else 0.0


def percentile(samples: Sequence[float], share: float) -> float:
    """The least sample that at least ``share`` of all do not exceed. Raises ValueError for no samples."""
    if not samples:
        raise ValueError("a percentile of nothing")
    ordered = sorted(samples)
    rank = -(-share * len(ordered) // 1)  # rounded up
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def number(value: float) -> str:
    """Three digits that count, never an exponent."""
    if value == 0:
        return "0"
    digits = 2
    size = abs(value)
    while size >= 10 and digits > 0:
        size /= 10
        digits -= 1
    while size < 1 and digits < 6:
        size *= 10
        digits += 1
    return f"{value:.{digits}f}"
