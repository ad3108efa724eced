"""The worker's certificate: read, named for what is wrong with it, and taken anew when its files change.

A handshake is served by the newest pair that was good; connections that are open stay as they are.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

log = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the files."""


class CertificateError(Exception):
    """Certificate and key cannot be served; says which file, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with its key, ready to be served."""

    context: ssl.SSLContext
    expires: datetime


class Certificate:
    """The pair in the files ``cert`` and ``key`` (PEM)."""

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert = cert
        self._key = key
        self._seen: object = None
        self._pair: Pair | None = None
        self.problem = ""
        """What is wrong with the files as they are now."""

    @property
    def expires(self) -> datetime | None:
        """When the certificate that is served ends."""
        return self._pair.expires if self._pair is not None else None

    async def look(self) -> bool:
        """Take the pair if the files have changed; says whether there is one to serve. A bad pair replaces no good one."""
        seen = _stamp(self._cert), _stamp(self._key)
        if seen != self._seen:
            self._seen = seen
            try:
                self._pair = await asyncio.to_thread(read_pair, self._cert, self._key)
            except CertificateError as error:
                self.problem = str(error)
                if self._pair is not None:
                    log.warning("TLS: the changed pair is not served, the old one still is: %s", error)
            else:
                self.problem = ""
                log.info("TLS: serving %s, which ends %s", self._cert, self._pair.expires.isoformat())
        return self._pair is not None

    async def until_there(self, stop: asyncio.Event, missing: Callable[[str], None]) -> bool:
        """Return True once there is a pair, False at ``stop``; ``missing`` is told what is wrong meanwhile."""
        while not stop.is_set():
            if await self.look():
                return True
            missing(self.problem)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await stop.wait()
        return False

    async def watch(self) -> None:
        """Once there is a pair, look at the files now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if self._pair is not None:
                await self.look()

    def context(self) -> ssl.SSLContext:
        """What a port is opened with, once: its handshakes are served by the pair that is the newest then."""
        assert self._pair is not None
        context = _context()
        context.sni_callback = self._choose
        return context

    def _choose(self, handshake: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        assert self._pair is not None
        handshake.context = self._pair.context

    def warning(self) -> str:
        """What is wrong though TLS is served; empty when nothing is."""
        if self._pair is None:
            return ""
        if self.problem:
            return f"TLS: the changed pair is not served, the old one still is: {self.problem}"
        if self._pair.expires <= datetime.now(UTC):
            return f"TLS: certificate {self._cert} ended {self._pair.expires.isoformat()}: clients refuse it"
        return ""


def read_pair(cert: Path, key: Path) -> Pair:
    """The pair in these files. Blocks; raises `CertificateError`."""
    shown = _first_of(cert)
    private = _read(key, "key")
    try:
        own = load_pem_private_key(private, password=None).public_key()
    except TypeError as error:
        raise CertificateError(
            f"key {key} is encrypted: there is nobody to ask for its passphrase"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"key {key} holds no private key in PEM") from error
    if _spki(own) != _spki(shown.public_key()):
        raise CertificateError(f"key {key} does not match certificate {cert}")
    context = _context()
    try:
        context.load_cert_chain(cert, key, password="")
    except (OSError, ValueError) as error:  # it has changed since, or OpenSSL finds it too weak
        raise CertificateError(f"certificate {cert} with key {key}: {error}") from error
    return Pair(context, shown.not_valid_after_utc)


def _first_of(cert: Path) -> x509.Certificate:
    """The first certificate of a PEM file, which is the server's own. Raises `CertificateError`."""
    try:
        return x509.load_pem_x509_certificate(_read(cert, "certificate"))
    except ValueError as error:
        raise CertificateError(f"certificate {cert} holds no certificate in PEM") from error


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CertificateError(f"{what} {path} is missing") from error
    except OSError as error:
        raise CertificateError(f"{what} {path} is unreadable: {error.strerror}") from error


def _context() -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _spki(key: object) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined] # every kind of public key has it
    return found


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_mtime_ns, found.st_size, found.st_ino
