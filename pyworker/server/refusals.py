"""Refusals: what the client gets, and the line in the log that belongs to it, by one id.

Anyone can cause a refusal, any number of times: the lines are few however many there are.
"""

import asyncio
import json
import logging
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from pyworker.core.errors import Refusal

log = logging.getLogger(__name__)

ID_HEADER: Final = "X-Request-Id"
_OWN_ID: Final = re.compile(r"[!-~]{1,128}")

BURST: Final = 50
"""Lines that may come at once..."""

EVERY: Final = 1.0
"""... and the seconds after which each may come again."""

SUM_UP_AFTER: Final = 10.0
"""Seconds from the first refusal without a line to the line that says how many there were."""

SHOWN: Final = 200
"""Characters of a path, or of a reason, that go into a line."""

_CLOSES: Final = frozenset({401, 403, 408, 413, 415, 500})
"""Statuses after which the connection ends: the body may not have been read, or nobody is owed more."""

_LOUD: Final = frozenset({500, 502, 504})
"""What is not the client's doing."""

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class RefusalLog:
    """The refusals of one worker."""

    def __init__(self) -> None:
        self._room: float = BURST
        self._at = time.monotonic()
        self._unsaid = 0

    def answer(self, refusal: Refusal, request: web.BaseRequest | None) -> web.Response:
        """``refusal`` as the client sees it; ``request`` is None where what came is none."""
        number = request_id("" if request is None else request.headers.get(ID_HEADER, ""))
        self._note(refusal, number, "" if request is None else f"{request.method} {_path(request)}")
        response = web.Response(
            text=json.dumps(refusal.body()),
            status=refusal.status,
            headers={**_headers(refusal), ID_HEADER: number, "Server": "PyWorker"},
            content_type="application/json",
        )
        if refusal.status in _CLOSES:
            response.force_close()
        return response

    def as_bytes(self, refusal: Refusal) -> bytes:
        """``refusal`` on the wire, for a connection that ends with it."""
        number = request_id("")
        self._note(refusal, number, "")
        body = json.dumps(refusal.body()).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            **_headers(refusal),
            ID_HEADER: number,
        }
        lines = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    # The line...

    def _note(self, refusal: Refusal, number: str, what: str) -> None:
        if not self._may_say(time.monotonic()):
            if not self._unsaid:
                asyncio.get_running_loop().call_later(SUM_UP_AFTER, self._sum_up)
            self._unsaid += 1
            return
        log.log(
            logging.WARNING if refusal.status in _LOUD else logging.INFO,
            "refused: status=%d id=%s what=%s why=%s",
            refusal.status,
            number,
            ascii(what[:SHOWN]),
            ascii(refusal.reason[:SHOWN]),
        )

    def _may_say(self, now: float) -> bool:
        self._room = min(BURST, self._room + (now - self._at) / EVERY)
        self._at = now
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def _sum_up(self) -> None:
        unsaid, self._unsaid = self._unsaid, 0
        log.info("refused: %d more in %g s, without a line each", unsaid, SUM_UP_AFTER)


def request_id(own: str) -> str:
    """The client's own id, if it is one that can stand in a log line, else a random one."""
    return own if _OWN_ID.fullmatch(own) else secrets.token_hex(8)


def _path(request: web.BaseRequest) -> str:
    """The path alone: the query may hold an API key."""
    return request.raw_path.partition("?")[0]


def _headers(refusal: Refusal) -> dict[str, str]:
    headers = dict(refusal.headers)
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(refusal.retry_after))
    return headers
