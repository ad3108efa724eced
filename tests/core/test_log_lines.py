"""Lines and what they mean, however the bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.log_lines import MAX_LINE, LineScanner, LogEvent
from pyworker.core.log_pattern import Mark
from pyworker.core.redact import MAX_EXCERPT, WINDOW


def scanner() -> LineScanner:
    return LineScanner(loaded=["model loaded", "re:^ready in \\d+ s"], failed=["Error:"], info=["loading"])


def marks(events: list[LogEvent]) -> list[tuple[Mark, str]]:
    return [(event.mark, event.line) for event in events]


def test_lines_are_named_in_order() -> None:
    text = b"loading 1\nnothing\nError: no\nmodel loaded\nready in 5 s\n"

    assert marks(scanner().feed(text)) == [
        (Mark.INFO, "loading 1"),
        (Mark.FAILED, "Error: no"),
        (Mark.LOADED, "model loaded"),
        (Mark.LOADED, "ready in 5 s"),
    ]


def test_a_regular_expression_matches_in_a_line() -> None:
    assert marks(LineScanner(loaded=["re:ready in \\d+ s"]).feed(b"x ready in 5 s\n")) == [
        (Mark.LOADED, "x ready in 5 s")
    ]


def test_a_line_is_told_once_by_its_most_urgent_meaning() -> None:
    assert marks(scanner().feed(b"loading: Error: model loaded Error: Error:\n")) == [
        (Mark.FAILED, "loading: Error: model loaded Error: Error:")
    ]


def test_half_a_line_waits_for_its_end() -> None:
    scan = scanner()

    assert scan.feed(b"model lo") == []
    assert marks(scan.feed(b"aded\n")) == [(Mark.LOADED, "model loaded")]


def test_a_last_line_without_end_is_told_once_it_is_still() -> None:
    scan = scanner()
    scan.feed(b"model loaded")

    assert marks(scan.flush()) == [(Mark.LOADED, "model loaded")]
    assert scan.flush() == []
    assert marks(scan.feed(b" really\nError: x\n")) == [(Mark.FAILED, "Error: x")]
    assert marks(scan.feed(b"model loaded\n")) == [(Mark.LOADED, "model loaded")]


def test_a_still_half_line_that_means_nothing_yet_is_read_again_whole() -> None:
    scan = scanner()
    scan.feed(b"model lo")

    assert scan.flush() == []
    assert marks(scan.feed(b"aded\n")) == [(Mark.LOADED, "model loaded")]


def test_nothing_left_is_nothing_to_flush() -> None:
    assert scanner().flush() == []


def test_a_restarted_log_drops_the_half_line() -> None:
    scan = scanner()
    scan.feed(b"model lo")
    scan.restart()

    assert scan.feed(b"aded\n") == []


@pytest.mark.parametrize(
    "raw",
    [b"\x1b[32mmodel\x1b[0m loaded\n", b"model loaded\r\n", b"\xff\xfe model loaded\n"],
    ids=["colours", "crlf", "invalid_utf8"],
)
def test_odd_bytes_do_not_hide_a_line(raw: bytes) -> None:
    [event] = scanner().feed(raw)

    assert event.mark is Mark.LOADED
    assert event.line.endswith("model loaded")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_anchors_are_those_of_lines(end: bytes) -> None:
    scan = LineScanner(loaded=["re:^up$", "re:^ready in [0-9]+ s$"])
    lines = (b"wake up", b"up", b"up and away", b"ready in 5 s", b"not ready in 5 s")

    assert [event.line for event in scan.feed(b"".join(line + end for line in lines))] == [
        "up",
        "ready in 5 s",
    ]


def test_a_regular_expression_sees_one_line_at_a_time() -> None:
    scan = LineScanner(loaded=["re:model\\s+loaded", "re:a[^,]*z"])

    assert scan.feed(b"model\nloaded\na\nz\n") == []
    assert [event.line for event in scan.feed(b"model\nmodel  loaded\n")] == ["model loaded"]


def test_a_progress_bar_is_many_lines_of_which_the_one_that_matters_is_told() -> None:
    scan = scanner()

    assert marks(scan.feed(b"10%\r20%\rError: disk full\r30%")) == [(Mark.FAILED, "Error: disk full")]


def test_what_comes_later_in_a_told_line_is_told_if_it_is_more_urgent() -> None:
    scan = scanner()
    scan.feed(b"loading the weights")

    assert [Mark.INFO] == [event.mark for event in scan.flush()]
    assert marks(scan.feed(b": Error: no\n")) == [(Mark.FAILED, "loading the weights: Error: no")]


def test_a_pattern_across_the_cut_of_an_endless_line_is_found() -> None:
    scan = scanner()

    assert scan.feed(b"x " * (MAX_LINE // 2) + b" Err") == []

    [event] = scan.feed(b"or: here\n")

    assert (Mark.FAILED, True) == (event.mark, event.line.endswith("Error: here"))


def test_an_endless_line_is_told_once() -> None:
    scan = scanner()
    told = [event for _ in range(80) for event in scan.feed(b"Error: " + b"x" * MAX_LINE)]
    told += scan.feed(b"\n")

    assert [Mark.FAILED] == [event.mark for event in told]


def test_of_a_long_line_the_part_that_matters_is_told() -> None:
    [event] = scanner().feed(b"a" * 3000 + b" Error: disk full\n")

    assert event.line.endswith("Error: disk full")
    assert len(event.line) <= MAX_EXCERPT


def test_secrets_are_not_told() -> None:
    text = b"Error: hf_abcdefgh12345678 refused\n" + b"x " * WINDOW + b"key=1 password=hunter2 Error: no\n"

    first, second = scanner().feed(text)

    assert first.line == "Error: *** refused"
    assert second.line.endswith("password=*** Error: no")


def test_the_part_that_matters_does_not_begin_within_a_secret() -> None:
    [event] = scanner().feed(b"a" * WINDOW + b" password=" + b"secret" * 500 + b" Error: no\n")

    assert "secretsecret" not in event.line


CODES = st.sampled_from(["\x1b[32m", "\x1b[0m", "\x1b[1;36m", "\x1b[m", "\x1b[2K", "\x1b[?25l", "\x1b(B", ""])
WORDS = st.sampled_from(["INFO", " ", "model", " loaded", "Error", ":", "\n", "ready in 5 s", "x"])


@given(st.lists(st.tuples(CODES, WORDS, CODES), max_size=12), st.sampled_from([1, 40]))
def test_colours_change_nothing(pieces: list[tuple[str, str, str]], times: int) -> None:
    coloured = "".join(before + word + after for before, word, after in pieces) * times + "\n"
    plain = "".join(word for _, word, _ in pieces) * times + "\n"

    assert scanner().feed(coloured.encode()) == scanner().feed(plain.encode())


def test_more_colours_than_anyone_uses() -> None:
    text = b"".join(b"\x1b[%dm%c" % (30 + number, letter) for number, letter in enumerate(b"model loaded"))
    text += b"".join(b"\x1b[%dm" % number for number in range(100, 120)) + b"\x1b(B\n"

    assert marks(scanner().feed(text)) == [(Mark.LOADED, "model loaded")]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("pattern", ["re:.*loaded.*in", "re:[^,]*loaded, in", "re:(.|x)*loaded"])
def test_no_pattern_takes_for_ever_on_a_line_of_megabytes(pattern: str) -> None:
    scan = LineScanner(loaded=[pattern], failed=["Error:"])
    events = scan.feed(b"x loaded " * 600_000 + b"Error:\n")

    assert [Mark.FAILED] == [event.mark for event in events]


def test_an_endless_line_is_searched_and_not_kept() -> None:
    scan = scanner()
    events = scan.feed(b"x" * MAX_LINE + b"Error: inside")

    assert [Mark.FAILED] == [event.mark for event in events]
    assert len(events[0].line) <= MAX_EXCERPT
    assert scan.flush() == []


@pytest.mark.parametrize("patterns", [[""], ["re:"], ["re:("]])
def test_nonsense_patterns_are_refused(patterns: list[str]) -> None:
    with pytest.raises(ValueError, match="log pattern"):
        LineScanner(info=patterns)


LINES = st.lists(
    st.sampled_from(
        [b"model loaded", b"Error: a", b"loading", b"x", b"", b"\x1b[1mloading\x1b[0m", b"ready in 5 s\r"]
    ),
    max_size=12,
)


@given(LINES, st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_how_the_bytes_are_cut_does_not_matter(lines: list[bytes], sizes: list[int]) -> None:
    text = b"".join(line + b"\n" for line in lines)
    whole, pieces = scanner(), scanner()
    told: list[LogEvent] = []
    at = turn = 0
    while at < len(text):
        size = sizes[turn % len(sizes)]
        told += pieces.feed(text[at : at + size])
        at, turn = at + size, turn + 1

    assert told == whole.feed(text)
