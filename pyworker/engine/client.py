"""Talks to the engine at the first of its addresses that answers."""

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, Self, TypeVar

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pyworker.core.answers import first_line
from pyworker.core.redact import MAX_EXCERPT, excerpt
from pyworker.core.signature import read_public_key
from pyworker.core.wire import PUBKEY_PATH
from pyworker.engine.trouble import status_words, words

log = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds for one call, as the protocol says."""

LONGEST_PAUSE: Final = 10.0
BACK_FIRST: Final = 15.0
BACK_LONGEST: Final = 300.0
"""Seconds until addresses that failed are tried again while a later one answers: 15, 30, … 300."""

BACK_TIMEOUT: Final = 3.0
"""Seconds for such a try: meanwhile the report waits."""

MAX_ANSWER: Final = 64 * 1024

_T = TypeVar("_T")


class EngineError(Exception):
    """No address of the engine took it; says why, for each."""


class EngineClient:
    """An async context manager: POSTs and GETs at ``addresses`` (base URLs), the first that answers.

    After a failure the next one is used; the ones before it are tried again now and then, as they are preferred.
    ``trust`` is the TLS context for https addresses (default: the certificates this machine trusts).
    """

    def __init__(self, addresses: Sequence[str], *, trust: ssl.SSLContext | None = None) -> None:
        self.addresses = tuple(address.rstrip("/") for address in addresses)
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None
        self._good = 0
        self._back_at = 0.0
        self._back_pause = BACK_FIRST

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: bytes, *, skip: frozenset[str] = frozenset()) -> str:
        """Deliver ``body`` to one address not in ``skip``; which it was. Raises `EngineError` when none acknowledges it."""
        address, _ = await self._call("POST", path, body, skip, bytes)
        return address

    async def fetch_key(self) -> RSAPublicKey:
        """The key grants are signed with. Raises `EngineError`."""
        _, key = await self._call("GET", PUBKEY_PATH, None, frozenset(), _key)
        return key

    async def _call(
        self, method: str, path: str, body: bytes | None, skip: frozenset[str], read: Callable[[bytes], _T]
    ) -> tuple[str, _T]:
        whys = []
        first = 0 if time.monotonic() >= self._back_at else self._good
        for turn in range(len(self.addresses)):
            index = (first + turn) % len(self.addresses)
            address = self.addresses[index]
            if address in skip:
                continue
            limit = BACK_TIMEOUT if index < self._good else TIMEOUT
            try:
                answer = read(await self._once(method, address + path, body, limit))
            except EngineError as error:
                whys.append(str(error))
                continue
            # A call that leaves an address out says nothing about which one is to be used.
            if not skip.intersection(self.addresses):
                self._found(index, looked_back=first < index)
            return address, answer
        raise EngineError("; ".join(whys) or "no address to call")

    def _found(self, index: int, *, looked_back: bool) -> None:
        """The address that answers; ``looked_back``: those before it do not."""
        if index != self._good:
            log.info("engine: using %s", excerpt(self.addresses[index]))
            self._back_pause = BACK_FIRST
        if looked_back:
            self._back_at = time.monotonic() + self._back_pause
            self._back_pause = min(self._back_pause * 2, BACK_LONGEST)
        self._good = index

    async def _once(self, method: str, url: str, body: bytes | None, limit: float) -> bytes:
        shown = excerpt(url)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with (
                asyncio.timeout(limit),
                self._open().request(
                    method, url, data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                content = await _read(answer)
        except TimeoutError as error:
            raise EngineError(f"{shown}: no answer in {limit:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(excerpt(f"{shown}: {words(error)}", most=2 * MAX_EXCERPT)) from error
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            said = first_line(content)
            raise EngineError(f"{shown}: {status_words(answer.status)}" + (f": {said}" if said else ""))
        return content

    def _open(self) -> aiohttp.ClientSession:
        """The session, made in the event loop that uses it."""
        if self._session is None:
            trust: ssl.SSLContext | bool = self._trust or (
                trusted() if any(one.startswith("https:") for one in self.addresses) else True
            )
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust))
        return self._session


@cache
def trusted() -> ssl.SSLContext:
    """What this machine trusts, even while ``SSL_CERT_FILE`` names our own certificate: OpenSSL reads that variable, too."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    with contextlib.suppress(OSError):
        context.load_verify_locations(
            paths.openssl_cafile if Path(paths.openssl_cafile).is_file() else None,
            paths.openssl_capath if Path(paths.openssl_capath).is_dir() else None,
        )
    return context


def _key(text: bytes) -> RSAPublicKey:
    try:
        return read_public_key(text)
    except ValueError as error:
        raise EngineError(f"{PUBKEY_PATH} gave no public key: {error}") from error


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body, as far as it may be long."""
    content = b""
    while len(content) < MAX_ANSWER and (piece := await answer.content.readany()):
        content += piece
    return content


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.5, 1, 2, … 10, with jitter so that workers do not march in step."""
    longest: float = min(0.5 * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 - jitter, not a secret
