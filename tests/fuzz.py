"""Throws generated input at a worker: `python -m tests.fuzz --inputs 100000` runs for as long as that takes.

What is sent is made from the shape of each route's body (`SHAPES`), bent here and there, framed as HTTP in any of the ways
there are, and bent again as bytes. Whatever it is: the worker answers with less than 500 or closes the connection, its
books are balanced, its memory is flat, and it serves on.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import logging
import re
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pyworker.local_engine.serve import EngineOptions, LocalEngine
from tests.processes import environment, started
from tests.system import eventually, free_port

BATCH: Final = 500
WITHIN: Final = 10.0
"""Seconds for an answer to what is surely a whole request..."""

PATIENCE: Final = 0.02
"""... and to what may be half of one."""

MAX_GROWTH: Final = 24 * 2**20
"""Bytes that memory may grow by between the first tenth and the end."""

SESSION: Final = "@SESSION@"
"""Stands for the id of a session that is open, or was."""

WORKER: Final = """
from pyworker import BenchmarkConfig, HandlerConfig, JsonDataException, Worker, WorkerConfig

def parse(payload):
    if "refuse" in payload:
        raise JsonDataException({{"refuse": payload["refuse"]}})
    return {{**payload, "parsed": True}}

async def remote(a=1, b=None):
    return [a, b]

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    max_sessions=20,
    handlers=[
        HandlerConfig(
            route="/plain", allow_parallel_requests=True, methods=["POST", "PUT"],
            benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=1),
        ),
        HandlerConfig(route="/parsed", allow_parallel_requests=True, request_parser=parse),
        HandlerConfig(route="/priced", workload_calculator=lambda payload: payload["n"], max_queue_time=None),
        HandlerConfig(route="/remote", allow_parallel_requests=True, remote_function=remote),
        HandlerConfig(route="/v1/{{name}}/do", allow_parallel_requests=True),
    ],
)
"""


# Values...


@dataclass(frozen=True)
class Raw:
    """JSON text as it is, good or not."""

    text: bytes


@dataclass(frozen=True)
class Twice:
    """A value whose key is written once more, before it, with another."""

    value: Any
    other: Any


ODD_TEXTS: Final = (
    b"1e400", b"-1e400", b"NaN", b"Infinity", b"9" * 5000, b"0.1e-99999", b"01", b"-", b"[" * 3000 + b"]" * 3000, b"[" * 50,
    b'{"a":' * 2000 + b"1" + b"}" * 2000, b'"\\ud800"', b'"\\u0000"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\t"', b"'x'", b"",
    b"/**/1", b"\xef\xbb\xbf1", b'"' + b"x" * 20_000 + b'"', b"1,", b"}", b"]", b'"', b"tru", b"\0",
)  # fmt: skip

TEXTS: Final = st.text(max_size=30) | st.sampled_from(
    [
        "",
        "/",
        "//",
        "/../x",
        "http://127.0.0.1:1/",
        "http://[",
        "\r\nX: y",
        "\u202e",
        "null",
        "1e999",
        SESSION,
        "x" * 5000,
    ]
)
NUMBERS: Final = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, -1, 2**63, 1e9, 1e10, 0.0])
PLAIN: Final = st.none() | st.booleans() | NUMBERS | TEXTS
ODD: Final = st.sampled_from([Raw(text) for text in ODD_TEXTS]) | st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8
)


def written(value: Any) -> bytes:
    """As JSON, with all that is odd about it."""
    match value:
        case Raw():
            return value.text
        case dict():
            return b"{" + b",".join(_pair(name, inner) for name, inner in value.items()) + b"}"
        case list():
            return b"[" + b",".join(map(written, value)) + b"]"
        case _:
            return json.dumps(value).encode()


def _pair(name: str, value: Any) -> bytes:
    key = json.dumps(name).encode() + b":"
    if isinstance(value, Twice):
        return key + written(value.other) + b"," + key + written(value.value)
    return key + written(value)


# Bodies, by the shape of each route's...

AUTH: Final = {
    "url": st.just("@URL@"),
    "signature": st.sampled_from(["@SIGNATURE@"] * 8 + ["", "eA==", "A" * 344]),
    "cost": st.sampled_from(["1", 1, "2.5"]),
    "endpoint": st.just("local"),
    "reqnum": st.integers(0, 2**40),
    "request_idx": st.integers(0, 2**40),
}
ANY_PAYLOAD: Final = st.dictionaries(
    st.sampled_from(["a", "b", "n", "refuse", "prompt"]) | TEXTS, ODD, max_size=4
)
SESSION_PAYLOAD: Final = {
    "lifetime": st.floats(0.05, 5.0),
    "on_close_route": st.none() | st.just("/closed") | TEXTS,
    "on_close_payload": st.none() | ANY_PAYLOAD,
}
CALL: Final = {"session_id": st.just(SESSION), "session_auth": st.just(Raw(b"@AUTH@"))}


def envelope(payload: Any) -> dict[str, Any]:
    return {"auth_data": AUTH, "session_id": st.none() | st.just(SESSION), "payload": payload}


SHAPES: Final[dict[str, Any]] = {
    "/plain": envelope(ANY_PAYLOAD),
    "/parsed": envelope(ANY_PAYLOAD),
    "/priced": envelope({"n": NUMBERS, "more": ODD}),
    "/remote": envelope({"a": ODD, "b": ODD}),
    "/v1/x/do": envelope(ANY_PAYLOAD),
    "/session/create": envelope(SESSION_PAYLOAD),
    "/session/get": CALL,
    "/session/health": CALL,
    "/session/end": CALL,
    "/pyworker/update": {},
    "/pyworker/status": {},
}


@st.composite
def shaped(draw: st.DrawFn, shape: Any) -> Any:
    """A value of ``shape``, good in every part of it."""
    if isinstance(shape, dict):
        return {name: draw(shaped(inner)) for name, inner in shape.items()}
    return draw(shape)


@st.composite
def bent(draw: st.DrawFn, shape: Any) -> Any:
    """A value of ``shape`` with up to two parts lost, replaced, added or said twice."""
    value = draw(shaped(shape))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        value = _bend(draw, value)
    return value


def _bend(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict) or not value or draw(st.integers(0, 9)) == 0:
        return draw(ODD)
    name = draw(st.sampled_from(sorted(value)))
    how = draw(st.sampled_from(["deeper", "deeper", "lost", "replaced", "added", "twice"]))
    changed = dict(value)
    if how == "deeper":
        changed[name] = _bend(draw, value[name])
    elif how == "lost":
        del changed[name]
    elif how == "replaced":
        changed[name] = draw(ODD)
    elif how == "added":
        changed[draw(TEXTS)] = draw(ODD)
    elif not isinstance(value[name], Twice):
        changed[name] = Twice(value[name], draw(ODD))
    return changed


# Requests...

METHODS: Final = [b"POST"] * 50 + [
    b"GET",
    b"PUT",
    b"HEAD",
    b"OPTIONS",
    b"DELETE",
    b"PATCH",
    b"TRACE",
    b"CONNECT",
    b"X",
]
QUERIES: Final = [b""] * 4 + [b"?api_key=secret", b"?a=b&api_key=x&c", b"?%zz", b"?" + b"q" * 3000, b"?\xff"]
FIELDS: Final = [b"X-Request-Id: r-1", b"Accept: */*", b"Content-Type: application/json"] * 9 + [
    b"X-Request-Id: r-1", b"X-Request-Id: \xff", b"Authorization: Bearer key", b"Authorization: @TOKEN@", b"Cookie: a=b",
    b"Accept: */*", b"Accept-Encoding: gzip", b"traceparent: 00-1", b"Content-Type: application/json", b"Content-Type: \xff",
    b"Content-Encoding: gzip", b"Expect: 100-continue", b"Expect: x", b"Connection: close", b"Connection: keep-alive, x",
    b"Upgrade: websocket\r\nConnection: Upgrade", b"Upgrade: h2c\r\nConnection: Upgrade", b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Host: y", b"X-Forwarded-For: 1.1.1.1", b"Range: bytes=0-1",
    b"X-Session-Id: @SESSION@", b"X-Auth-Data: e30=", b"X-Long: " + b"x" * 9000, b"X-Many: 1\r\n" * 120 + b"X: 1", b"Te: trailers",
    b"Origin: http://evil.example", b"Sec-WebSocket-Key: x", b"X: \0", b" folded", b"no colon", b": no name", b"X : y",
]  # fmt: skip
BYTES: Final = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b"\r\n\r\n", b":", b"\xff", b"Content-Length: 5\r\n", b"0\r\n\r\n", b"{", b'"',
    b"Transfer-Encoding: chunked\r\n", b"POST /plain HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", b"\x16\x03\x01", b"HTTP/2.0",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A request but for what is only known when it is sent: how long it is, and whose session it is in."""

    head: bytes
    body: bytes
    grant: bytes | None
    chunk: int | None
    """Bytes of a chunk; None: the body goes with its length."""

    def sent(self, fill: Callable[[bytes], bytes]) -> bytes:
        body = fill(self.body)
        head = fill(self.head)
        if self.grant is not None:
            head += b"X-Auth-Data: " + base64.b64encode(fill(self.grant)) + b"\r\n"
        if self.chunk is None:
            return head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        pieces = [body[at : at + self.chunk] for at in range(0, len(body), self.chunk)]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@dataclass(frozen=True)
