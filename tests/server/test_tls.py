"""TLS on the public port, with certificates made on the fly, asked by openssl and curl."""

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from pyworker.server import tls, tls_port
from pyworker.server.app import Listener
from pyworker.server.ports import PortTaken
from pyworker.server.refusals import RefusalLog
from pyworker.server.tls import Certificate, CertificateError, read_pair
from tests.certificates import make_certificate
from tests.system import Start, System, eventually, free_port


@pytest.fixture
def cert(tmp_path: Path) -> Path:
    return tmp_path / "instance.crt"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "instance.key"


def secured(cert: Path, key: Path) -> dict[str, str]:
    return {"USE_SSL": "true", "SSL_CERT_FILE": str(cert), "SSL_KEY_FILE": str(key)}


async def program(*command: str, stdin: bytes = b"") -> tuple[int, bytes]:
    """Status and output of a program."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(15):
        output, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output


async def s_client(system: System, *options: str) -> tuple[int, bytes]:
    where = f"127.0.0.1:{system.settings.worker_port}"
    return await program("openssl", "s_client", "-connect", where, *options)


@pytest.mark.parametrize(
    ("option", "taken"),
    [("-tls1", False), ("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)],
)
async def test_tls_1_2_and_newer(start: Start, cert: Path, key: Path, option: str, taken: bool) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    weak = [] if taken else ["-cipher", "ALL:@SECLEVEL=0"]  # else openssl itself would not even ask
    status, told = await s_client(system, option, *weak, "-CAfile", str(cert), "-verify_return_error")

    assert (status == 0) == taken
    assert (b"Cipher is (NONE)" not in told) == taken
    assert not taken or b"Verify return code: 0 (ok)" in told


async def test_no_older_one_is_even_offered(cert: Path, key: Path) -> None:
    """Whatever this machine's OpenSSL would take."""
    make_certificate(cert, key)
    certificate = Certificate(cert, key)
    assert await certificate.look()

    contexts = (certificate.context(), read_pair(cert, key).context)
    assert {ssl.TLSVersion.TLSv1_2} == {context.minimum_version for context in contexts}


async def test_http_1_1_is_agreed_on_with_or_without_a_name(start: Start, cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    for name in (["-servername", "example.com"], ["-noservername"]):
        _, told = await s_client(system, *name, "-alpn", "h2,http/1.1")

        assert b"ALPN protocol: http/1.1" in told


async def test_curl_is_served(start: Start, cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    status, told = await program(
        "curl", "--silent", "--show-error", "--cacert", str(cert), "--data-binary", "@-", system.client.url + "/x",
        stdin=json.dumps(system.client.envelope()).encode(),
    )  # fmt: skip

    assert (status, json.loads(told)) == (0, {"echo": {"prompt": "hi"}})


async def serial(system: System) -> bytes:
    """The serial number of the certificate that a new connection gets."""
    _, told = await s_client(system)
    status, found = await program("openssl", "x509", "-noout", "-serial", stdin=told)
    assert status == 0
    return found


async def test_a_changed_pair_is_served_to_new_connections_and_open_ones_stay(
    start: Start, cert: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.05)
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    before = await serial(system)
    trusting = ssl.create_default_context(cafile=str(cert))
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port, ssl=trusting)

    key.write_bytes(b"half a key")  # a pair is not replaced at once
    await eventually_warned(system, f"key {key} holds no private key")
    assert await serial(system) == before

    make_certificate(cert, key)
    await eventually_warned(system, "")
    assert await serial(system) != before
    assert await asked_on(reader, writer, system) == b"HTTP/1.1 200 OK\r\n"
    writer.close()


async def asked_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, system: System) -> bytes:
    body = json.dumps(system.client.envelope()).encode()
    writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with asyncio.timeout(5):
        return await reader.readline()


async def eventually_warned(system: System, what: str) -> None:
    """Wait until status warns of ``what``; of nothing, when it is empty."""
    async with asyncio.timeout(5):
        while True:
            warnings = (await system.status())["warnings"]
            if any(what in one for one in warnings) if what else not warnings:
                return
            await asyncio.sleep(0.01)


