"""The public port under TLS: a handshake is begun only with who speaks first, and speaks TLS.

A connection that says nothing costs a socket and a timer, and not the memory of a handshake; those that have not got
through theirs are few, and the oldest has to go for the newest.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pyworker.core.errors import BadHttp
from pyworker.server.refusals import RefusalLog

log = logging.getLogger(__name__)

HANDSHAKE: Final = 10.0
"""Seconds to say the first word, and again for the handshake."""

SILENT: Final = 4000
SHAKING: Final = 1000
"""Connections that may be without a word, and in the middle of their handshake (some 50 KB each)."""

AT_ONCE: Final = 64
"""Connections taken before others have their turn."""

NO_FILES: Final = 0.1
"""Seconds until connections are taken again when there was no file left for one."""

_TLS: Final = b"\x16"
"""The first byte of a handshake."""


class TlsPort:
    """Listens on ``port`` of all addresses. Raises OSError when it is taken."""

    def __init__(
        self,
        port: int,
        *,
        made: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        refusals: RefusalLog,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._made = made
        self._context = context
        self._refusals = refusals
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        self._shaking: OrderedDict[asyncio.Task[None], None] = OrderedDict()
        both = socket.has_dualstack_ipv6()
        self._listening = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both, backlog=1024
        )
        self._listening.settimeout(0)
        self.port: int = self._listening.getsockname()[1]
        self._listen()

    def close(self) -> None:
        """Take no more, and drop who is not through."""
        self._loop.remove_reader(self._listening)
        self._listening.close()
        for one in tuple(self._silent):
            self._drop(one)
        for task in tuple(self._shaking):
            task.cancel()

    # A connection comes...

    def _listen(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                one, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the other side is gone already, or there is no file left
                if not isinstance(error, ConnectionError):
                    log.warning("no connection can be taken: %s", error.strerror)
                    self._loop.remove_reader(self._listening)
                    self._loop.call_later(NO_FILES, self._listen)
                    return
            else:
                self._await_word(one)

    def _await_word(self, one: socket.socket) -> None:
        one.settimeout(0)
        if len(self._silent) >= SILENT:
            self._drop(next(iter(self._silent)))
        self._silent[one] = self._loop.call_later(HANDSHAKE, self._drop, one)
        self._loop.add_reader(one, self._speaks, one)

    def _drop(self, one: socket.socket) -> None:
        self._forget(one)
        one.close()

    def _forget(self, one: socket.socket) -> None:
        self._loop.remove_reader(one)
        self._silent.pop(one).cancel()

    # It speaks...

    def _speaks(self, one: socket.socket) -> None:
        try:
            first = one.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            first = b""
        self._forget(one)
        if first == _TLS:
            self._shake(one)
        else:
            if first:
                self._tell_off(one)
            one.close()

    def _tell_off(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it need not listen
            one.recv(2**16)  # else the end of the connection may overtake what is said
            one.send(self._refusals.as_bytes(BadHttp("this port speaks TLS: ask for https://")))
            one.shutdown(socket.SHUT_WR)

    def _shake(self, one: socket.socket) -> None:
        if len(self._shaking) >= SHAKING:
            self._shaking.popitem(last=False)[0].cancel()
        task = self._loop.create_task(self._shaken(one))
        self._shaking[task] = None
        task.add_done_callback(self._shaken_off)

    def _shaken_off(self, task: asyncio.Task[None]) -> None:
        self._shaking.pop(task, None)

    async def _shaken(self, one: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._made, one, ssl=self._context, ssl_handshake_timeout=HANDSHAKE
            )
        except (OSError, TimeoutError) as error:
            log.debug("a TLS handshake failed: %s", error)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # the loop has it now, and drops the handshake at its end
            raise