class Dent:
    """What is done to the bytes: ``at`` so many ten-thousandths of their length."""

    how: str
    at: int
    size: int
    more: bytes

    def made_in(self, data: bytes) -> bytes:
        start = len(data) * self.at // 10_000
        until = start + self.size
        match self.how:
            case "insert":
                return data[:start] + self.more + data[start:]
            case "delete":
                return data[:start] + data[until:]
            case "replace":
                return data[:start] + self.more + data[until:]
            case "repeat":
                return data[:until] + data[start:]
            case _:
                return data[:start]


@dataclass(frozen=True)
class Input:
    """What goes over one connection."""

    requests: tuple[Request, ...]
    dents: tuple[Dent, ...]

    @property
    def whole(self) -> bool:
        """Whether an answer is due: it is HTTP, or is surely not."""
        return len(self.requests) == 1 and not self.dents

    def sent(self, fill: Callable[[bytes], bytes]) -> bytes:
        data = b"".join(one.sent(fill) for one in self.requests)
        for dent in self.dents:
            data = dent.made_in(data)
        return data


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """One request to one of the routes, or nearly."""
    route = draw(st.sampled_from(sorted(SHAPES)))
    grant = draw(bent(AUTH)) if draw(st.integers(0, 3)) == 0 else None
    body = draw(bent(SHAPES[route] if grant is None else ANY_PAYLOAD))
    path = route.encode() + draw(st.sampled_from(QUERIES))
    if draw(st.integers(0, 15)) == 0:
        path = b"/" + draw(st.binary(max_size=20))
    method = draw(st.sampled_from(METHODS))
    version = draw(st.sampled_from([b"HTTP/1.1"] * 9 + [b"HTTP/1.0"]))
    fields = [b"Host: 127.0.0.1", *draw(st.lists(st.sampled_from(FIELDS), max_size=2))]
    head = b"%b %b %b\r\n" % (method, path, version) + b"".join(line + b"\r\n" for line in fields)
    chunk = draw(st.sampled_from([None, None, None, 1000, 7]))
    return Request(head, written(body), None if grant is None else written(grant), chunk)


