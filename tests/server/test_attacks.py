"""Input of every kind gets a clear 4xx or a closed connection, moves no figure, and costs nobody else anything."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.server.test_proxy import nothing_counted
from tests.system import Model, Start, System, config_for, handler

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\n"
DEEP = b"[" * 200_000 + b"]" * 200_000


async def answered(system: System, data: bytes, *, within: float = 5.0, port: int = 0) -> tuple[int, Any]:
    """Status and JSON of the first answer to ``data``; status 0 when the connection is closed without one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port or system.settings.worker_port)
    try:
        async with asyncio.timeout(within):
            writer.write(data)
            return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return 0, None
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    assert fields[b"content-type"].startswith(b"application/json"), head
    status = int(head.split()[1])
    if status >= 400:
        assert fields[b"x-request-id"]
    return status, json.loads(await reader.readexactly(int(fields[b"content-length"])))


@contextmanager
def harmless(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No traceback, no error in the log."""
    yield
    assert "Traceback" not in caplog.text
    assert [] == [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


async def still_serving(system: System) -> None:
    """It is ready, nothing is in flight, and the books are balanced."""
    assert await system.client.status() == 200
    await system.until_in_flight(0)
    requests = (await system.status())["requests"]
    ended = sum(requests[name]["count"] for name in ("served", "failed", "cancelled", "rejected"))

    assert requests["received"]["count"] == ended
    assert requests["failed"]["count"] == 0


def framed(body: bytes, head: bytes = HEAD) -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


# What is no JSON, or not the JSON that is asked for...

BODIES = {
    "empty": b"",
    "text": b"hello",
    "half": b'{"auth_data": {',
    "more": b"{} {}",
    "null": b"null",
    "number": b"5",
    "string": b'"x"',
    "list": b"[{}]",
    "true": b"true",
    "object": b"{}",
    "utf8": b'{"auth_data": {"url": "\xff\xfe"}}',
    "overlong": b'{"auth_data": {"url": "\xc0\x80"}}',
    "utf16": '{"auth_data": {}}'.encode("utf-16"),
    "bom": b"\xef\xbb\xbf{}",
    "surrogate": b'{"auth_data": {"url": "\\ud800", "signature": "\\udfff"}, "payload": {}}',
    "nul": b"\0" * 100,
    "control": b'{"auth_data": "\x01\x02"}',
    "nan": b'{"auth_data": NaN}',
    "deep_list": DEEP,
    "deep_object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep_inside": b'{"auth_data": %b, "payload": {}}' % DEEP,
    "deep_payload": b'{"auth_data": {"url": "u", "signature": "s"}, "payload": %b}' % DEEP,
    "digits": b'{"auth_data": {"url": "u", "signature": "s", "cost": %b}}' % (b"9" * 100_000),
    "exponent": b'{"auth_data": {"url": "u", "signature": "s", "cost": 1e999999999}}',
    "auth_null": b'{"auth_data": null}',
    "auth_text": b'{"auth_data": "x"}',
    "auth_list": b'{"auth_data": [1]}',
    "auth_empty": b'{"auth_data": {}}',
    "twice": b'{"auth_data": {"url": "u"}, "auth_data": {"signature": "s"}}',
    "form": b"auth_data=x&payload=y",
    "comments": b'{"a": 1 /* x */}',
    "single": b"{'auth_data': {}}",
}


@pytest.mark.parametrize(
    "route", ["/x", "/session/create", "/session/get", "/session/end", "/session/health"]
)
async def test_what_is_no_envelope_is_422(start: Start, caplog: pytest.LogCaptureFixture, route: str) -> None:
    system = await start()
    head = HEAD.replace(b"/x", route.encode())
    with harmless(caplog):
        found = {name: (await answered(system, framed(body, head)))[0] for name, body in BODIES.items()}

    assert found == dict.fromkeys(BODIES, 422) | {
        name: 401 for name in ("deep_payload", "digits", "exponent") if found[name] == 401
    }
    assert nothing_counted(system)
    await still_serving(system)


ODD: list[Any] = [
    None, True, False, -1, 0, 1, 1.5, -0.0, 2**53, 2**63, 2**64, -(2**63), 1e308, 10**400, "", "x", "5", "-5", "NaN",
    "Infinity", "1e999", " 1 ", "\u0661", "\x00", "\u202e", "x" * 100_000, [], [1], {}, {"a": 1}, {"": None},
]  # fmt: skip


@pytest.mark.parametrize("name", ["cost", "endpoint", "reqnum", "request_idx", "url", "signature"])
async def test_no_kind_of_value_in_a_field_is_too_odd(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    system = await start(config_for(model, handler(max_queue_time=None)))
    with harmless(caplog):
        for value in ODD:
            body = json.dumps(system.client.envelope(**{name: value})).encode()
            status, told = await answered(system, framed(body))

            expected = {401, 422} if name in {"url", "signature"} else {200, 422}
            assert status in expected, (value, told)
            assert status != 422 or name in told.get("auth_data", {}), (value, told)
    await still_serving(system)


@pytest.mark.parametrize("name", ["session_id", "payload"])
async def test_no_kind_of_value_beside_the_grant_is_too_odd(
    start: Start, model: Model, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    system = await start(config_for(model, handler(max_queue_time=None)))
    with harmless(caplog):
        for value in ODD:
            body = json.dumps({**system.client.envelope(), name: value}).encode()
            status, told = await answered(system, framed(body))

            assert status in ({410, 422, 200} if name == "session_id" else {200, 422}), (value, told)
            assert (status == 200) == (value is None if name == "session_id" else isinstance(value, dict))
    await still_serving(system)


async def test_a_session_s_auth_of_every_kind_is_compared(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start()
    auth = system.client.auth()
    async with system.client.post("/session/create", {"auth_data": auth, "payload": {}}) as answer:
        session = (await answer.json())["session_id"]
    deep = DEEP.decode()
    wrong = [json.dumps(value) for value in ODD] + [deep, json.dumps({**auth, "more": 1}), "9" * 5000]
    with harmless(caplog):
        for text in wrong:
            body = f'{{"session_id": "{session}", "session_auth": {text}}}'.encode()
            for route in (b"get", b"health", b"end"):
                status, _ = await answered(system, framed(body, HEAD.replace(b"x", b"session/" + route, 1)))

                assert status in {401, 422}
        inside = f'{{"session_id": "{session}", "auth_data": {{"url": "{auth["url"]}", "signature": "{auth["signature"]}", '
        for text in (deep, "9" * 5000):
            body = (inside + f'"more": {text}}}, "payload": {{}}}}').encode()
            assert (await answered(system, framed(body)))[0] in {401, 422}

    call = {"session_id": session, "session_auth": auth}
    assert await system.client.status("/session/end", call) == 200


@pytest.mark.parametrize("priced", [False, True], ids=["plain", "priced"])
async def test_what_a_client_says_twice_is_said_once(start: Start, model: Model, priced: bool) -> None:
    """The model server gets the bytes that were priced; of two keys JSON readers take the last."""
    seen: list[float] = []

    def load(payload: dict[str, Any]) -> float:
        seen.append(payload["n"])
        return float(payload["n"])

    system = await start(config_for(model, handler(workload_calculator=load if priced else None)))
    auth = json.dumps(system.client.auth())
    for body in (
        f'{{"auth_data": {{"url": "u"}}, "auth_data": {auth}, "payload": {{"n": 1}}, "payload": {{"n": 2, "n": 3}}}}',
        f'{{"auth_data": {auth}, "payload": {{"n": 3}}}}',
    ):
        assert (await answered(system, framed(body.encode()))) == (200, {"echo": {"n": 3}})

    assert seen == ([3, 3] if priced else [])


HEADERS = {
    "no_base64": b"!!!",
    "no_json": base64.b64encode(b"{"),
    "list": base64.b64encode(b"[]"),
    "null": base64.b64encode(b"null"),
    "empty": b"",
    "utf8": b"\xff\xfe",
    "object": base64.b64encode(b"{}"),
    "deep": base64.b64encode(b"[" * 3000),
    "wrong_types": base64.b64encode(b'{"url": 5, "signature": []}'),
}


async def test_a_grant_header_of_every_kind_is_422(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    system = await start()
    with harmless(caplog):
        found = {
            name: (await answered(system, framed(b"{}", HEAD + b"X-Auth-Data: %b\r\n" % value)))[0]
            for name, value in HEADERS.items()
        }

    assert found == dict.fromkeys(HEADERS, 422)
    assert nothing_counted(system)


# What is no HTTP...


def broken(good: bytes) -> dict[str, bytes]:
    """Requests that are none, each with a good envelope in it that must not be served."""
    length = b"%d" % len(good)
    by_length = HEAD + b"Content-Length: %b\r\n\r\n" % length + good
    by_chunks = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

    def says(fields: bytes, body: bytes = good) -> bytes:
        return HEAD + fields + b"\r\n\r\n" + body

    return {
        "length_and_chunks": says(
            b"Content-Length: %b\r\nTransfer-Encoding: chunked" % length, chunked(good)
        ),
        "chunks_and_length": says(b"Transfer-Encoding: chunked\r\nContent-Length: 4", chunked(good)),
        "two_lengths": says(b"Content-Length: 0\r\nContent-Length: %b" % length),
        "same_length_twice": says(b"Content-Length: %b\r\nContent-Length: %b" % (length, length)),
        "length_list": says(b"Content-Length: %b, %b" % (length, length)),
        "length_plus": says(b"Content-Length: +%b" % length),
        "length_negative": says(b"Content-Length: -1"),
        "length_hex": says(b"Content-Length: 0x10"),
        "length_empty": says(b"Content-Length: "),
        "length_beyond": says(b"Content-Length: 99999999999999999999999"),
        "no_chunks": says(b"Transfer-Encoding: identity"),
        "chunks_twice": says(b"Transfer-Encoding: chunked, chunked", chunked(good)),
        "chunks_first": says(b"Transfer-Encoding: chunked, gzip", chunked(good)),
        "gzip_and_chunks": says(b"Transfer-Encoding: gzip, chunked", chunked(good)),
        "chunks_tab": says(b"Transfer-Encoding: \x0bchunked", chunked(good)),
        "xchunked": says(b"Transfer-Encoding: xchunked", chunked(good)),
        "space_before_colon": says(b"Transfer-Encoding : chunked", chunked(good)),
        "folded": says(b"Content-Length:\r\n %b" % length),
        "folded_other": says(b"X-A: a\r\n b\r\nContent-Length: %b" % length),
        "bare_lf": by_length.replace(b"\r\n", b"\n"),
        "one_bare_lf": by_length.replace(b"\r\n", b"\n", 1),
        "bare_lf_at_the_end": HEAD + b"Content-Length: %b\n\n" % length + good,
        "bare_cr": says(b"X-A: a\rb\r\nContent-Length: %b" % length),
        "nul_in_value": says(b"X-A: a\0b\r\nContent-Length: %b" % length),
        "nul_in_name": says(b"X\0A: a\r\nContent-Length: %b" % length),
        "no_colon": says(b"Content-Length"),
        "chunk_size_beyond": by_chunks + b"f" * 20 + b"\r\n" + good,
        "chunk_size_negative": by_chunks + b"-1\r\n" + good,
        "chunk_size_none": by_chunks + b"\r\n" + good,
        "chunk_size_garbage": by_chunks + b"0x5\r\n" + good,
        "chunk_bare_lf": by_chunks + b"%x\n%b\n0\n\n" % (len(good), good),
        "chunk_too_long": by_chunks + b"%x\r\n%bXX0\r\n\r\n" % (len(good), good),
        "no_host": by_length.replace(b"Host: x\r\n", b""),
        "two_hosts": says(b"Host: y\r\nContent-Length: %b" % length),
        "version_2": by_length.replace(b"HTTP/1.1", b"HTTP/2.0"),
        "version_9": by_length.replace(b"HTTP/1.1", b"HTTP/9.9"),
        "version_0": by_length.replace(b"HTTP/1.1", b"HTTP/0.9"),
        "no_version": by_length.replace(b" HTTP/1.1", b""),
        "small_letters": by_length.replace(b"POST", b"post"),
        "odd_method": by_length.replace(b"POST", b"FROB"),
        "long_method": by_length.replace(b"POST", b"P" * 100_000),
        "long_path": by_length.replace(b"/x", b"/" + b"x" * 100_000),
        "path_control": by_length.replace(b"/x", b"/x\x01"),
        "path_space": by_length.replace(b"/x", b"/x y"),
        "path_bytes": by_length.replace(b"/x", b"/\xff"),
        "no_url": by_length.replace(b"/x", b"http://[/x"),
        "500_headers": says(b"X-A: b\r\n" * 500 + b"Content-Length: %b" % length),
        "500_trailers": by_chunks + b"%x\r\n%b\r\n0\r\n" % (len(good), good) + b"X-A: b\r\n" * 500 + b"\r\n",
        "1_mb_header": says(b"X-A: " + b"a" * 2**20 + b"\r\nContent-Length: %b" % length),
        "1_mb_name": says(b"X" * 2**20 + b": a\r\nContent-Length: %b" % length),
        "h2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + b"\0" * 5 + by_length,
        "tls_hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500 + by_length,
        "socks": b"\x05\x01\x00" + by_length,
        "ssh": b"SSH-2.0-OpenSSH_9.6\r\n" + by_length,
        "nothing_but_nul": b"\0" * 1000 + by_length,
    }


async def test_what_is_no_http_is_refused_and_nothing_in_it_is_served(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start()
    good = json.dumps(system.client.envelope()).encode()
    heard = len(system.model.heard)
    with harmless(caplog):
        found = {name: (await answered(system, data))[0] for name, data in broken(good).items()}

    odd = {name: status for name, status in found.items() if status not in {0, 400}}
    assert odd == {"gzip_and_chunks": 415}
    assert len(system.model.heard) == heard
    assert nothing_counted(system)
    await still_serving(system)


async def test_what_follows_a_good_request_and_is_none_ends_the_connection(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """A request smuggled behind another: the first is answered, what follows is not served, whatever it says."""
    system = await start()
    with harmless(caplog):
        for name, data in broken(json.dumps(system.client.envelope()).encode()).items():
            if name == "gzip_and_chunks":
                continue
            first = framed(json.dumps(system.client.envelope()).encode())
            heard = len(system.model.heard)
            reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
            writer.write(first + data)
            async with asyncio.timeout(5):
                statuses = [(await read_answer(reader))[0] for _ in range(2)]
            writer.close()

            assert statuses in ([200, 400], [200, 0], [400, 0]), name
            assert len(system.model.heard) <= heard + 1, name
    await still_serving(system)


async def test_a_path_of_every_kind_is_404_or_405(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    system = await start()
    paths = [
        b"/", b"//x", b"/x/", b"/X", b"/x%00", b"/%zz", b"/..", b"/../../etc/passwd", b"/x/../../pyworker", b"/.env", b"*",
        b"/session", b"/session/", b"/pyworker", b"/x;a=b", b"/%2e%2e/x", b"/x%0d%0aX:%20y", b"http://evil/", b"/health",
    ]  # fmt: skip
    with harmless(caplog):
        for path in paths:
            for method in (b"GET", b"POST", b"OPTIONS", b"TRACE", b"DELETE"):
                head = b"%b %b HTTP/1.1\r\nHost: x\r\n" % (method, path)
                status, told = await answered(system, framed(b"{}", head))

                assert status in {400, 404}, (method, path, told)
        for method in (b"GET", b"OPTIONS", b"TRACE", b"PUT", b"CONNECT"):
            assert (await answered(system, framed(b"{}", HEAD.replace(b"POST", method))))[0] in {
                400,
                404,
                405,
            }
    assert nothing_counted(system)


@pytest.mark.parametrize("port", ["http_port", "admin_port"])
async def test_the_other_ports_fall_to_none_of_it(
    start: Start, caplog: pytest.LogCaptureFixture, port: str
) -> None:
    system = await start()
    good = json.dumps(system.client.envelope()).encode()
    local = HEAD.replace(b"/x", b"/session/end").replace(b"Host: x", b"Host: 127.0.0.1")
    inputs = [framed(body, local) for body in BODIES.values()] + list(broken(good).values())
    with harmless(caplog):
        for data in inputs:
            status, told = await answered(system, data, port=getattr(system.settings, port))

            assert status == 0 or 400 <= status < 500, (data[:100], told)
    assert nothing_counted(system)
    await still_serving(system)


async def test_tls_on_the_plain_port_is_told_off_in_plain_words(start: Start) -> None:
    system = await start()
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 500

    assert await answered(system, hello) == (400, {"error": "the request is not valid HTTP"})


# Too much, too slowly, too many...


async def test_a_body_that_only_announces_itself_takes_no_memory(start: Start) -> None:
    system = await start()
    status, told = await answered(system, HEAD + b"Content-Length: 4611686018427387904\r\n\r\n{")

    assert (status, list(told)) == (413, ["error"])


# What has a grant ends in the books, whatever becomes of it...


@pytest.mark.parametrize("route", ["/x", "/session/create"])
@pytest.mark.parametrize(
    ("sent", "ends"),
    [
        (b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n{", "Cancelled"),
        (b"Content-Length: 4611686018427387904\r\n\r\n{", "Rejected"),
        (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", "Rejected"),
        (b"Content-Length: 5\r\n\r\n{null", "Rejected"),
    ],
    ids=["leaves", "too_large", "compressed", "no_json"],
)
async def test_a_grant_in_a_header_whose_body_does_not_come_well_ends_all_the_same(
    start: Start, model: Model, route: str, sent: bytes, ends: str
) -> None:
    system = await start(config_for(model, handler(request_parser=dict)))
    grant = base64.b64encode(json.dumps(system.client.auth()).encode())
    head = HEAD.replace(b"/x", route.encode()) + b"X-Auth-Data: %b\r\n" % grant
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(head + sent)
    if ends == "Rejected":
        async with asyncio.timeout(5):
            assert (await read_answer(reader))[0] in {400, 413, 415, 422}
    else:
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.close()
    [end] = await system.until_settled(1)

    assert (end["status"], end["request_idx"]) == (ends, 1001)
    requests = (await system.status())["requests"]
    assert requests["in_flight"]["count"] == 0
    assert requests[ends.lower()]["count"] == 1
