"""Certificates made on the fly."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def make_certificate(cert: Path, key: Path, *, days: int = 1, bits: int = 2048) -> None:
    """A self-signed certificate for 127.0.0.1; the key is written first, so that a pair that exists is whole."""
    Authority(bits).issue(cert, key, days=days, signed=False)


class Authority:
    """A throw-away certificate authority."""

    def __init__(self, bits: int = 2048) -> None:
        self._key = rsa.generate_private_key(65537, bits)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throw-away authority")])
        self._usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        made = self._builder(self._name, self._key, days=1)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        made = made.add_extension(self._usage, critical=True)
        self.pem = made.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()
        """What who trusts it trusts."""

    def _builder(self, subject: x509.Name, key: rsa.RSAPrivateKey, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )

    def issue(
        self, cert: Path, key: Path, *, address: str = "127.0.0.1", days: int = 1, signed: bool = True
    ) -> None:
        """A certificate for ``address`` that is good for so many ``days`` more; not ``signed``: by its own key."""
        private = rsa.generate_private_key(65537, 2048) if signed else self._key
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)]) if signed else self._name
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
        made = self._builder(subject, private, days).add_extension(names, critical=False)
        made = made.add_extension(x509.BasicConstraints(ca=not signed, path_length=None), critical=True)
        if not signed:
            made = made.add_extension(self._usage, critical=True)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        cert.write_bytes(made.sign(self._key, SHA256()).public_bytes(Encoding.PEM))
