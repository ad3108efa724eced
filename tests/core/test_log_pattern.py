"""What a regular expression cannot do without."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.log_pattern import certain_text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (rb"ready in \d+ s", b"ready in "),
        (rb"^Uvicorn running on", b"Uvicorn running on"),
        (rb"took \d{2}\.\d+ seconds$", b" seconds"),
        (rb"ab+c", b"ab"),
        (rb"abc?", b"ab"),
        (rb"ab{0,2}", b"a"),
        (rb"ab*", b"a"),
        (rb"\dabc", b"abc"),
        (rb"a|b", b""),
        (rb"(a)?", b""),
        (rb"(?i)loaded", b""),
        (rb"[abc]", b""),
        (rb"\w+", b""),
        (rb".*", b""),
    ],
)
def test_the_longest_certain_text(source: bytes, text: bytes) -> None:
    assert certain_text(source) == text


PIECES = [
    rb"abc",
    rb"d",
    rb"x*",
    rb"y+",
    rb"z?",
    rb"w{0,2}",
    rb"\d",
    rb"\.",
    rb".",
    rb"\\",
    rb" in ",
    rb"q+?",
]


@given(st.data(), st.lists(st.sampled_from(PIECES), min_size=1, max_size=6))
def test_whatever_matches_holds_it(data: st.DataObject, pieces: list[bytes]) -> None:
    source = b"".join(pieces)
    line = data.draw(st.from_regex(re.compile(source)))

    assert certain_text(source) in line
