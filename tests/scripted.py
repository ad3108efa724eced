"""Model servers that do exactly what a test says, byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Script = Callable[["Conversation"], Awaitable[None]]


@dataclass
class Conversation:
    """One connection of the scripted server: what it reads and writes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises IncompleteReadError when the other side is gone."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return head, await self.reader.readexactly(length)

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def answer(self, body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> None:
        await self.send(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body))

    async def gone(self) -> None:
        """Return when the other side has closed or reset the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass


@dataclass
class Scripted:
    """A running scripted server."""

    port: int
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def scripted(script: Script) -> AsyncIterator[Scripted]:
    """A server on loopback whose every connection is one run of ``script``."""
    server_state = Scripted(0)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_state.connections += 1
        task = asyncio.current_task()
        assert task is not None
        server_state.tasks.add(task)
        try:
            await script(Conversation(reader, writer, server_state.connections))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            server_state.tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    server_state.port = server.sockets[0].getsockname()[1]
    try:
        yield server_state
    finally:
        server.close()
        for task in list(server_state.tasks):
            task.cancel()
        await asyncio.gather(*server_state.tasks, return_exceptions=True)
        await server.wait_closed()
