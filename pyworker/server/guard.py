"""Who may look at the worker and steer it: who has the master token, and programs on this machine.

The ports of this machine alone ask for no token. A page in a browser on it (or behind a tunnel to it) must not use them
either: `LocalOnly` refuses names that lead here by a trick, and writes from other pages.
"""

import hmac
import logging
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from pyworker.core.errors import Forbidden, Refusal, WrongToken
from pyworker.server.refusals import Answer, RefusalLog

log = logging.getLogger(__name__)

_READS: Final = frozenset({"GET", "HEAD"})
_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[0-9a-z.-]+)(?::[0-9]+)?")
_OWN_PAGE: Final = frozenset({"same-origin", "none"})


class WithToken:
    """``answer``, for whoever sends ``Authorization: Bearer`` and the master token. An empty one lets nobody in."""

    def __init__(self, answer: Answer, master_token: str) -> None:
        self._answer = answer
        self._token = master_token.encode()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises `WrongToken`."""
        shown = request.headers.get("Authorization", "")
        scheme, _, rest = shown.partition(" ")
        token = rest.strip() if scheme.lower() == "bearer" else shown
        # backslashreplace: a header may hold what is no text
        if not self._token or not hmac.compare_digest(token.encode(errors="backslashreplace"), self._token):
            raise WrongToken(
                "this needs the header Authorization: Bearer <MASTER_TOKEN>",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return await self._answer(request)


class LocalOnly:
    """``answer``, for programs on this machine; whatever is refused is said in JSON."""

    def __init__(self, answer: Answer, refusals: RefusalLog) -> None:
        self._answer = answer
        self._refusals = refusals

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            _require_local(request)
            return await self._answer(request)
        except Refusal as refusal:
            return self._refusals.answer(refusal, request)
        except Exception:
            log.exception("bug: path=%s", ascii(request.path))
            return self._refusals.answer(Refusal("internal error; the worker's log has more"), request)


def _require_local(request: web.BaseRequest) -> None:
    """Raises `Forbidden`."""
    hosts = request.headers.getall("Host", ())
    if len(hosts) > 1 or not all(map(_is_local, hosts)):
        raise Forbidden("this port is for 127.0.0.1, localhost and [::1]: ask for it by one of these names")
    origins = request.headers.getall("Origin", ())
    if any(not _is_same(origin, hosts) for origin in origins):
        raise Forbidden("this port takes nothing from other pages in a browser")
    site = request.headers.get("Sec-Fetch-Site", "none")
    if request.method not in _READS and site not in _OWN_PAGE:
        raise Forbidden("this port takes nothing from other pages in a browser")


def _is_local(host: str) -> bool:
    """Whether a ``Host`` header names this machine."""
    found = _HOST.fullmatch(host.lower())
    if found is None:
        return False
    name = found[1].strip("[]")
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, hosts: Sequence[str]) -> bool:
    return any(origin.lower() == f"http://{host}".lower() for host in hosts)
