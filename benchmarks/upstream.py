"""The model server: answers at once, as the path and the plan in the payload say, for next to no CPU of its own.

`/small` a short JSON answer · `/stream` server-sent events · `/answer` a long answer · `/upload` reads it all, answers shortly.
Plans: ``"sse COUNT MILLISECONDS"`` (the first event at once, the others one each), ``"bytes N"``.
"""

import asyncio
import re
import sys
from functools import cache
from pathlib import Path
from typing import Final, cast

import httptools
import uvloop

from benchmarks.jobs import ANSWER, EVENT, SMALL_ANSWER, STREAM

_PLAN: Final = re.compile(rb'"plan": ?"(?:sse (\d+) (\d+)|bytes (\d+))"')
_PLAN_WITHIN: Final = 4096
"""Bytes from the start of a body that the plan is looked for in."""

_SSE_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
)


def _json(size: int) -> bytes:
    opening, closing = b'{"text": "', b'"}'
    return opening + b"y" * (size - len(opening) - len(closing)) + closing


@cache
def _answer(size: int, ending: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b" % (size, ending)
    return head + b"\r\n" + _json(size)


def _event() -> bytes:
    opening, closing = b'data: {"choices": [{"delta": {"content": "', b'"}}]}\n\n'
    event = opening + b"z" * (EVENT - len(opening) - len(closing)) + closing
    return b"%x\r\n%b\r\n" % (len(event), event)


_CHUNK: Final = _event()


class Model(asyncio.Protocol):
    """A connection of the proxy's."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body: list[bytes] = []
        self._kept = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._timer is not None:
            self._timer.cancel()

    # What httptools calls...

    def on_url(self, url: bytes) -> None:
        self._path = url.partition(b"?")[0]
        self._body.clear()
        self._kept = 0

    def on_body(self, piece: bytes) -> None:
        if self._kept < _PLAN_WITHIN:
            self._body.append(piece[:_PLAN_WITHIN])
            self._kept += len(piece)

    def on_message_complete(self) -> None:
        stays = self._parser.should_keep_alive()
        ending = b"" if stays else b"Connection: close\r\n"  # as uvicorn says it
        if self._path in (STREAM.encode(), ANSWER.encode()):
            count, pause, size = self._plan()
            if count:
                self._transport.write(_SSE_HEAD + ending + b"\r\n" + _CHUNK)
                self._next(self._loop.time() + pause, pause, count - 1, stays)
                return
        else:
            size = SMALL_ANSWER
        self._transport.write(_answer(size, ending))
        if not stays:
            self._transport.close()

    def _plan(self) -> tuple[int, float, int]:
        found = _PLAN.search(b"".join(self._body))
        if found is None:
            return 0, 0.0, SMALL_ANSWER
        count, pause, size = found.groups(b"0")
        return int(count), int(pause) / 1000, int(size)

    def _next(self, when: float, pause: float, left: int, stays: bool) -> None:  # noqa: FBT001 - internal
        if left:
            self._timer = self._loop.call_at(when, self._send, when, pause, left, stays)
            return
        self._timer = None
        self._transport.write(b"0\r\n\r\n")
        if not stays:
            self._transport.close()

    def _send(self, when: float, pause: float, left: int, stays: bool) -> None:  # noqa: FBT001 - internal
        self._transport.write(_CHUNK)
        self._next(when + pause, pause, left - 1, stays)


async def _serve(port: int, log: Path) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Model, "127.0.0.1", port, backlog=4096)
    log.write_text("model loaded\n")  # noqa: ASYNC240 - one line, before anything is served
    stop = asyncio.Event()
    loop.add_reader(sys.stdin, stop.set)  # whoever started this one has closed it, or is gone
    await stop.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
