"""The admin port: loopback only, so it asks for no token."""

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from pyworker.core.errors import NoSuchRoute
from pyworker.server.app import refused


class Admin:
    """``/pyworker/status`` the whole picture, ``/readyz`` 200 or 503, ``/healthz`` 200 while the process lives."""

    def __init__(self, status: Callable[[], dict[str, Any]]) -> None:
        self._status = status

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in {"/", "/pyworker/status"}:
            return _json(self._status())
        if request.path == "/healthz":
            return _json({"ok": True})
        if request.path == "/readyz":
            picture = self._status()
            ready = picture["state"] == "ready"
            return _json({"ready": ready, "why": picture["why"]}, 200 if ready else 503)
        return refused(NoSuchRoute("no such page; there are /pyworker/status, /readyz and /healthz"))


def _json(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        text=json.dumps(value, indent=2) + "\n", status=status, content_type="application/json"
    )
