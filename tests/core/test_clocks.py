"""The model server's four clocks."""

from math import inf

import pytest

from pyworker.core.clocks import Clocks

CLOCKS = Clocks(connect=1.0, first_byte=10.0, idle=20.0, total=100.0)


@pytest.mark.parametrize(
    ("since", "answering", "models_turn", "expected"),
    [
        (0.0, False, True, (10.0, "did not answer within first_byte_timeout=10 s")),
        (5.0, False, True, (15.0, "did not answer within first_byte_timeout=10 s")),
        (30.0, True, True, (50.0, "sent nothing for idle_timeout=20 s")),
        (95.0, True, True, (100.0, "was not done within total_timeout=100 s")),
        (5.0, True, False, (100.0, "was not done within total_timeout=100 s")),
    ],
    ids=["first_byte", "from_the_end_of_the_request", "idle", "total", "the_client_s_turn"],
)
def test_which_runs_out_first(
    since: float, answering: bool, models_turn: bool, expected: tuple[float, str]
) -> None:
    found = CLOCKS.soonest(asked=0.0, since=since, answering=answering, models_turn=models_turn)

    assert found == expected


@pytest.mark.parametrize("answering", [True, False])
def test_without_limits_nothing_runs_out(answering: bool) -> None:
    none = Clocks(None, None, None, None)

    assert none.soonest(asked=0.0, since=0.0, answering=answering, models_turn=True) == (inf, "")
    assert none.shortest == inf


def test_the_shortest_is_when_to_look() -> None:
    assert CLOCKS.shortest == 10.0
    assert Clocks(1.0, None, 3.0, 2.0).shortest == 2.0
