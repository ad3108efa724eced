"""Open sessions: who may use them, until when, who is over the cap.

A session binds a client to this worker for a while: `Sessions.use` keeps it alive, `Sessions.expired` says which have
ended. Ids come from the caller, who has a cryptographic source; they are secrets, as every client of a worker holds the
same signature. ``now`` and times are monotonic seconds.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyworker.core.errors import BadSignature, InvalidSession, TooManySessions
from pyworker.core.ledger import SessionEntry
from pyworker.core.wire import SessionRequest, canonical


@dataclass(slots=True, eq=False)
class Session:
    """One open session. ``entry`` is what it counts as in the ledger."""

    id: str = field(repr=False)
    auth_data: Mapping[str, Any] = field(repr=False)
    request: SessionRequest = field(repr=False)
    created_at: float
    expires_at: float
    entry: SessionEntry
    closing: bool = False


class Sessions:
    """The sessions of one worker: at most ``most`` (None or 0: no cap), none older than ``longest`` seconds."""

    def __init__(self, *, most: int | None, longest: float) -> None:
        self._most = most or None
        self._longest = longest
        self._open: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def require_room(self) -> None:
        """Raises `TooManySessions` when the cap is reached."""
        if self._most is not None and len(self._open) >= self._most:
            raise TooManySessions(f"all {self._most} sessions of this worker are open", retry_after=5.0)

    def add(self, session: Session) -> None:
        """Open ``session``; its end is put no later than its creation allows."""
        session.expires_at = min(session.expires_at, session.created_at + self._longest)
        self._open[session.id] = session

    def find(self, session_id: str) -> Session | None:
        """The open session of that id, unless it is closing."""
        session = self._open.get(session_id)
        return None if session is None or session.closing else session

    def is_closing(self, session_id: str) -> bool:
        """Whether that session has ended, but its callback is still under way."""
        return session_id in self._open and self._open[session_id].closing

    def use(self, session_id: str, auth_data: Mapping[str, Any], now: float) -> Session:
        """A request of a session: it lives on for at least its lifetime from now.

        Raises `InvalidSession` when there is none or it has ended, `BadSignature` when ``auth_data`` is not its own.
        """
        session = self.find(session_id)
        if session is None or session.expires_at <= now:
            raise InvalidSession
        authorize(session, auth_data)
        latest = session.created_at + self._longest
        session.expires_at = min(max(session.expires_at, now + session.request.lifetime), latest)
        return session

    def expired(self, now: float) -> list[Session]:
        """Open sessions whose time is over, oldest first."""
        return [
            session for session in self._open.values() if session.expires_at <= now and not session.closing
        ]

    def all_open(self) -> list[Session]:
        return [session for session in self._open.values() if not session.closing]

    def begin_close(self, session: Session) -> None:
        """From now on nobody can use it."""
        session.closing = True

    def remove(self, session: Session) -> None:
        """It is closed: forget it."""
        del self._open[session.id]


def authorize(session: Session, auth_data: Any) -> None:
    """``auth_data`` must be the one of create, compared whole as JSON, in constant time. Raises `BadSignature`."""
    if not hmac.compare_digest(canonical(auth_data), canonical(session.auth_data)):
        raise BadSignature("the auth_data is not this session's")
