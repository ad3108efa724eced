"""Which handler serves a path. ``{name}`` in a route stands for one segment of it."""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote

from pyworker.handler import Handler

_PARAMETER: Final = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


class Routes:
    """The routes of ``handlers``, exact ones before those with parameters."""

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self.names = sorted(handler.route for handler in handlers)
        self._exact = {handler.route: handler for handler in handlers if "{" not in handler.route}
        self._patterns = [(_pattern(one.route), one) for one in handlers if "{" in one.route]

    def exact(self, path: str) -> Handler | None:
        """The handler of exactly this route."""
        return self._exact.get(path)

    def find(self, path: str) -> tuple[Handler | None, str]:
        """The handler for ``path``, which is still percent-encoded, and the path that it asks of the model server.

        A handler of an exact route asks for its own path; one with parameters for what the client asked for. A parameter
        never leads out of its route: one that is empty, ``.`` or ``..``, or has a slash in it, however it is spelled, is none.
        """
        handler = self._exact.get(path)
        if handler is None and "%" in path:
            handler = self._exact.get(unquote(path))
        if handler is not None:
            return handler, handler.model_path
        for pattern, one in self._patterns:
            if (found := pattern.fullmatch(path)) and all(map(_is_segment, found.groups())):
                return one, path if one.model_path == one.route else one.model_path
        return None, ""


def _pattern(route: str) -> re.Pattern[str]:
    fixed = _PARAMETER.split(route)
    return re.compile("([^/]+)".join(map(re.escape, fixed)))


def _is_segment(text: str) -> bool:
    plain = unquote(text)
    return plain not in {".", ".."} and "/" not in plain and "\\" not in plain and plain.isprintable()
