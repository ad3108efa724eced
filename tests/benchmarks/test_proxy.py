"""The benchmark's command, run as a user runs it, as short as it goes."""

import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def test_it_measures_and_leaves_nothing_behind(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.proxy", "--only", "small-32,answer-1m", "--peers", "pyworker,aiohttp,direct",
        "--rounds", "1", "--seconds", "0.2", "--json", report,
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, told = await process.communicate()
    found = json.loads(report.read_text())

    assert process.returncode == 0, told.decode()
    assert found["failures"] == []
    assert [row["case"] for row in found["rows"]] == ["small-32", "answer-1m"]
    assert all(0 < row["median"]["pyworker"] < row["median"]["aiohttp"] * 2 for row in found["rows"])
    assert "not judged: no figure of nginx" in out.decode()


async def test_a_wrong_name_says_which_there_are() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.proxy", "--only", "smal",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, told = await process.communicate()

    assert process.returncode == 2
    assert "'smal': there are small-32, small-256" in told.decode()
