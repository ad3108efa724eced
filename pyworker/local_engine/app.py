"""The HTTP routes over pool and keys: reads calls, checks who may call, answers JSON."""

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import hdrs, web

from pyworker.core.errors import Refusal
from pyworker.core.wire import (
    DELETE_PATH,
    PUBKEY_PATH,
    STATUS_PATH,
    DeleteRequests,
    EndedRequest,
    RouteAnswer,
    RouteRequest,
    RouteWaiting,
    WorkerStatus,
    encode,
)
from pyworker.local_engine.keys import Keys
from pyworker.local_engine.pool import Pool, Waiting
from pyworker.local_engine.pool_worker import same_secret
from pyworker.local_engine.records import (
    Endpoint,
    WorkerRecord,
    WorkersRequest,
    body_key,
    cost_of,
    cost_text,
    read,
    read_status,
)
from pyworker.local_engine.refusals import WrongApiKey

MAX_BODY: Final = 4 * 2**20
"""Bytes. The longest honest body, 1000 ended requests, is some 200 KB."""

KEPT: Final = 1000
"""Reports, and ended requests, that can be looked at afterwards."""

ENDPOINT_ID: Final = 1

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """What the engine answers. ``unix_offset`` turns monotonic seconds into Unix seconds."""

    def __init__(self, *, pool: Pool, keys: Keys, api_key: str, unix_offset: float) -> None:
        self.reports: deque[WorkerStatus] = deque(maxlen=KEPT)
        """Reports taken, the newest last."""
        self.ended: deque[EndedRequest] = deque(maxlen=KEPT)
        """Ended requests told of, the newest last."""
        self._pool = pool
        self._keys = keys
        self._api_key = api_key
        self._unix_offset = unix_offset
        self._endpoint = Endpoint(
            id=ENDPOINT_ID,
            endpoint_name=pool.endpoint,
            api_key=api_key,
            created_at=time.monotonic() + unix_offset,
        )

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_refuse_in_json])
        app.add_routes(
            [
                web.get(PUBKEY_PATH, self.public_key),
                web.post(STATUS_PATH, self.worker_status),
                web.post(DELETE_PATH, self.delete_requests),
                web.post("/route/", self.route),
                web.post("/get_endpoint_workers/", self.endpoint_workers),
                web.get("/api/v0/endptjobs/", self.endpoints),
                web.get("/api/v0/endptjobs/{id}/", self.endpoint),
                web.get("/static/jvastai_root.cer", self.root_certificate),
                web.get("/healthz", self.health),
            ]
        )
        return app

    # What workers call...

    async def public_key(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._keys.public_pem, content_type="application/x-pem-file")

    async def worker_status(self, request: web.Request) -> web.Response:
        report = read_status(await request.read())
        self._pool.report(report, time.monotonic())
        self.reports.append(report)
        return _json({"success": True})

    async def delete_requests(self, request: web.Request) -> web.Response:
        message = read(await request.read(), DeleteRequests)
        self._pool.end(message)
        self.ended.extend(message.requests)
        return _json({"success": True})

    # What clients call...

    async def route(self, request: web.Request) -> web.Response:
        call = read(await request.read(), RouteRequest)
        self._require_key(request, call.api_key)
        cost = cost_of(call.cost)
        found = self._pool.route(cost, call.request_idx, call.endpoint, time.monotonic())
        if isinstance(found, Waiting):
            return _json(RouteWaiting(request_idx=found.request_idx, status=found.status))
        answer = RouteAnswer(
            url=found.url,
            request_idx=found.request_idx,
            reqnum=found.reqnum,
            signature=self._keys.sign(found.url),
            cost=cost_text(cost),
            endpoint=call.endpoint,
        )
        return _json(answer)

    async def endpoint_workers(self, request: web.Request) -> web.Response:
        call = read(await request.read(), WorkersRequest)
        self._require_key(request, call.api_key)
        if call.id != ENDPOINT_ID:
            return _json({"error_msg": f"no endpoint with id {call.id}"})
        self._pool.advance(time.monotonic())
        return _json(
            [WorkerRecord.of(one, unix_offset=self._unix_offset) for one in self._pool.workers.values()]
        )

    async def endpoints(self, request: web.Request) -> web.Response:
        self._require_key(request, body_key(await request.read()))
        return _json({"success": True, "results": [self._endpoint]})

    async def endpoint(self, request: web.Request) -> web.Response:
        self._require_key(request, body_key(await request.read()))
        wanted = request.match_info["id"]
        if wanted != str(ENDPOINT_ID):
            return _json({"msg": f"no endpoint with id {wanted[:100]!r}"}, status=404)
        return _json({"result": self._endpoint})

    async def root_certificate(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._keys.root_certificate, content_type="application/x-x509-ca-cert")

    async def health(self, _request: web.Request) -> web.Response:
        return _json({"ok": True})

    def _require_key(self, request: web.Request, in_body: str) -> None:
        bearer = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
        shown = (in_body, request.query.get("api_key", ""), bearer)
        if not any(same_secret(self._api_key, key) for key in shown):
            raise WrongApiKey


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


@web.middleware
async def _refuse_in_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is a JSON object with ``msg``, those of the HTTP library too."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _json(refusal.body(), refusal.status)
    except web.HTTPException as error:
        headers = {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}
        answer = _json({"msg": f"{request.method} {request.path[:200]}: {error.reason}"}, error.status)
        answer.headers.update(headers)
        return answer
