# A module of a package, with a lifecycle of its own, started in a loop that runs already.
import asyncio
import os
from contextlib import asynccontextmanager
from pathlib import Path

from vastai import HandlerConfig, LogActionConfig, Worker, WorkerConfig

from . import price
from .price import pixels


@asynccontextmanager
async def model():
    Path("entered").write_text("yes")
    try:
        yield
    finally:
        Path("left").write_text("yes")


async def main():
    worker = Worker(
        WorkerConfig(
            model_server_url="http://127.0.0.1",
            model_server_port=int(os.environ["MODEL_PORT"]),
            handlers=[
                HandlerConfig(route="/draw", workload_calculator=pixels),
                HandlerConfig(route="/other", workload_calculator=price.pixels),
            ],
            benchmark_route="/draw",
            benchmark_data=[{"width": 100, "height": 100}],
            lifecycle=model(),
            log_action_config=LogActionConfig(),
            max_sessions=2,
        )
    )
    await worker.run_async(reuse_address=True)


asyncio.run(main())
