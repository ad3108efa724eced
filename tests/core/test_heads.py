"""Heads of answers."""

import pytest

from pyworker.core.heads import BadHead, Head, may_become_head, read_head


def test_a_head_as_it_was_said() -> None:
    raw = b"HTTP/1.1 418 I'm a teapot\r\nX-A: 1\r\nx-a:  2 \r\nContent-Length: 2\r\n\r\n"

    assert read_head(raw) == Head(
        status=418,
        reason=b"I'm a teapot",
        headers=((b"X-A", b"1"), (b"x-a", b"2"), (b"Content-Length", b"2")),
        length=2,
        chunked=False,
        stays=True,
    )
    assert read_head(raw) is read_head(bytes(bytearray(raw)))


@pytest.mark.parametrize(
    ("raw", "length", "chunked", "stays"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", None, True, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n", 5, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", 5, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n", 5, False, True),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n", 0, False, True),
    ],
    ids=["chunked", "until_close", "close", "http_1_0", "http_1_0_stays", "no_reason"],
)
def test_where_the_body_ends(raw: bytes, length: int | None, chunked: bool, stays: bool) -> None:
    head = read_head(raw)

    assert (head.length, head.chunked, head.stays) == (length, chunked, stays)


@pytest.mark.parametrize(
    ("status", "informational", "bodiless"),
    [(100, True, False), (103, True, False), (101, False, False), (204, False, True), (304, False, True), (200, False, False)],
)  # fmt: skip
def test_what_follows_a_status(status: int, informational: bool, bodiless: bool) -> None:
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n" if status == 101 else b""
    head = read_head(b"HTTP/1.1 %d X\r\n%b\r\n" % (status, upgrade))

    assert (head.status, head.informational, head.bodiless) == (status, informational, bodiless)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 banana\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n",
        b"HTTP/1.1 200 OK\nX: 1\n\n",
    ],
    ids=["status", "ssh", "colon", "two_lengths", "both", "minus", "gzip", "unfinished", "bare_lf"],
)
def test_what_is_no_head(raw: bytes) -> None:
    with pytest.raises(BadHead):
        read_head(raw)


@pytest.mark.parametrize(
    ("data", "may"),
    [(b"", True), (b"HT", True), (b"HTTP/1.1 2", True), (b"HTTP/2", False), (b"SSH-2.0", False), (b"\r\n", False)],
)  # fmt: skip
def test_what_may_become_one(data: bytes, may: bool) -> None:
    assert may_become_head(data) is may
