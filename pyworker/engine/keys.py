"""The engine's public key: fetched, kept for restarts without the engine, and fetched anew when it may have changed."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyworker.core.redact import excerpt
from pyworker.core.signature import Verifier, read_public_key
from pyworker.engine.client import EngineClient, EngineError, pause
from pyworker.files import write_whole

log = logging.getLogger(__name__)

KEY_FILE: Final = "engine_key.pem"

PATIENCE: Final = 2.0
"""Seconds a request may wait for a new key: the official client does not try again after a 401."""

RENEW_EVERY: Final = 5.0
"""Seconds from one key to the next asking for it: whoever sends false signatures makes us ask no more often."""

READABLE_BY_ALL: Final = 0o644


class EngineKey:
    """Puts the key at the ``addresses`` of the engine into ``verifier``; keeps it in ``folder``."""

    def __init__(self, *, client: EngineClient, verifier: Verifier, folder: Path) -> None:
        self._client = client
        self._verifier = verifier
        self._file = folder / KEY_FILE
        self._now: RSAPublicKey | None = None
        self._wanted = asyncio.Event()
        self._asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the key has been asked for once more, from now on."""
        self._next_at = 0.0
        self.here = asyncio.Event()
        """There is a key."""
        self.missing = "not fetched yet"
        """Why there is none; empty when there is one."""

    def need_none(self) -> None:
        """Nobody's signature is checked."""
        self.missing = ""
        self.here.set()

    async def run(self) -> None:
        """Take the kept key, fetch the present one, and again whenever a request wants it, until cancelled."""
        await self._take_kept()
        failures = 0
        while True:
            self._wanted.clear()
            asked, self._asked = self._asked, asyncio.get_running_loop().create_future()
            failures = 0 if await self._fetch(first_failure=failures == 0) else failures + 1
            wait = pause(failures) if failures else RENEW_EVERY
            self._next_at = time.monotonic() + wait
            asked.set_result(None)
            await asyncio.sleep(wait)
            if not failures:
                await self._wanted.wait()

    async def renewed(self) -> None:
        """Return when the key has been asked for once more, or when that takes longer than a request may wait."""
        self._wanted.set()
        if self._next_at - time.monotonic() > PATIENCE:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(self._asked)

    # From the engine...

    async def _fetch(self, *, first_failure: bool) -> bool:
        try:
            key = await self._client.fetch_key()
        except EngineError as error:
            if self._now is None:
                self.missing = str(error)
            if first_failure:
                log.warning("no public key from the engine: %s (trying on)", error)
            return False
        if self._now is None or key.public_numbers() != self._now.public_numbers():
            log.info("public key of the engine: %s", "fetched" if self._now is None else "it is a new one")
            self._use(key)
            await asyncio.to_thread(self._keep, key)
        return True

    def _use(self, key: RSAPublicKey) -> None:
        self._now = key
        self._verifier.use_key(key)
        self.missing = ""
        self.here.set()

    # On disk...

    @property
    def _mark(self) -> str:
        """First line of the file: a key of another engine is none."""
        return f"Public key of the engine at {' '.join(map(excerpt, self._client.addresses))}\n"

    def _keep(self, key: RSAPublicKey) -> None:
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        try:
            write_whole(self._file, self._mark + pem, mode=READABLE_BY_ALL)
        except OSError as error:
            log.warning("the engine's key is not kept: path=%s why=%s", self._file, error.strerror)

    async def _take_kept(self) -> None:
        text = await asyncio.to_thread(self._read_kept)
        if not text.startswith(self._mark):
            return
        try:
            self._use(read_public_key(text.encode()))
        except ValueError as error:
            log.warning("the kept key of the engine is none: path=%s why=%s", self._file, error)
        else:
            log.info("public key of the engine: the kept one is used until the engine answers")

    def _read_kept(self) -> str:
        try:
            return self._file.read_text(errors="replace")
        except OSError:
            return ""
