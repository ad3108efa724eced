"""Ten thousand connections that say nothing, held by another process."""

import asyncio
import contextlib
import resource
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.certificates import make_certificate
from tests.processes import WORKER_FILE, environment, started
from tests.system import Client, Model, eventually, free_port

MANY = 10_000

HOLDER = f"""
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
begun = {{"http": b"POST /x HTTP/1.1\\r\\nHost: x\\r\\nX-Slow: ", "https": b"\\x16\\x03\\x01"}}[sys.argv[2]]
for number in range({MANY}):
    one = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    if number % 2:
        try:
            one.send(begun)
        except ConnectionError:
            pass  # it has had to go
    held.append(one)
print(len(held), flush=True)
sys.stdin.read()
"""


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < MANY + 500,
    reason="this machine allows too few open files",
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_ten_thousand_idle_connections_keep_nobody_out(
    engine: Any, model: Model, tmp_path: Path, scheme: str
) -> None:
    port, cert, key = free_port(), tmp_path / "crt", tmp_path / "key"
    make_certificate(cert, key)
    environ = environment(
        engine.url, port, tmp_path, BENCHMARK_PERF="1000", SSL_CERT_FILE=str(cert), SSL_KEY_FILE=str(key),
        USE_SSL="true" if scheme == "https" else "false",
    )  # fmt: skip
    trust = ssl.create_default_context(cafile=str(cert))
    async with started(tmp_path, environ, WORKER_FILE.format(port=model.port)) as process:
        await eventually(lambda: engine.reports and engine.reports[-1].loadtime > 0, within=20)
        async with aiohttp.ClientSession() as session:
            client = Client(session, f"{scheme}://127.0.0.1:{port}", engine.keys.sign)
            assert await client.status(ssl=trust) == 200

            memory = psutil.Process(process.pid).memory_info
            before = memory().rss
            holder = await asyncio.create_subprocess_exec(
                sys.executable, "-c", HOLDER, str(port), scheme, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )  # fmt: skip
            assert holder.stdout is not None
            try:
                async with asyncio.timeout(60):
                    assert int(await holder.stdout.readline()) == MANY
                async with aiohttp.ClientSession() as fresh:
                    client.session = fresh
                    statuses = [
                        await client.status(ssl=trust) for _ in range(20)
                    ]  # after all of them in line
                taken = memory().rss - before
            finally:
                with contextlib.suppress(ProcessLookupError):
                    holder.kill()
                await holder.wait()
            client.session = session
            assert await client.status(ssl=trust) == 200

    assert statuses == [200] * 20
    assert taken < MANY * 16 * 1024
    assert "Traceback" not in (tmp_path / "worker.log").read_text()
