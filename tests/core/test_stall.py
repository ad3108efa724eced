"""A load that stands still."""

from pyworker.core.stall import LoadStall


def test_nothing_that_moves_is_a_stall() -> None:
    stall = LoadStall(0.0)
    for now in range(0, 601, 10):
        stall.observe(float(now), {"log": 10.0, "disk": 5e9, "GPU memory": None})

    assert stall.still_for(600.0) == 600.0
    assert stall.words(600.0) == "log still for 600 s, disk still for 600 s"


def test_whatever_moves_is_none() -> None:
    for name, step in (("log", 1.0), ("disk", 20e6), ("GPU memory", 2e6)):
        stall = LoadStall(0.0)
        for now in range(0, 601, 10):
            still = {"log": 10.0, "disk": 5e9, "GPU memory": 1e9}
            stall.observe(float(now), still | {name: still[name] + step * now})

        assert stall.still_for(600.0) == 0.0


def test_what_other_programs_write_is_no_move() -> None:
    stall = LoadStall(0.0)
    stall.observe(0.0, {"disk": 5e9})
    stall.observe(50.0, {"disk": 5e9 + 1e6})

    assert stall.still_for(60.0) == 60.0


def test_slow_growth_is_a_move_in_the_end() -> None:
    stall = LoadStall(0.0)
    for now in range(61):
        stall.observe(float(now), {"disk": 5e9 + now * 1e6})

    assert stall.still_for(60.0) < 12.0


def test_a_new_attempt_begins_anew() -> None:
    stall = LoadStall(0.0)
    stall.observe(0.0, {"log": 1.0})
    stall.restart(100.0)
    stall.observe(110.0, {"log": 1.0})

    assert stall.still_for(120.0) == 20.0


def test_where_nothing_can_be_measured_the_start_counts() -> None:
    stall = LoadStall(5.0)

    assert stall.still_for(15.0) == 10.0
    assert stall.words(15.0) == "nothing can be measured"
