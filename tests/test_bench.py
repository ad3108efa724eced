"""`pyworker bench` against a real server on a real port."""

import asyncio
import json
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from aiohttp import web

from tests.system import Model

CONFIG = """
from pyworker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port={port},
    handlers=[
        HandlerConfig(
            route="/x",
            allow_parallel_requests=True,
            benchmark_config=BenchmarkConfig(dataset=[{{"prompt": "hi"}}], runs=2, concurrency=2),
        )
    ],
)
Worker(config).run()
"""


async def bench(folder: Path, model: Model, *options: str) -> tuple[int, str, str]:
    """Exit status, what it printed, and what it complained of. The file runs its worker as it is loaded."""
    (folder / "mine.py").write_text(CONFIG.format(port=model.port))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pyworker", "bench", "mine.py", *options,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, complaints = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), complaints.decode()


async def test_a_table_and_a_plot(tmp_path: Path, model: Model) -> None:
    status, out, _ = await bench(tmp_path, model, "--runs", "3")

    assert status == 0
    assert len(model.heard) == 1 + 2 + 3 * 2
    for word in ("perf", "spread", "over 3 runs", "2 requests", "p50", "p95", "bench.svg"):
        assert word in out
    assert ET.parse(tmp_path / "bench.svg").getroot().tag.endswith("svg")  # noqa: S314 - our own


async def test_auto_as_json(tmp_path: Path, model: Model) -> None:
    async def respond(_: web.Request) -> web.StreamResponse:
        crowd = model.working
        await asyncio.sleep(0.03 * max(1, crowd / 2))
        return web.json_response({"ok": 1})

    model.respond = respond
    status, out, _ = await bench(tmp_path, model, "--auto", "--json", "--plot", "curve.svg")
    found = json.loads(out)

    assert status == 0
    assert found["concurrency"] in {1, 2, 4}
    assert [one["concurrency"] for one in found["curve"]][:2] == [1, 2]
    assert (tmp_path / "curve.svg").exists()


async def test_auto_as_a_table_marks_the_knee(tmp_path: Path, model: Model) -> None:
    status, out, _ = await bench(tmp_path, model, "--auto", "--runs", "1")

    assert status == 0
    assert "<- knee" in out


@pytest.mark.parametrize("options", [(), ("--plot", "no/such/folder.svg")], ids=["broken_server", "no_place"])
async def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, model: Model, options: tuple[str, ...]
) -> None:
    async def broken(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500, text="out of memory")

    model.respond = None if options else broken
    status, _, complaints = await bench(tmp_path, model, *options)

    assert status == 2
    expected = "the plot cannot be written to" if options else "answered 500: out of memory"
    assert expected in complaints
    assert "Traceback" not in complaints
