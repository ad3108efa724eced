"""The simplest pooled proxy one would write with aiohttp: a server, a client, uvloop. No signature, no accounts."""

import asyncio
import sys
from collections.abc import Mapping

import aiohttp
import uvloop
from aiohttp import web

SMALL_BODY = 64 * 1024
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade host".split()
)


def end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}


async def serve(port: int, model: str) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:

        async def proxy(request: web.BaseRequest) -> web.StreamResponse:
            small = (request.content_length or 0) <= SMALL_BODY
            body = await request.read() if small else request.content
            asking = session.request(
                request.method, model + request.path_qs, headers=end_to_end(request.headers), data=body
            )
            async with asking as answer:
                response = web.StreamResponse(status=answer.status, headers=end_to_end(answer.headers))
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response

        runner = web.ServerRunner(web.Server(proxy, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), sys.argv[2]))
