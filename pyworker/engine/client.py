"""Talks to the engine at the first of its addresses that answers."""

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final, Self

import aiohttp
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from pyworker.core.signature import read_public_key
from pyworker.core.wire import PUBKEY_PATH

log = logging.getLogger(__name__)

TIMEOUT: Final = 10.0
"""Seconds for one call, as the protocol says."""

LONGEST_PAUSE: Final = 10.0
EXCERPT: Final = 200
MAX_ANSWER: Final = 64 * 1024


class EngineError(Exception):
    """No address of the engine took it; says what the last one answered."""


class EngineClient:
    """An async context manager: POSTs and GETs at ``addresses`` (base URLs), tried in order from the one that answered last."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = tuple(address.rstrip("/") for address in addresses)
        self._session: aiohttp.ClientSession | None = None
        self._good = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, path: str, body: bytes, *, skip: frozenset[str] = frozenset()) -> None:
        """Deliver ``body`` to one address not in ``skip``. Raises `EngineError` when none acknowledges it."""
        await self._call("POST", path, body, skip)

    async def fetch_key(self) -> RSAPublicKey:
        """The key grants are signed with. Raises `EngineError`."""
        text = await self._call("GET", PUBKEY_PATH, None, frozenset())
        try:
            return read_public_key(text)
        except ValueError as error:
            raise EngineError(f"{PUBKEY_PATH} gave no public key: {error}") from error

    async def _call(self, method: str, path: str, body: bytes | None, skip: frozenset[str]) -> bytes:
        why = "no address to call"
        for turn in range(len(self.addresses)):
            index = (self._good + turn) % len(self.addresses)
            address = self.addresses[index]
            if address in skip:
                continue
            try:
                answer = await self._once(method, address + path, body)
            except EngineError as error:
                why = str(error)
                continue
            self._good = index
            return answer
        raise EngineError(why)

    async def _once(self, method: str, url: str, body: bytes | None) -> bytes:
        if self._session is None:  # made in the event loop that uses it
            self._session = aiohttp.ClientSession()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._session.request(
                    method, url, data=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                content = await _read(answer)
        except TimeoutError as error:
            raise EngineError(f"{url}: no answer in {TIMEOUT:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(f"{url}: {str(error) or type(error).__name__}") from error
        if not 200 <= answer.status < 300:  # noqa: PLR2004
            raise EngineError(f"{url}: status {answer.status}{_excerpt(content)}")
        return content


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The whole body, as far as it may be long."""
    content = b""
    while len(content) < MAX_ANSWER and (piece := await answer.content.readany()):
        content += piece
    return content


def _excerpt(content: bytes) -> str:
    """The engine's own words on why not, if it has any."""
    words = content[:EXCERPT].decode("utf-8", "replace").strip().partition("\n")[0]
    return f": {words}" if words else ""


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.5, 1, 2, … 10, with jitter so that workers do not march in step."""
    longest: float = min(0.5 * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
    return longest * random.uniform(0.75, 1.0)  # noqa: S311 - jitter, not a secret
