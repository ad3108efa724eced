"""Form fields of a payload class → one multipart body, by the official package's rules.

A ``(filename, bytes, content_type)`` tuple is a file, a list repeats its field, None is left out, a dict or nested list
is sent as JSON, other scalars as text. Bare bytes are refused: they lack a file name.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp

from pyworker.core.errors import HandlerFailed


async def encode_form(fields: Mapping[str, Any], *, route: str) -> tuple[str, bytes]:
    """The content type (with its boundary) and the body. Raises `HandlerFailed`, which names ``route``, for a value that has no form."""
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in _items(fields):
        try:
            _add(form, name, value)
        except (TypeError, ValueError, RecursionError) as error:
            raise HandlerFailed(f"multipart field {name!r} of {route}: {error}") from error
    payload = form()
    return payload.content_type, await payload.as_bytes()


def _add(form: aiohttp.FormData, name: str, value: Any) -> None:
    if isinstance(value, tuple):
        filename, content, content_type = value
        form.add_field(name, content, filename=filename, content_type=content_type)
    else:
        form.add_field(name, _as_text(value))


def _items(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None:
                yield name, item


def _as_text(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        raise TypeError("bytes must be a (filename, bytes, content_type) tuple")
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
