"""What can be asked of a worker, and told it: on the admin port by anyone, on the public one with the master token."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from pyworker.console.scrape import Exposition
from pyworker.core.errors import NoSuchRoute, Refusal, WrongMethod

log = logging.getLogger(__name__)


class Admin:
    """What is asked of a worker: status, events and metrics, ``/readyz`` 200 or 503, ``/healthz`` 200 while it lives.

    ``POST /pyworker/update`` leaves ``update_file`` for the start script.
    """

    def __init__(
        self,
        status: Callable[[], dict[str, Any]],
        *,
        events: Callable[[], AsyncIterator[bytes]],
        metrics: Callable[[str], Awaitable[Exposition]],
        update_file: Path,
    ) -> None:
        self._status = status
        self._events = events
        self._metrics = metrics
        self._update_file = update_file

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Raises `Refusal`."""
        if request.path == "/pyworker/update":
            _require(request, "POST")
            return await self._update()
        if request.path == "/pyworker/events":
            _require(request, "GET")
            return await self._stream(request)
        if request.path in {"/metrics", "/pyworker/metrics"}:
            _require(request, "GET", "HEAD")
            text, content_type = await self._metrics(request.headers.get("Accept", ""))
            return web.Response(body=text, headers={"Content-Type": content_type})
        if request.path in {"/", "/pyworker/status", "/healthz", "/readyz"}:
            _require(request, "GET", "HEAD")
            return self._page(request.path)
        raise NoSuchRoute(
            "no such page; there are /pyworker/status, /pyworker/events, /metrics, /readyz, /healthz and POST /pyworker/update"
        )

    def _page(self, path: str) -> web.Response:
        if path == "/healthz":
            return _json({"ok": True})
        picture = self._status()
        if path == "/readyz":
            ready = picture["state"] == "ready"
            return _json({"ready": ready, "why": picture["why"]}, 200 if ready else 503)
        return _json(picture)

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        async for event in self._events():
            await response.write(event)
        return response

    async def _update(self) -> web.Response:
        try:
            await asyncio.to_thread(self._update_file.touch)
        except OSError as error:
            why = f"cannot write FORCE_UPDATE_FILE={self._update_file}: {error.strerror}"
            log.warning("update: %s", why)
            raise Refusal(why) from error
        log.info("update: asked for, the start script will find %s", self._update_file)
        return _json({"ok": True})


def _require(request: web.BaseRequest, *methods: str) -> None:
    if request.method not in methods:
        allowed = ", ".join(methods)
        raise WrongMethod(f"{request.method} {request.path}: use {allowed}", headers={"Allow": allowed})


def _json(value: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        text=json.dumps(value, indent=2) + "\n", status=status, content_type="application/json"
    )
