"""The chunked coding, whatever pieces it comes in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.core.chunks import MAX_LINE, MAX_TRAILERS, BadChunk, Chunks, are_whole

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
ENDS = st.sampled_from([b"0\r\n\r\n", b"000\r\n\r\n", b"0;x=y\r\n\r\n", b"0\r\nA: b\r\nC: d\r\n\r\n"])
SIZES = st.sampled_from([b"%x", b"%X", b"0%x", b"%x;name=value", b'%x ;a="b"'])


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    found, at, turn = [], 0, 0
    while at < len(data):
        found.append(data[at : at + cuts[turn % len(cuts)]])
        at, turn = at + cuts[turn % len(cuts)], turn + 1
    return found


@given(
    pieces=PIECES,
    size=SIZES,
    end=ENDS,
    rest=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
)
def test_however_it_is_cut_the_body_is_found(
    pieces: list[bytes], size: bytes, end: bytes, rest: bytes, cuts: list[int]
) -> None:
    raw = b"".join(size % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces) + end
    plain, framed = Chunks(), Chunks()
    body, wire, left = b"", b"", b""
    for data in cut(raw + rest, cuts):
        if plain.ended:
            left += data
            continue
        body += b"".join(plain.split(data))
        wire += framed.framed(data)
        left += plain.rest

    assert body == b"".join(pieces)
    assert plain.ended
    assert framed.ended
    assert left == rest
    again = Chunks()
    assert b"".join(again.split(wire)) == body
    assert not again.ended


@given(pieces=PIECES)
def test_whole_chunks_go_on_as_they_are(pieces: list[bytes]) -> None:
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    assert are_whole(raw)
    assert Chunks().framed(raw) is raw
    assert all(not are_whole(raw[:at]) or raw[:at] in whole_prefixes(pieces) for at in range(len(raw)))


def whole_prefixes(pieces: list[bytes]) -> set[bytes]:
    found, raw = {b""}, b""
    for piece in pieces:
        raw += b"%x\r\n%b\r\n" % (len(piece), piece)
        found.add(raw)
    return found


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        b"5;x\r\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"g\r\nx\r\n",
        b"5\r\nhelloXX",
        b"\r\n",
        b"5\r\nhell",
        b"1_0\r\n",
    ],
)
def test_what_is_not_whole_chunks_is_taken_apart(data: bytes) -> None:
    assert not are_whole(data)


@pytest.mark.parametrize(
    "data",
    [
        b"zz\r\n",
        b"\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b"0x5\r\n",
        b" 5\r\n",
        b"5\r\nhelloX",
        b"5\r\nhello\rX",
        b"5\r\nhello\n",
        b"1234567890123456\r\n",
        b"1" * (MAX_LINE + 1),
        b"0\r\n" + b"a" * MAX_LINE + b"b" * MAX_LINE,
        b"0\r\n" + (b"a: " + b"b" * 4000 + b"\r\n") * (MAX_TRAILERS // 4000 + 1),
    ],
    ids=["word", "no_size", "minus", "underscore", "prefix", "space", "long", "long_cr", "bare_lf", "huge", "line",
         "trailer", "trailers"],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_what_is_not_chunked_is_told(data: bytes, size: int) -> None:
    with pytest.raises(BadChunk):
        split_all(cut(data, [size]))


def split_all(pieces: list[bytes]) -> None:
    chunks = Chunks()
    for piece in pieces:
        chunks.split(piece)
