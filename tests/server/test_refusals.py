"""Refusals: one id for the client and the log, and never many lines."""

import asyncio
import json
import logging
import re

import pytest

from pyworker.core.errors import BadSignature, InvalidRequest, NotReady, Refusal
from pyworker.server import refusals
from pyworker.server.refusals import RefusalLog, request_id
from tests.system import Start, System, eventually


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyworker")


@pytest.mark.parametrize("own", ["r-1", "x" * 128, "{a}"])
def test_a_client_s_own_id_is_kept(own: str) -> None:
    assert request_id(own) == own


@pytest.mark.parametrize("own", ["", "x" * 129, "a b", "a\nb", "\u00fc", "\x7f", "a\x00"])
def test_one_that_has_no_place_in_a_log_line_is_not(own: str) -> None:
    found = request_id(own)

    assert re.fullmatch("[0-9a-f]{16}", found)
    assert request_id(own) != found


async def told_of(system: System, data: bytes) -> tuple[bytes, str]:
    """First line and request id of the answer to ``data``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", system.settings.worker_port)
    writer.write(data)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    found = re.search(rb"X-Request-Id: (\S+)", head)
    assert found is not None
    return head.partition(b"\r\n")[0], found[1].decode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 422),
        (b"POST /nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 404),
        (b"PUT /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 405),
        (b"banana\r\n\r\n", 400),
    ],
)
async def test_the_id_is_in_answer_and_log(
    start: Start, caplog: pytest.LogCaptureFixture, data: bytes, status: int
) -> None:
    system = await start()
    line, number = await told_of(system, data)

    assert line.split()[1] == str(status).encode()
    assert f"refused: status={status} id={number} " in caplog.text


async def test_a_request_that_needs_no_task_has_its_id_too(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start()
    assert await system.client.status() == 200
    await system.model.stop()
    async with system.client.post(headers={"X-Request-Id": "mine"}) as answer:
        assert (answer.status, answer.headers["X-Request-Id"]) == (502, "mine")

    assert "refused: status=502 id=mine what='POST /x' why=" in caplog.text


async def test_no_line_can_be_forged_and_no_query_is_in_it(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    system = await start()
    path = b"/\xc3\xa4?api_key=SECRET"
    await told_of(system, b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" % path)
    envelope = system.client.envelope(url="http://x\nrefused: status=200\ud800")
    assert await system.client.status(body=json.loads(json.dumps(envelope))) in {401, 422}

    assert "SECRET" not in caplog.text
    assert "\nrefused: status=200" not in caplog.text
    caplog.text.encode()  # a lone surrogate would break the log's own file


async def test_a_reason_stays_in_its_line(caplog: pytest.LogCaptureFixture) -> None:
    RefusalLog().answer(Refusal("a\nrefused: status=200 \ud800"), None)

    assert "\nrefused: status=200" not in caplog.messages[0]
    assert caplog.messages[0].isascii()


async def test_a_flood_is_a_few_lines_and_a_sum(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "SUM_UP_AFTER", 0.05)
    lines = RefusalLog()
    for _ in range(1000):
        lines.answer(BadSignature("bad"), None)

    said = caplog.text.count("refused: status=401")
    assert refusals.BURST <= said < refusals.BURST + 5
    await eventually(lambda: f"refused: {1000 - said} more" in caplog.text)

    lines.answer(BadSignature("bad"), None)  # and the counting begins anew
    await eventually(lambda: "refused: 1 more" in caplog.text)


async def test_lines_come_again_after_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "EVERY", 0.01)
    lines = RefusalLog()
    for _ in range(200):
        lines.answer(BadSignature("bad"), None)
    caplog.clear()
    await asyncio.sleep(0.1)
    for _ in range(3):
        lines.answer(BadSignature("bad"), None)

    assert caplog.text.count("refused: status=401") == 3


async def test_what_is_not_the_client_s_doing_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    for refusal in (Refusal("ours"), InvalidRequest({"x": "y"}), NotReady("not yet")):
        RefusalLog().answer(refusal, None)

    assert ["WARNING", "INFO", "INFO"] == [record.levelname for record in caplog.records]


async def test_a_refusal_as_bytes_is_one_answer() -> None:
    raw = RefusalLog().as_bytes(NotReady("wait", retry_after=1.5))
    head, _, body = raw.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: 2" in head
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert json.loads(body) == {"error": "wait"}
