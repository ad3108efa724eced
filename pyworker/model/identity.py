"""Which model server it is: what it says of itself that stays the same from start to start."""

import asyncio
import json
from typing import Any, Final

from pyworker.core.errors import AnswerBroken, Refusal
from pyworker.model.pool import ModelServer

LIMIT: Final = 2.0
"""Seconds for each question: a server that knows no answer says so at once."""

ASKED: Final = ("/v1/models", "/version")
"""OpenAI-compatible servers name their model, vLLM and others their version. Others answer 404, which is an answer, too."""

_CHANGING: Final = frozenset({"created", "permission", "created_at", "modified_at", "expires_at"})
"""Fields that differ from one start to the next, or from one question to the next."""


async def identity(server: ModelServer | None) -> str:
    """A text that is the same for the same server with the same model; empty when there is none, or it does not answer."""
    if server is None:
        return ""
    said = [await _said(server, path) for path in ASKED]
    return json.dumps(said, sort_keys=True) if any(said) else ""


async def _said(server: ModelServer, path: str) -> Any:
    try:
        async with asyncio.timeout(LIMIT):
            answer = await server.ask("GET", path, [])
            try:
                content = await answer.read()
            finally:
                answer.close()
    except (TimeoutError, Refusal, AnswerBroken):
        return None
    software = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"server"]
    try:
        return [answer.status, software, _lasting(json.loads(content))]
    except ValueError:
        return [answer.status, software, None]


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lasting(one) for name, one in value.items() if name not in _CHANGING}
    return [_lasting(one) for one in value] if isinstance(value, list) else value