DENTS: Final = st.builds(
    Dent,
    st.sampled_from(["insert", "delete", "replace", "repeat", "cut"]),
    st.integers(0, 9_999),
    st.integers(1, 40),
    st.sampled_from(BYTES) | st.binary(min_size=1, max_size=3),
)
INPUTS: Final = st.builds(
    Input,
    st.lists(requests(), min_size=1, max_size=2).map(tuple),
    st.sampled_from([0, 0, 0, 1, 3])
    .flatmap(lambda count: st.lists(DENTS, min_size=count, max_size=count))
    .map(tuple),
)


# At a worker...


class Trouble(AssertionError):
    """The worker did what it must not."""


@dataclass
class Target:
    """A worker's port, and a grant for it."""

    port: int
    auth: dict[str, Any]
    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    thrown: int = 0
    _sessions: list[tuple[bytes, bytes]] = field(default_factory=lambda: [(b"0" * 32, b"{}")])

    def throw(self, one: Input) -> None:
        """Send it, and look at what comes back. Raises `Trouble`."""
        self.thrown += 1
        data = one.sent(self._fill)
        with socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN) as connection:
            connection.settimeout(WITHIN if one.whole else PATIENCE)
            told = self._told(connection, data, whole=one.whole)
        for status in map(int, ANSWERS.findall(told)):
            self.statuses[status] += 1
            if status >= 500:
                raise Trouble(f"status {status} for {data[:2000]!r}: {told[-300:]!r}")
        if one.whole and b"201 Created" in told and (found := SESSION_ID.search(told)):
            self._sessions = [*self._sessions[-20:], (found[1], self._auth_of(one.requests[0]))]

    def _auth_of(self, create: Request) -> bytes:
        """The auth_data that a session has been opened with."""
        if create.grant is not None:
            return self._fill(create.grant)
        body = self._fill(create.body).decode(errors="replace")  # a part that nobody looks at may be no UTF-8
        auth: bytes = json.dumps(json.loads(body)["auth_data"]).encode()
        return auth

    def _told(self, connection: socket.socket, data: bytes, *, whole: bool) -> bytes:
        told = b""
        with contextlib.suppress(ConnectionError):
            try:
                connection.sendall(data)
                while not (whole and is_whole(told, data)) and (piece := connection.recv(2**16)):
                    told += piece
            except TimeoutError:
                if whole:
                    raise Trouble(f"no answer in {WITHIN:g} s to {data[:2000]!r}, but {told!r}") from None
        return told

    def _fill(self, text: bytes) -> bytes:
        session, auth = self._sessions[-1]
        return (
            text.replace(b"@AUTH@", auth)
            .replace(SESSION.encode(), session)
            .replace(b"@URL@", self.auth["url"].encode())
            .replace(b"@SIGNATURE@", self.auth["signature"].encode())
            .replace(b"@TOKEN@", self.token.encode())
        )

    def throw_many(self, count: int, number: int) -> None:
        """So many inputs; ``number`` says which."""

        @seed(number)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(INPUTS)
        def throw(one: Input) -> None:
            self.throw(one)

        throw()


