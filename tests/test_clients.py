"""Real clients against the whole system with a real llama.cpp server: the official SDK, the OpenAI SDK, curl."""

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio

from tests.instance.local_run import LocalRun, local_run

ROOT = Path(__file__).parents[1]
SDK = Path(os.environ.get("PYWORKER_SDK_PYTHON", ROOT / ".venv-sdk" / "bin" / "python"))
CHAT = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16, "temperature": 0}

SDK_SCRIPT = """
import asyncio, json, sys
from vastai import CoroutineServerless
U = sys.argv[1]
CoroutineServerless.SSL_CERT_URL = U + "/static/jvastai_root.cer"
CHAT = json.loads(sys.argv[2])

async def main():
    async with CoroutineServerless("local", autoscaler_url=U, webserver_url=U) as client:
        endpoint = await client.get_endpoint("local")
        unary = await endpoint.request("/v1/chat/completions", CHAT, cost=16)
        stream = await endpoint.request("/v1/chat/completions", {**CHAT, "stream": True}, cost=16, stream=True)
        events = [event async for event in stream["response"]]
        workers = await client.get_endpoint_workers(endpoint)
        print(json.dumps({
            "unary": unary["response"], "ok": unary["ok"], "events": events,
            "workers": [[worker.id, worker.status, worker.perf, worker.cur_load] for worker in workers],
        }))
asyncio.run(main())
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalRun]:
    async with local_run(tmp_path_factory.mktemp("local")) as run:
        await run.until_printed("Ctrl-C")
        yield run


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


async def status(run: LocalRun) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{run.worker_port + 2}/pyworker/status") as answer,
    ):
        found: dict[str, Any] = await answer.json()
        return found


async def grant(run: LocalRun, cost: float = 16) -> dict[str, Any]:
    body = {"endpoint": "local", "api_key": "local", "cost": cost, "request_idx": 0}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{run.engine_url}/route/", json=body) as answer,
    ):
        found: dict[str, Any] = await answer.json()
        return found


async def test_the_official_sdk(system: LocalRun) -> None:
    if not SDK.exists():
        if os.environ.get("CI"):
            pytest.fail(f"the official SDK is not at {SDK}; tests/run.sh installs it")
        pytest.skip(f"the official SDK is not at {SDK}")
    before = (await status(system))["requests"]["served"]["count"]
    environment = {**os.environ, "VASTAI_NO_UPDATE_CHECK": "1", "HOME": str(system.folder)}
    process = await asyncio.create_subprocess_exec(
        str(SDK),
        "-c",
        SDK_SCRIPT,
        system.engine_url,
        json.dumps(CHAT),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0
    found = json.loads(out)
    assert found["ok"]
    text = found["unary"]["choices"][0]["message"]["content"]
    pieces = [
        choice["delta"].get("content") or "" for event in found["events"] for choice in event["choices"]
    ]
    assert text
    assert "".join(pieces) == text
    [[number, state, perf, _]] = found["workers"]
    assert (number, state) == (1, "idle")
    assert perf > 0
    assert (await status(system))["requests"]["served"]["count"] == before + 2


async def test_the_unchanged_openai_sdk_with_a_grant_in_a_header(system: LocalRun) -> None:
    auth = await grant(system)
    header = base64.b64encode(json.dumps(auth).encode()).decode()
    async with openai.AsyncOpenAI(
        api_key="none", base_url=auth["url"] + "/v1", default_headers={"X-Auth-Data": header}, max_retries=0
    ) as client:
        stream = await client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=16,
            temperature=0,
            stream=True,
        )
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]

    assert "".join(pieces).strip()


async def test_the_curl_line_that_local_mode_prints(system: LocalRun) -> None:
    command = "\n".join(line.strip() for line in system.printed.partition("curl -sN")[1:][1].splitlines()[:3])
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    ended = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", "curl -sN " + command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0
    assert ended.stdout.rstrip().endswith("data: [DONE]")


async def test_the_printed_sdk_snippet_is_what_it_says(system: LocalRun) -> None:
    if not SDK.exists():
        pytest.skip(f"the official SDK is not at {SDK}")
    snippet = system.printed.partition("in an environment of its own)\n")[2].partition("asyncio.run(main())")
    code = "\n".join(line.removeprefix("    ") for line in (snippet[0] + snippet[1]).splitlines())
    ended = await asyncio.to_thread(
        subprocess.run, [str(SDK), "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "HOME": str(system.folder)},
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert "chat.completion" in ended.stdout


async def test_a_client_that_leaves_frees_the_slot_of_the_model_server(system: LocalRun) -> None:
    auth = await grant(system, 1000)
    envelope = {
        "auth_data": auth,
        "session_id": None,
        "payload": {**CHAT, "max_tokens": 1000, "stream": True},
    }
    log = system.folder / "model.log"
    cancelled = log.read_text().count("cancel task")
    async with aiohttp.ClientSession() as session:
        answer = await session.post(auth["url"] + "/v1/chat/completions", json=envelope)
        await answer.content.readany()
        answer.close()
    async with asyncio.timeout(5):
        while log.read_text().count("cancel task") == cancelled:
            await asyncio.sleep(0.05)

    assert (await status(system))["requests"]["cancelled"]["count"] >= 1
