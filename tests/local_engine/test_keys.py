"""The signing key: kept, private, and vouching for URLs."""

import base64
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pyworker.core.errors import BadSignature
from pyworker.core.signature import Verifier, read_public_key
from pyworker.local_engine import keys as keys_module
from pyworker.local_engine.keys import KEY_FILE, KeyFileError, Keys

URL = "http://10.0.0.1:4000"


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys.load(None)


def test_a_signature_holds_for_its_url_alone(keys: Keys) -> None:
    verifier = Verifier(own_url=URL, allowed_urls=["*"])
    verifier.use_key(read_public_key(keys.public_pem))
    verifier.check(URL, keys.sign(URL))

    with pytest.raises(BadSignature):
        verifier.check("http://10.0.0.1:4001", keys.sign(URL))


def test_the_key_has_2048_bits(keys: Keys) -> None:
    assert 2048 == read_public_key(keys.public_pem).key_size


def test_signing_again_gives_the_same_remembered_text(keys: Keys) -> None:
    first = keys.sign(URL)

    assert first is keys.sign(URL)
    assert 256 == len(base64.b64decode(first, validate=True))


def test_signatures_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch, keys: Keys) -> None:
    monkeypatch.setattr(keys_module, "REMEMBERED", 2)
    for port in range(5):
        keys.sign(f"http://10.0.0.2:{port}")

    assert len(keys._signatures) <= 2


def test_two_keys_without_a_folder_differ(keys: Keys) -> None:
    assert keys.public_pem != Keys.load(None).public_pem


def test_a_folder_keeps_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "engine"
    first = Keys.load(folder)
    second = Keys.load(folder)

    assert first.public_pem == second.public_pem
    assert first.sign(URL) == second.sign(URL)
    assert [KEY_FILE] == [path.name for path in folder.iterdir()]


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "engine"
    Keys.load(folder)

    assert (0o600, 0o700) == (mode(folder / KEY_FILE), mode(folder))


def test_a_key_left_open_is_closed(tmp_path: Path) -> None:
    Keys.load(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    Keys.load(tmp_path)

    assert 0o600 == mode(tmp_path / KEY_FILE)


@pytest.mark.parametrize(
    "text", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_spoilt_file_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(text)

    with pytest.raises(KeyFileError, match=f"{KEY_FILE} holds no private key.*delete it"):
        Keys.load(tmp_path)


def test_a_key_of_another_kind_is_named(tmp_path: Path) -> None:
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / KEY_FILE).write_bytes(other)

    with pytest.raises(KeyFileError, match="holds no RSA key"):
        Keys.load(tmp_path)


def test_a_folder_that_cannot_be_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        Keys.load(tmp_path / "file")


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        Keys.load(tmp_path)

    assert [] == list(tmp_path.iterdir())


def test_the_root_certificate_signs_itself_and_others(keys: Keys) -> None:
    root = x509.load_pem_x509_certificate(keys.root_certificate)
    root.verify_directly_issued_by(root)
    basic = root.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)

    assert (True, True, True) == (basic.value.ca, basic.critical, usage.value.key_cert_sign)
    assert read_public_key(keys.public_pem) == root.public_key()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
