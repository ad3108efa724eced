"""Sessions as such: who may use them, until when."""

import pytest

from pyworker.core.errors import BadSignature, InvalidSession, TooManySessions
from pyworker.core.ledger import Ledger
from pyworker.core.sessions import Session, Sessions
from pyworker.core.wire import SessionRequest

AUTH = {"url": "u", "cost": "5"}


def session(number: int, *, now: float = 0.0, lifetime: float = 10.0) -> Session:
    return Session(
        id=str(number),
        auth_data=AUTH,
        request=SessionRequest(lifetime, None, None),
        created_at=now,
        expires_at=now + lifetime,
        entry=Ledger().open_session(number, 5.0, now),
    )


def test_use_extends_to_at_least_a_lifetime_from_now_and_never_beyond_the_maximum() -> None:
    sessions = Sessions(most=None, longest=25.0)
    one = session(1)
    sessions.add(one)

    ends = []
    for now in (1.0, 9.0, 18.0):
        sessions.use("1", dict(reversed(AUTH.items())), now)
        ends.append(one.expires_at)

    assert ends == [11.0, 19.0, 25.0]
    assert sessions.expired(24.9) == []
    assert sessions.expired(25.0) == [one]
    with pytest.raises(InvalidSession):
        sessions.use("1", AUTH, 25.0)


def test_a_longer_expiry_is_not_shortened() -> None:
    sessions = Sessions(most=None, longest=100.0)
    one = session(1, lifetime=10.0)
    one.expires_at = 50.0
    sessions.add(one)
    sessions.use("1", AUTH, 1.0)

    assert one.expires_at == 50.0


def test_only_its_own_auth_data_opens_it() -> None:
    sessions = Sessions(most=None, longest=100.0)
    sessions.add(session(1))

    with pytest.raises(BadSignature):
        sessions.use("1", {**AUTH, "cost": "6"}, 1.0)
    with pytest.raises(InvalidSession):
        sessions.use("2", AUTH, 1.0)


def test_the_cap() -> None:
    sessions = Sessions(most=1, longest=100.0)
    sessions.require_room()
    sessions.add(session(1))

    assert len(sessions) == 1
    with pytest.raises(TooManySessions):
        sessions.require_room()


def test_while_closing_nobody_can_use_it() -> None:
    sessions = Sessions(most=1, longest=100.0)
    one = session(1)
    sessions.add(one)
    sessions.begin_close(one)

    assert sessions.is_closing("1")
    assert sessions.find("1") is None
    assert sessions.all_open() == []
    assert sessions.expired(1000.0) == []

    sessions.remove(one)

    assert not sessions.is_closing("1")


def test_secrets_are_not_in_its_repr() -> None:
    assert "cost" not in repr(session(77))
    assert "77'" not in repr(session(77))
