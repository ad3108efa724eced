"""The worker that is measured: `pyworker run` takes this file, as it takes any author's."""

from benchmarks.jobs import ROUTES
from pyworker import HandlerConfig, LogActionConfig, WorkerConfig, setting

config = WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=setting("MODEL_SERVER_PORT", 18000),
    model_log_file=setting("MODEL_SERVER_LOG", "model.log"),
    model_healthcheck_url="/health",
    handlers=[
        HandlerConfig(route=route, allow_parallel_requests=True, max_queue_time=None) for route in ROUTES
    ],
    log_action_config=LogActionConfig(on_load=["model loaded"]),
)
