"""The process that asks: raw asyncio protocols that send prepared bytes and look at what comes back.

It is told on standard input: a job (it answers "ready" when all connections are open and warm), then a line to go on (it
answers with the result), and after a job with ``hold`` a line to let go. It ends with its standard input.
"""

import asyncio
import contextlib
import resource
import ssl
import sys
from time import perf_counter
from typing import Any, Final, cast

import httptools
import msgspec
import uvloop

from benchmarks.goals import percentile
from benchmarks.jobs import Ask, Job, Result

AT_ONCE: Final = 64
"""Connections opened at a time: less than any server's backlog."""

FIRST_NUMBER: Final = 100_000_000
"""Requests are numbered from here, so that all numbers have nine digits and all bodies one length."""

TOO_LONG: Final = 64 * 1024
"""Bytes from which on a filling is not copied into each request but written behind its head."""


class Messages:
    """The bytes of one `Ask`, numbered one by one."""

    def __init__(self, ask: Ask, port: int) -> None:
        self.ask = ask
        lead = ask.lead.replace("%(n)d", str(FIRST_NUMBER))
        self.size = len(lead) + ask.fill + len(ask.tail)
        named = {"Host": f"127.0.0.1:{port}", **ask.headers, "Content-Length": str(self.size)}
        head = f"POST {ask.path} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in named.items()
        )
        pieces = (head + "\r\n" + ask.lead).encode().split(b"%(n)d")
        self._pattern = b"%d".join(piece.replace(b"%", b"%%") for piece in pieces)
        self._numbers = len(pieces) - 1
        self._rest = b"x" * ask.fill + ask.tail.encode()
        self._number = FIRST_NUMBER

    def send(self, transport: asyncio.Transport) -> None:
        self._number += 1
        start = self._pattern % ((self._number,) * self._numbers)
        if len(self._rest) < TOO_LONG:
            transport.write(start + self._rest)
        else:
            transport.writelines([start, self._rest])


class Phase:
    """A job's asking, or its warming: which connections still ask, and what came back."""

    def __init__(self, messages: Messages, *, seconds: float, each: int, pause: float, hold: bool) -> None:
        self.messages = messages
        self.ask = messages.ask
        self.hold = hold
        self.pause = pause
        self._each = each
        self._deadline = perf_counter() + seconds if seconds else None
        self.done = asyncio.get_running_loop().create_future()
        self.active = 0
        self.answers = 0
        self.events = 0
        self.down = 0
        self.latencies: list[float] = []
        self.firsts: list[float] = []
        self.failures: list[str] = []
        self.began = perf_counter()

    def wants_more(self, asked: int) -> bool:
        return perf_counter() < self._deadline if self._deadline is not None else asked < self._each

    def leave(self) -> None:
        self.active -= 1
        if self.active == 0 and not self.done.done():
            self.done.set_result(perf_counter() - self.began)

    def result(self, took: float) -> Result:
        return Result(
            answers=self.answers,
            events=self.events,
            up=self.answers * self.messages.size,
            down=self.down,
            took=took,
            latency_p50=_percentile(self.latencies, 0.5),
            latency_p99=_percentile(self.latencies, 0.99),
            first_p50=_percentile(self.firsts, 0.5),
            failures=len(self.failures),
            failure=self.failures[0] if self.failures else "",
        )


def _percentile(found: list[float], share: float) -> float:
    return percentile(found, share) if found else 0.0


