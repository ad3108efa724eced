"""One chat request the official way: ask the engine for a worker, send it the signed request, read the stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

CHAT = "/v1/chat/completions"


class AskError(Exception):
    """The request was not answered; says by whom and why."""


async def chat(
    session: aiohttp.ClientSession, *, engine: str, endpoint: str, api_key: str, prompt: str, max_tokens: int
) -> AsyncIterator[str]:
    """The generated text, piece by piece. Raises `AskError`; the caller limits the time."""
    payload = {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "temperature": 0.2,
    }
    auth_data = await _route(session, engine=engine, endpoint=endpoint, api_key=api_key, cost=max_tokens)
    envelope = {"auth_data": auth_data, "session_id": None, "payload": payload}
    async with session.post(auth_data["url"] + CHAT, json=envelope) as answer:
        if answer.status != 200:  # noqa: PLR2004
            raise AskError(f"the worker answered {answer.status}: {(await answer.text())[:300]}")
        async for event in _events(answer):
            if "error" in event:
                raise AskError(f"the model server says: {event['error']}")
            for choice in event.get("choices", []):
                yield choice.get("delta", {}).get("content") or ""


async def _route(
    session: aiohttp.ClientSession, *, engine: str, endpoint: str, api_key: str, cost: float
) -> dict[str, Any]:
    request: dict[str, Any] = {"endpoint": endpoint, "api_key": api_key, "cost": cost, "request_idx": 0}
    while True:
        async with session.post(f"{engine}/route/", json={**request, "replay_timeout": 60.0}) as answer:
            if answer.status != 200:  # noqa: PLR2004
                raise AskError(f"the engine answered {answer.status}: {(await answer.text())[:300]}")
            found: dict[str, Any] = await answer.json()
        if "url" in found:
            return found
        request["request_idx"] = found["request_idx"]
        await asyncio.sleep(0.2)


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream. Raises `AskError` when it breaks off before ``[DONE]``."""
    try:
        async for line in answer.content:
            data = line.strip().removeprefix(b"data:").strip()
            if data == b"[DONE]":
                return
            if line.startswith(b"data:") and data:
                yield json.loads(data)
    except (aiohttp.ClientError, ValueError) as error:
        raise AskError(f"the answer broke off: {error}") from error
    raise AskError("the answer ended before its [DONE]")
