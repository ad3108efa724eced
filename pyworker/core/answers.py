"""Whether an answer with status 200 is one. Model servers report what goes wrong after the head inside of the body."""

import re
from typing import Final

from pyworker.core.redact import WINDOW, excerpt

_ERROR: Final = re.compile(rb'^(?:data: ?)?\{\s*"error"\s*:(?!\s*(?:null|""))', re.MULTILINE)


def error_inside(content: bytes) -> str:
    """The line that tells of an error: an event of a stream (llama.cpp, vLLM, TGI) or the object itself; else empty."""
    found = _ERROR.search(content)
    return first_line(content[found.start() :]) if found is not None else ""


def first_line(content: bytes) -> str:
    """An excerpt of the first line that is not empty."""
    return excerpt(content[: 2 * WINDOW].decode("utf-8", "replace").strip().partition("\n")[0])


def kind_of(content_type: str) -> str:
    """The content type without its parameters."""
    return content_type.partition(";")[0].strip().lower()