ANSWERS: Final = re.compile(rb"^HTTP/1\.[01] (\d{3}) ", re.MULTILINE)
SESSION_ID: Final = re.compile(rb'"session_id": "([0-9a-f]{32})"')
LENGTH: Final = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)


def is_whole(told: bytes, asked: bytes) -> bool:
    """Whether ``told`` ends with the end of an answer that is not the first half of one."""
    told = told.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, end, body = told.partition(b"\r\n\r\n")
    if not end:
        return False
    found = LENGTH.search(head + b"\r\n")
    return asked.startswith(b"HEAD") or found is None or len(body) >= int(found[1])


@asynccontextmanager
async def target(folder: Path) -> AsyncIterator[tuple[Target, "Watch"]]:
    """A worker in a process of its own, with a model server and an engine that take everything."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(text="ok")

    model = web.ServerRunner(web.Server(answer, auto_decompress=False))
    await model.setup()
    await web.TCPSite(model, "127.0.0.1", 0).start()
    port = free_port()
    async with LocalEngine(EngineOptions(port=0)) as engine:
        environ = environment(
            engine.url, port, folder, MASTER_TOKEN="the-token", BENCHMARK_PERF="1e6", MAX_BODY_SIZE=str(2**20),
            SESSION_MAX_LIFETIME="2", FORCE_UPDATE_FILE=str(folder / "update"), DRAIN_TIMEOUT="1",
        )  # fmt: skip
        async with started(folder, environ, WORKER.format(port=model.addresses[0][1])) as process:
            await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=30)
            url = f"http://127.0.0.1:{port}"
            auth = {
                "url": url, "signature": engine.keys.sign(url), "cost": "1", "endpoint": "local", "reqnum": 1, "request_idx": 1,
            }  # fmt: skip
            yield Target(port, auth, "the-token"), Watch(port, process.pid, folder / "worker.log")
    await model.cleanup()


@dataclass
class Watch:
    """What is looked at while things are thrown."""

    port: int
    pid: int
    log: Path

    def memory(self) -> int:
        return psutil.Process(self.pid).memory_info().rss

    async def balanced(self) -> dict[str, Any]:
        """The books, once nothing is in flight. Raises `Trouble` when they are not balanced."""
        async with asyncio.timeout(30), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"http://127.0.0.1:{self.port + 2}/pyworker/status") as answer:
                    picture: dict[str, Any] = await answer.json()
                requests: dict[str, Any] = picture["requests"]
                if (
                    not requests["in_flight"]["count"]
                    and not picture["engine"]["delete_requests"]["unreported"]
                ):
                    break
                await asyncio.sleep(0.1)
        ended = sum(requests[name]["count"] for name in ("served", "failed", "cancelled", "rejected"))
        if (
            ended != requests["received"]["count"]
            or requests["failed"]["count"]
            or picture["state"] != "ready"
        ):
            raise Trouble(f"the books are not balanced: {requests}, {picture['state']}")
        text = self.log.read_text()
        if "Traceback" in text or "bug:" in text:
            raise Trouble(f"a traceback in {self.log}: {text[-3000:]}")
        return requests


async def fuzz(
    folder: Path, count: int, number: int, say: Callable[[str], None] = lambda _: None
) -> Counter[int]:
    """Throw ``count`` inputs, the ``number``-th of all there are. Returns the statuses; raises `Trouble`."""
    async with target(folder) as (worker, watch):
        began, warm = time.monotonic(), 0
        while worker.thrown < count:
            batch = min(BATCH, count - worker.thrown)
            await asyncio.to_thread(worker.throw_many, batch, number)
            number += 1
            if worker.thrown >= count // 10 and not warm:
                warm = watch.memory()
            if worker.thrown % (10 * BATCH) < BATCH:
                await watch.balanced()
                say(
                    f"{worker.thrown} inputs in {time.monotonic() - began:.0f} s, {watch.memory() / 2**20:.1f} MiB, "
                    f"{dict(sorted(worker.statuses.items()))}"
                )
        books = await watch.balanced()
        grown = watch.memory() - warm
        say(f"{worker.thrown} inputs, memory grew by {grown / 2**20:.1f} MiB, books: {books}")
        if grown > MAX_GROWTH:
            raise Trouble(f"memory grew by {grown / 2**20:.1f} MiB")
        return worker.statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="which inputs: the same seed throws the same")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the model server's clients break off
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(fuzz(Path(folder), options.inputs, options.seed, lambda line: print(line, flush=True)))


if __name__ == "__main__":
    main()
