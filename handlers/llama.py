"""llama.cpp's server, ``llama-server`` (or the same inside Python: xllamacpp).

It listens within milliseconds and answers 503 "Loading model" until its weights are in memory. Its own queue is its
slots (``-np``): more requests than slots wait inside it.
"""

from handlers import openai_api
from pyworker import LogActionConfig, Worker, WorkerConfig, setting

config = WorkerConfig(
    model_server_url=setting("MODEL_SERVER_URL", "http://127.0.0.1"),
    model_server_port=setting("MODEL_SERVER_PORT", 18000),
    model_log_file=setting("MODEL_LOG", "/var/log/portal/llama.log"),
    model_healthcheck_url="/health",
    handlers=openai_api.handlers(
        model=setting("MODEL_NAME", ""),
        runs=setting("BENCHMARK_RUNS", 8),
        concurrency=setting("BENCHMARK_CONCURRENCY", 10),
        max_tokens=setting("BENCHMARK_TOKENS", 256),
    ),
    log_action_config=LogActionConfig(
        on_load=["model loaded"],
        on_error=[
            "error loading model:",
            "exiting due to model loading error",
            "exiting due to HTTP server error",
            "failed to load model",
            "error: invalid argument",
            "CUDA error",
        ],
        on_info=["loading model", "listening on"],
    ),
)

if __name__ == "__main__":
    Worker(config).run()
