"""What handlers of OpenAI-compatible model servers share: routes, price in tokens, benchmark payloads."""

import random
from typing import Any

from pyworker import BenchmarkConfig, HandlerConfig

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

DEFAULT_MAX_TOKENS = 256
"""Load of a request that does not say how many tokens it wants at most."""

_WORDS = (
    "amber anchor autumn basket beacon bridge candle canyon castle cedar circle copper coral cotton desert ember feather "
    "forest garden glacier granite harbor hazel hollow island ivory jasmine kettle lantern ledger lemon marble meadow "
    "mirror morning mountain nectar needle nickel ocean orchard paper pebble pepper planet quartz quiet ribbon river "
    "saddle salmon silver spruce stone summer sunset thunder timber tunnel valley velvet violet walnut water willow winter"
).split()


def token_load(payload: dict[str, Any]) -> float:
    """Load of a request: the tokens it may generate."""
    for name in ("max_completion_tokens", "max_tokens"):
        if payload.get(name) is not None:
            return float(payload[name])
    return float(DEFAULT_MAX_TOKENS)


def prompt(words: int = 40) -> str:
    """Words drawn at random: a prompt no cache has seen."""
    return " ".join(random.choices(_WORDS, k=words))  # noqa: S311 - words, not a secret


def handlers(
    *, model: str = "", runs: int = 8, concurrency: int = 10, max_tokens: int = 256
) -> list[HandlerConfig]:
    """Completions and chat; chat carries the benchmark of ``runs`` rounds of ``concurrency`` requests."""

    def sample() -> dict[str, Any]:
        named = {"model": model} if model else {}
        return {**named, "messages": [{"role": "user", "content": prompt()}], "max_tokens": max_tokens}

    benchmark = BenchmarkConfig(generator=sample, runs=runs, concurrency=concurrency)
    return [
        HandlerConfig(
            route=CHAT,
            allow_parallel_requests=True,
            workload_calculator=token_load,
            benchmark_config=benchmark,
        ),
        HandlerConfig(route=COMPLETIONS, allow_parallel_requests=True, workload_calculator=token_load),
    ]
