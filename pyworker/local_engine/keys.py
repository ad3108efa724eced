"""The key that signs grants, and the root certificate made from it.

Kept in a folder when there is one, so that workers and clients that know the key still know it after a restart.
"""

import base64
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from pyworker.core.wire import signed_message

KEY_FILE: Final = "signing_key.pem"
REMEMBERED: Final = 1024
"""Signatures kept: one for each worker's URL, and there are hardly more workers on one machine."""

ROOT_NAME: Final = "PyWorker local engine"
ROOT_LIFETIME: Final = timedelta(days=3650)
CLOCK_SKEW: Final = timedelta(days=1)
"""How far behind ours the clock of whoever reads the certificate may be."""


class KeyFileError(OSError):
    """The file that should hold the signing key does not."""


class Keys:
    """A signing key and what others may know of it."""

    def __init__(self, private: RSAPrivateKey) -> None:
        self._private = private
        self._signatures: dict[str, str] = {}
        self.public_pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        # Made anew at each start: what an earlier one signed still verifies, as name and key are the same.
        self.root_certificate = _root_certificate(private).public_bytes(Encoding.PEM)

    @classmethod
    def load(cls, folder: Path | None) -> "Keys":
        """The key kept in ``folder``, made on the first call; with None a new one that nobody keeps.

        Blocks (making a key takes some 100 ms). Raises OSError, `KeyFileError` included.
        """
        if folder is None:
            return cls(_new_key())
        path = folder / KEY_FILE
        if not path.exists():
            _write_key(path, _new_key())
        return cls(_read_key(path))

    def sign(self, url: str) -> str:
        """The grant's signature for the worker at ``url``, in base64."""
        signature = self._signatures.get(url)
        if signature is None:
            raw = self._private.sign(signed_message(url), PKCS1v15(), SHA256())
            signature = base64.b64encode(raw).decode()
            if len(self._signatures) >= REMEMBERED:
                del self._signatures[next(iter(self._signatures))]
            # PKCS #1 v1.5 is deterministic: signing again would give the same.
            self._signatures[url] = signature
        return signature


def _new_key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=2048)


def _write_key(path: Path, key: RSAPrivateKey) -> None:
    """Write a key that only its owner can read; a file that is there is whole, whenever the machine stops."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor, name = tempfile.mkstemp(prefix=f".{KEY_FILE}.", dir=path.parent)  # with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _read_key(path: Path) -> RSAPrivateKey:
    path.chmod(0o600)  # whoever copied it here may have left it open to all
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path} holds no private key ({error}); delete it to have a new one made"
        ) from error
    if not isinstance(key, RSAPrivateKey):
        raise KeyFileError(
            f"{path} holds no RSA key but {type(key).__name__}; delete it to have a new one made"
        )
    return key


def _root_certificate(key: RSAPrivateKey) -> x509.Certificate:
    """A self-signed certificate authority, as clients load it into their trust store."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, ROOT_NAME)])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + ROOT_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
