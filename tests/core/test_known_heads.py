from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.known_heads import MAX_HEAD, REMEMBERED, KnownHeads, extent

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"

_names = st.sampled_from([b"Host", b"Accept", b"X-Content-Length", b"User-Agent", b"Content-Lengths"])
_values = st.binary(max_size=30).map(lambda value: value.replace(b"\r", b"").replace(b"\n", b""))
_lines = st.lists(st.tuples(_names, _values), max_size=4)


def _head(
    before: list[tuple[bytes, bytes]], name: bytes, length: int, after: list[tuple[bytes, bytes]]
) -> bytes:
    lines = [*before, (name, b"%d" % length), *after]
    return b"POST /x HTTP/1.1\r\n" + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"


def test_a_head_that_has_not_been_learned_is_not_known() -> None:
    assert KnownHeads[str]().find(HEAD % 3 + b"abc") is None


def test_a_known_head_is_known_whatever_its_body_is() -> None:
    heads = KnownHeads[str]()
    heads.learn(HEAD % 3 + b"abc", "x")

    assert heads.find(HEAD % 3 + b"xyz") == ("x", len(HEAD % 3), 3)
    assert heads.find(HEAD % 12345 + b"only a part of it") == ("x", len(HEAD % 12345), 12345)
    assert heads.find((HEAD % 3).lower()) is None


def test_heads_without_a_plain_length_are_never_known() -> None:
    heads = KnownHeads[str]()
    whole = HEAD % 3
    for head in (
        whole[:-2],
        whole.replace(b"Content-Length: 3\r\n", b""),
        whole.replace(b": 3", b": +3"),
        whole.replace(b": 3", b": 3 "),
        whole.replace(b": 3", b": " + b"3" * 11),
        whole.replace(b": 3", b": "),
    ):
        heads.learn(head, "x")

        assert heads.find(head) is None
        assert extent(head) is None


@given(_lines, _lines, st.integers(0, 10**9), st.integers(0, 10**9), st.booleans())
def test_only_the_length_may_differ(
    before: list[tuple[bytes, bytes]],
    after: list[tuple[bytes, bytes]],
    first: int,
    second: int,
    lower: bool,
) -> None:
    name = b"content-length" if lower else b"Content-Length"
    heads = KnownHeads[str]()
    heads.learn(_head(before, name, first, after), "x")
    again = _head(before, name, second, after)

    assert heads.find(again + b"body") == ("x", len(again), second)
    assert extent(again + b"body") == len(again) + second
    assert heads.find(_head([*before, (b"Range", b"1")], name, second, after)) is None
    assert heads.find(_head(before, name, second, [*after, (b"Content-Length", b"%d" % second)])) is None


def test_they_are_bounded() -> None:
    heads = KnownHeads[int]()
    for number in range(REMEMBERED + 1):
        heads.learn(b"POST /%d HTTP/1.1\r\nContent-Length: 0\r\n\r\n" % number, number)

    assert heads.find(b"POST /0 HTTP/1.1\r\nContent-Length: 0\r\n\r\n") is None
    assert heads.find(b"POST /1 HTTP/1.1\r\nContent-Length: 0\r\n\r\n") == (1, 39, 0)


def test_long_ones_are_not_remembered_and_known_ones_not_twice() -> None:
    heads = KnownHeads[str]()
    long = HEAD.replace(b"*/*", b"x" * MAX_HEAD) % 3
    heads.learn(long, "long")
    heads.learn(HEAD % 3, "first")
    heads.learn(HEAD % 4, "second")

    assert heads.find(long) is None
    assert heads.find(HEAD % 5) == ("first", len(HEAD % 5), 5)
