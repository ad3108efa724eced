"""Which queue a handler's requests stand in."""

from collections.abc import Sequence
from typing import Any

from pyworker.core.admission import Lane
from pyworker.handler import Handler


class Lanes:
    """One lane for all handlers of one request at a time, one for the unbounded ones, one each for those with a width.

    ``longest`` is how many requests may wait in one.
    """

    def __init__(self, handlers: Sequence[Handler], *, longest: int) -> None:
        self._serial = Lane(1, longest=longest)
        self._parallel = Lane(None)
        self._own = {
            one.route: Lane(one.concurrency, longest=longest)
            for one in handlers
            if one.concurrency is not None
        }

    def of(self, handler: Handler) -> Lane:
        if handler.concurrency is not None:
            return self._own[handler.route]
        return self._parallel if handler.parallel else self._serial

    def status(self) -> dict[str, dict[str, Any]]:
        """Each lane by its name: requests running and waiting, and how many may run at once."""
        named = {"serial": self._serial, "parallel": self._parallel, **self._own}
        return {
            name: {"running": lane.running, "waiting": lane.waiting, "width": lane.width}
            for name, lane in named.items()
        }
