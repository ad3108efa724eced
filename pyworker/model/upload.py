"""A request's body on its way to the model server, while it is still coming from the client."""

from collections import deque
from typing import Final, Protocol

KEPT: Final = 256 * 1024
"""Bytes of an upload kept, so that it can be sent again when a pooled connection turns out to be dead."""


class Body(Protocol):
    """A request's body that is still coming."""

    async def piece(self) -> bytes:
        """The next bytes, empty at the end; a cancelled call loses none. Raises `Refusal`."""


class Upload:
    """A body that is sent on as it comes: ``length`` bytes, or chunked where nobody knows how many."""

    def __init__(self, body: Body, length: int | None) -> None:
        self._body = body
        self.length = length
        self._kept: list[bytes] | None = []
        self._size = 0
        self._again: deque[bytes] = deque()

    async def piece(self) -> bytes:
        if self._again:
            return self._again.popleft()
        piece = await self._body.piece()
        if self._kept is not None:
            self._size += len(piece)
            self._kept.append(piece)
            if self._size > KEPT:
                self._kept = None
        return piece

    def rewind(self) -> bool:
        """Begin again, for another connection; False when too much of it is gone."""
        if self._kept is None:
            return False
        self._again = deque(self._kept)
        return True
