"""Verdicts, medians and pictures of the benchmark: a figure that misses its goal is never shown as one that meets it."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks.cases import panels_of
from benchmarks.goals import Bound, Goal, Kind, Row, judge, number, percentile, spread
from benchmarks.plot import plot
from benchmarks.table import plain, table

GOAL = Goal(Bound(0.4, "aiohttp"), Bound(0.5, "aiohttp"))


@pytest.mark.parametrize(
    ("ours", "kind", "words"),
    [
        (40.0, Kind.MET, "met: 0.400 x aiohttp"),
        (45.0, Kind.FLOOR, "goal missed by 12%: 0.450 x aiohttp; floor met: 0.450 x aiohttp"),
        (60.0, Kind.MISSED, "goal missed by 50%: 0.600 x aiohttp; FLOOR MISSED by 20%: 0.600 x aiohttp"),
    ],
    ids=["met", "floor", "missed"],
)
def test_a_goal_against_a_peer(ours: float, kind: Kind, words: str) -> None:
    verdict = judge(GOAL, {"pyworker": ours, "aiohttp": 100.0}, "µs")

    assert (verdict.kind, verdict.text) == (kind, words)


def test_goals_without_a_peer_or_without_a_figure() -> None:
    assert judge(Goal(Bound(60)), {"pyworker": 60.9}, "MiB").text == "MISSED by 1%: 60.9 MiB"
    assert judge(Goal(Bound(3, "nginx")), {"pyworker": 1.0}, "µs").text == "not judged: no figure of nginx"
    assert judge(Goal(Bound(3, "nginx")), {"nginx": 1.0}, "µs").kind is Kind.UNKNOWN


def test_figures() -> None:
    row = Row("small", "CPU", "µs", {"pyworker": [1.0, 4.0, 2.0], "nginx": []}, [Goal(Bound(3))])

    assert row.medians == {"pyworker": 2.0}
    assert row.spreads == {"pyworker": 0.75}
    assert [one.kind for one in row.verdicts()] == [Kind.MET]
    assert plain(row)["goals"] == [{"goal": "≤ 3 µs", "verdict": "met", "text": "met: 2.00 µs"}]
    assert spread([5.0]) == 0.0
    assert [percentile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 2.0, 3.0]
    assert [number(value) for value in (0, 0.01234, 1.234, 12.34, 1234.5)] == [
        "0", "0.0123", "1.23", "12.3", "1234",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)


def test_the_table_is_aligned_and_names_what_there_is_no_figure_of() -> None:
    row = Row("small-32", "CPU per request", "µs", {"pyworker": [31.0], "aiohttp": [96.0]}, [GOAL])
    head, rule, line = table([row], ["pyworker", "aiohttp", "nginx"]).splitlines()

    assert head.index("verdict") == line.index("met: 0.323 x aiohttp")
    assert set(rule) == {"-", " "}
    assert line[head.index("nginx")] == "-"


def test_growth_is_drawn() -> None:
    rows = [
        Row("growth", "", "µs", {"pyworker": [cost], "nginx": [cost / 2]}, amount=amount)
        for amount, cost in (
            (("streams", 1), 20.0),
            (("streams", 8000), 13.0),
            (("down", 2**10), 300.0),
            (("down", 2**26), 280.0),
            (("up", 2**10), 900.0),
            (("up", 2**26), 350.0),
        )
    ]
    streams, bodies = panels_of([*rows, Row("small", "", "µs", {"pyworker": [1.0]})])
    drawn = ET.fromstring(plot([streams, bodies]))  # noqa: S314 - our own

    assert streams.lines["nginx"] == [(1, 10.0), (8000, 6.5)]
    assert set(bodies.lines) == {"pyworker, down", "nginx, down", "pyworker, up", "nginx, up"}
    assert len(drawn.findall("{*}polyline")) == 6
    assert "8,000" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert panels_of([]) == []
