"""Whether a model load still moves. No log, no disk growth, no change of GPU memory for a while is a stall."""

from collections.abc import Mapping
from typing import Final

SLACK: Final = {"disk": 10e6, "GPU memory": 1e6, "log": 0.0}
"""Bytes a figure may change by without anything being done: other programs write a little, too."""


class LoadStall:
    """Watches figures (all in bytes) that move while a model loads. Every ``now`` is monotonic seconds."""

    def __init__(self, now: float) -> None:
        self._at: dict[str, tuple[float, float]] = {}
        self._began = now

    def observe(self, now: float, figures: Mapping[str, float | None]) -> None:
        """What is so at ``now``; None for what cannot be measured here."""
        for name, value in figures.items():
            if value is None:
                continue
            known = self._at.get(name)
            if known is None or abs(value - known[0]) > SLACK.get(name, 0.0):
                self._at[name] = (value, now if known is not None else self._began)

    def restart(self, now: float) -> None:
        """A load begins anew."""
        self._began = now
        self._at = {name: (value, now) for name, (value, _) in self._at.items()}

    def still_for(self, now: float) -> float:
        """Seconds since anything moved."""
        return now - max((moved for _, moved in self._at.values()), default=self._began)

    def words(self, now: float) -> str:
        """Each figure and how long it has been still."""
        if not self._at:
            return "nothing can be measured"
        return ", ".join(f"{name} still for {now - moved:.0f} s" for name, (_, moved) in self._at.items())