async def test_reporting_begins_without_a_certificate_and_serving_once_it_is_there(
    start: Start, cert: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_EVERY", 0.05)
    system = await start(ready=False, **secured(cert, key))

    def told(why: str) -> None:
        assert system.engine.reports[-1].error_msg == f"TLS: {why}"

    await eventually(lambda: system.engine.reports and system.engine.reports[-1].error_msg)
    told(f"certificate {cert} is missing")

    make_certificate(cert, key)
    await system.until_state("ready")
    assert await serial(system)
    await eventually(lambda: not system.engine.reports[-1].error_msg)
    assert (await system.status())["certificate"]["problem"] == ""


async def said_to(system: System, data: bytes) -> bytes:
    """What comes back when ``data`` is the first that is said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(data)
    async with asyncio.timeout(5):
        told = await reader.read()
    writer.close()
    return told


async def test_plain_bytes_are_told_that_this_is_tls(start: Start, cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    told = await said_to(system, b"POST /x HTTP/1.1\r\nHost: x\r\n\r\n")

    assert told.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(told.partition(b"\r\n\r\n")[2]) == {"error": "this port speaks TLS: ask for https://"}
    assert not system.engine.ended


async def test_a_handshake_that_is_none_is_cut(
    start: Start, cert: Path, key: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))

    assert b"HTTP" not in await said_to(system, b"\x16\x03\x01\xff\xff" + b"x" * 99)
    assert "Traceback" not in caplog.text
    assert not system.engine.ended


@pytest.mark.parametrize("word", [b"", b"\x16\x03\x01"], ids=["silent", "half_a_hello"])
async def test_who_takes_too_long_to_begin_is_cut(
    start: Start, cert: Path, key: Path, monkeypatch: pytest.MonkeyPatch, word: bytes
) -> None:
    monkeypatch.setattr(tls_port, "HANDSHAKE", 0.2)
    make_certificate(cert, key)
    system = await start(**secured(cert, key))

    assert await said_to(system, word) == b""


@pytest.mark.parametrize("word", [b"", b"\x16\x03\x01"], ids=["silent", "half_a_hello"])
async def test_of_those_who_have_not_begun_the_oldest_has_to_go(
    start: Start, cert: Path, key: Path, monkeypatch: pytest.MonkeyPatch, word: bytes
) -> None:
    monkeypatch.setattr(tls_port, "SILENT", 2)
    monkeypatch.setattr(tls_port, "SHAKING", 2)
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    held = []
    for _ in range(3):
        held.append(await asyncio.open_connection("127.0.0.1", system.settings.worker_port))
        held[-1][1].write(word)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await held[0][0].read() == b""
    assert await serial(system)
    for _, writer in held:
        writer.close()


async def test_both_families_are_listened_on(start: Start, cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    system = await start(**secured(cert, key))
    for host in ("127.0.0.1", "::1"):
        context = ssl.create_default_context(cafile=str(cert))
        context.check_hostname = False
        reader, writer = await asyncio.open_connection(host, system.settings.worker_port, ssl=context)
        assert await asked_on(reader, writer, system) == b"HTTP/1.1 200 OK\r\n"
        writer.close()


async def test_a_taken_port_is_told_under_tls_too(cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    certificate = Certificate(cert, key)
    assert await certificate.look()
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        listener = Listener(nobody, refusals=RefusalLog(), max_body_size=1)
        with pytest.raises(PortTaken, match=f"port {port} is taken by pid"):
            await listener.open(None, port, certificate.context())
        await listener.close()


async def nobody(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError


# What can be wrong with the files...


def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def test_a_key_of_another_certificate_is_named(cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    other = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key.write_bytes(other)

    with pytest.raises(CertificateError, match=f"^key {key} does not match certificate {cert}$"):
        read_pair(cert, key)


def test_an_encrypted_key_is_not_asked_for_its_passphrase(cert: Path, key: Path) -> None:
    make_certificate(cert, key)
    locked = private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    key.write_bytes(locked)

    with pytest.raises(CertificateError, match=f"^key {key} is encrypted"):
        read_pair(cert, key)


@pytest.mark.parametrize(
    ("which", "content", "why"),
    [
        ("cert", None, "certificate {} is missing"),
        ("key", None, "key {} is missing"),
        ("cert", b"", "certificate {} holds no certificate in PEM"),
        ("key", b"\xff", "key {} holds no private key in PEM"),
        ("cert", "folder", "certificate {} is unreadable: Is a directory"),
        ("key", "folder", "key {} is unreadable: Is a directory"),
    ],
)
def test_a_wrong_file_is_named(
    cert: Path, key: Path, which: str, content: bytes | str | None, why: str
) -> None:
    make_certificate(cert, key)
    path = {"cert": cert, "key": key}[which]
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)

    with pytest.raises(CertificateError) as error:
        read_pair(cert, key)

    assert str(error.value) == why.format(path)


def test_what_openssl_finds_too_weak_is_named(cert: Path, key: Path) -> None:
    make_certificate(cert, key, bits=1024)

    with pytest.raises(CertificateError, match=f"^certificate {cert} with key {key}: .*KEY_TOO_SMALL"):
        read_pair(cert, key)


async def test_a_certificate_that_has_ended_is_a_warning(cert: Path, key: Path) -> None:
    make_certificate(cert, key, days=-1)
    certificate = Certificate(cert, key)
    assert certificate.warning() == ""
    assert await certificate.look()

    assert certificate.warning().startswith(f"TLS: certificate {cert} ended 20")
