"""Multipart out of a payload class's fields."""

import pytest

from pyworker.core.errors import HandlerFailed
from pyworker.model.form import encode_form


async def test_every_kind_of_field() -> None:
    content_type, body = await encode_form(
        {
            "file": ("a.wav", b"RIFF", "audio/wav"),
            "n": 5,
            "on": True,
            "off": False,
            "none": None,
            "many": ["a", "b"],
            "json": {"x": 1},
        },
        route="/x",
    )
    text = body.decode()

    assert content_type.startswith("multipart/form-data; boundary=")
    assert 'name="file"; filename="a.wav"' in text
    assert "audio/wav" in text
    assert "RIFF" in text
    assert text.count('name="many"') == 2
    assert 'name="none"' not in text
    for value in ("\r\n\r\n5\r\n", "\r\n\r\ntrue\r\n", "\r\n\r\nfalse\r\n", '\r\n\r\n{"x": 1}\r\n'):
        assert value in text


@pytest.mark.parametrize(
    "value", [("a.txt", b"x"), ("a.txt", b"x", 5), {"x": object()}], ids=["short_tuple", "type", "no_json"]
)
async def test_nonsense_is_the_handler_s_fault(value: object) -> None:
    with pytest.raises(HandlerFailed, match="multipart field 'f' of /x"):
        await encode_form({"f": value}, route="/x")


async def test_bare_bytes_are_refused() -> None:
    with pytest.raises(HandlerFailed, match="multipart field 'f' of /x: bytes must be a"):
        await encode_form({"f": b"x"}, route="/x")