class Connection(asyncio.Protocol):
    """A client's connection: asks, and again when it is answered."""

    def __init__(self, clients: "Clients") -> None:
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._phase: Phase | None = None
        self._busy = False
        self._asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        self._parser = httptools.HttpResponseParser(self)
        self._between = True
        """No byte of an answer has come that its end has not."""

    def begin(self, phase: Phase) -> None:
        self._phase = phase
        self._asked = 0
        self._send()

    def _send(self) -> None:
        if self._transport is None or self._transport.is_closing():
            self._clients.reopen(self)
            return
        assert self._phase is not None
        self._asked += 1
        self._busy = True
        self._body = 0
        self._seen = 0
        self._first = 0.0
        self._sent = perf_counter()
        self._phase.messages.send(self._transport)

    def reopened(self) -> None:
        self._send()

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if not self._busy or phase is None:
            return
        if self._between and phase.ask.answer and data.startswith(b"HTTP/1.1 200"):
            # Most answers come in one piece: then their body is all there is behind the head.
            start = data.find(b"\r\n\r\n") + 4
            if len(data) - start == phase.ask.answer and b"close\r\n" not in data[:start]:
                self._first = perf_counter()
                self._body = phase.ask.answer
                self._complete(stays=True)
                return
        self._between = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no valid answer: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._busy and not self._clients.closing:
            self._fail(f"the connection was lost in mid-answer ({error or 'closed'})")

    # What httptools calls...

    def on_body(self, piece: bytes) -> None:
        phase = self._phase
        assert phase is not None
        if not self._first:
            self._first = perf_counter()
            if phase.hold:
                self._busy = False
                phase.answers += 1
                phase.firsts.append(self._first - self._sent)
                phase.leave()
        self._body += len(piece)
        if phase.ask.events:
            self._seen += piece.count(b"\n\n")

    def on_message_complete(self) -> None:
        if self._busy:
            status = self._parser.get_status_code()
            if status != 200:
                self._fail(f"status {status}")
            else:
                self._complete(stays=self._parser.should_keep_alive())

    def _complete(self, *, stays: bool) -> None:
        phase = self._phase
        assert phase is not None
        assert self._transport is not None
        ask = phase.ask
        if (ask.answer and self._body != ask.answer) or self._seen != ask.events:
            self._fail(f"an answer of {self._body} bytes and {self._seen} events")
            return
        now = perf_counter()
        self._busy = False
        self._between = True
        phase.answers += 1
        phase.events += self._seen
        phase.down += self._body
        phase.latencies.append(now - self._sent)
        phase.firsts.append(self._first - self._sent)
        if not stays:
            self._transport.close()
        if not phase.wants_more(self._asked):
            phase.leave()
        elif phase.pause:
            self._loop.call_later(phase.pause, self._send)
        else:
            self._send()

    def _fail(self, why: str) -> None:
        phase = self._phase
        assert phase is not None
        self._busy = False
        phase.failures.append(why)
        if self._transport is not None:
            self._transport.abort()
        phase.leave()

    def failed_to_reopen(self, error: OSError) -> None:
        self._fail(f"no connection: {error}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Clients:
    """All connections of a job."""

    def __init__(self, job: Job, group: asyncio.TaskGroup) -> None:
        self._job = job
        self._group = group
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._all = [Connection(self) for _ in range(job.connections)]
        self._context = _trusting() if job.tls else None
        self.closing = False

    async def open(self) -> None:
        async with asyncio.TaskGroup() as group:
            for one in self._all:
                group.create_task(self._open(one))
        if self._job.warm is not None:
            await self.run(Messages(self._job.warm, self._job.port), each=1)

    async def _open(self, one: Connection) -> None:
        async with self._gate:
            await asyncio.get_running_loop().create_connection(
                lambda: one, "127.0.0.1", self._job.port, ssl=self._context
            )

    def reopen(self, one: Connection) -> None:
        """The server said it closes: the next request needs a connection of its own."""
        self._group.create_task(self._reopen(one))

    async def _reopen(self, one: Connection) -> None:
        try:
            await self._open(one)
        except OSError as error:
            one.failed_to_reopen(error)
        else:
            one.reopened()

    async def run(
        self, messages: Messages, *, seconds: float = 0.0, each: int = 0, pause: float = 0.0, spread: float = 0.0,
        hold: bool = False,
    ) -> Result:  # fmt: skip
        phase = Phase(messages, seconds=seconds, each=each, pause=pause, hold=hold)
        phase.active = len(self._all)
        loop = asyncio.get_running_loop()
        for position, one in enumerate(self._all):
            loop.call_later(spread * position / len(self._all), one.begin, phase)
        return phase.result(await phase.done)

    def close(self) -> None:
        self.closing = True
        for one in self._all:
            one.close()


def _trusting() -> ssl.SSLContext:
    """The certificate is made for this run; what is measured is not trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Told:
    """Lines of standard input, as they come."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader(limit=2**20)

    async def listen(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), sys.stdin)

    async def line(self) -> bytes:
        """The next line. Raises EOFError when there will be none."""
        line = await self._reader.readline()
        if not line:
            raise EOFError
        return line


def _say(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


async def _work(told: Told, job: Job) -> None:
    async with asyncio.TaskGroup() as group:
        clients = Clients(job, group)
        try:
            await clients.open()
            messages = Messages(job.ask, job.port)
            _say("ready")
            await told.line()
            result = await clients.run(
                messages,
                seconds=job.seconds,
                each=job.each,
                pause=job.pause,
                spread=job.spread,
                hold=job.hold,
            )
            _say(result)
            if job.hold:
                await told.line()
        finally:
            clients.close()


async def _listen() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    told = Told()
    await told.listen()
    with contextlib.suppress(EOFError):
        while True:
            await _work_or_say_why(told, msgspec.json.decode(await told.line(), type=Job))


async def _work_or_say_why(told: Told, job: Job) -> None:
    """Do a job; a job whose connections cannot be opened is answered with an error. Raises EOFError when told no more."""
    try:
        await _work(told, job)
    except ExceptionGroup as group:
        if group.subgroup(EOFError):
            raise EOFError from group
        first = _first_of(group)
        if not isinstance(first, OSError):
            raise
        _say({"error": f"no connection to port {job.port}: {first}"})


def _first_of(error: Exception) -> Exception:
    return _first_of(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


if __name__ == "__main__":
    uvloop.run(_listen())
