"""The curve as a picture that needs nothing else."""

from xml.etree import ElementTree as ET

import pytest

from pyworker.console.plot import HEIGHT, WIDTH, plot
from pyworker.core.sweep import Point

SVG = "{http://www.w3.org/2000/svg}"


def drawn(*curve: Point, knee: int = 1) -> ET.Element:
    return ET.fromstring(plot(curve, knee=knee, title='a <b> & "c"'))  # noqa: S314 - our own


def test_a_dot_for_every_point_and_a_line_for_the_knee() -> None:
    picture = drawn(Point(1, 50.0, 0.2, 0.3), Point(2, 90.0, 0.2, 0.4), Point(4, 95.0, 0.4, 0.9), knee=2)
    dots = [one for one in picture.iter(SVG + "circle") if one.get("class") == "perf-dot"]
    places = [(float(one.get("cx", "")), float(one.get("cy", ""))) for one in dots]

    assert places == sorted(places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    knee = next(one for one in picture.iter(SVG + "line") if one.get("class") == "knee")
    assert float(knee.get("x1", "")) == places[1][0]
    assert picture.findtext(SVG + "title") == 'a <b> & "c"'


def test_nothing_comes_from_elsewhere() -> None:
    text = plot([Point(1, 50.0, 0.2, 0.3)], knee=1, title="x")

    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text


@pytest.mark.parametrize(
    ("perf", "wait", "top"),
    [
        (345.0, 1.1, "400"),
        (1000.0, 0.02, "1000"),
        (0.5, 90.0, "0.6"),
        (18_000.0, 3.0, "20000"),
        (0.03, 1.0, "0.04"),
    ],
)
def test_axes_end_at_round_figures(perf: float, wait: float, top: str) -> None:
    labels = [one.text for one in drawn(Point(1, perf, wait, wait)).iter(SVG + "text")]

    assert top in labels
