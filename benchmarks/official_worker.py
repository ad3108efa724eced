"""The official package's worker, set up as `pyworker_worker.py` is. Run in that package's environment, which has nothing of ours."""

import sys

from vastai.serverless.server.worker import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    Worker,
    WorkerConfig,
)


def config(port: int, log: str, routes: list[str]) -> WorkerConfig:
    """One handler a route. The package wants a benchmark; a file beside it says that it has been run."""
    return WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=port,
        model_log_file=log,
        model_healthcheck_url="/health",
        handlers=[
            HandlerConfig(
                route=route,
                allow_parallel_requests=True,
                max_queue_time=None,
                benchmark_config=BenchmarkConfig(dataset=[{}]) if route == routes[0] else None,
            )
            for route in routes
        ],
        log_action_config=LogActionConfig(on_load=["model loaded"]),
    )


if __name__ == "__main__":
    Worker(config(int(sys.argv[1]), sys.argv[2], sys.argv[3:])).run()
