"""An engine that fails as a test says."""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Engine:
    """An engine that fails as told: it counts what it acknowledged."""

    status: int = 200
    delay: float = 0.0
    statuses: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    largest_batch: int = 0
    drops: bool = False
    hangs: bool = False
    key: str = "no key"
    words: str = ""
    url: str = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path)
        body = await request.read()
        if self.drops:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if self.hangs:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay)
        if self.status != 200:
            return web.Response(status=self.status, text=self.words)
        if request.path == "/worker_status/":
            self.statuses.append(json.loads(body))
            self.at.append(time.monotonic())
        elif request.path == "/delete_requests/":
            batch = json.loads(body)["requests"]
            self.largest_batch = max(self.largest_batch, len(batch))
            self.ends += batch
        return web.Response(text=self.key)

    def sum(self, name: str) -> float:
        return float(sum(report[name] for report in self.statuses))


@contextlib.asynccontextmanager
async def engine_up(*, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Engine]:
    """A scripted engine, until the context is left."""
    engine = Engine()
    runner = web.ServerRunner(web.Server(engine.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls, reuse_address=True).start()
    engine.url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield engine
    finally:
        await runner.cleanup()
